"""The status page: one piece of HTML without data, made of the files in `page/`, which reads /v1/status in the browser.

Invariants: it needs nothing but itself and /v1/status, and the policy that is sent along lets the browser use nothing else:
style and script are named by their hashes, and no text can become markup (trusted types).
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from forwarder import words
from forwarder.http.messages import Answer

_FILES: Final = Path(__file__).with_name("page")
_SCRIPTS: Final = ("drawing.js", "advice.js", "sections.js", "polling.js")


def status_page(*, asks_for_token: bool) -> Answer:
    """Show the page; `asks_for_token`: it need not find out first that there is a token."""
    page, policy = _made()
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    if asks_for_token:
        page = page.replace("<body>", "<body data-token>", 1)
    return Answer(200, headers, page.encode())


@cache
def _made() -> tuple[str, str]:
    """Return the page and its policy."""
    style, script = _read("style.css"), words.put_into("".join(map(_read, _SCRIPTS)))
    page = _read("page.html").replace("{{style}}", style).replace("{{script}}", script)
    policy = (
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "connect-src 'self'",
        "img-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return page, "; ".join(policy)


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
