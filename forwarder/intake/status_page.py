"""The status page, and the page of links of the admin listener. Pure.

The status page is one piece of HTML without data, made of the files in `page/`; it reads the status in the browser. It needs
nothing else, and its policy lets the browser use nothing else: style and script are named by their hashes, and no text can
become markup (trusted types). The admin listener serves the same page, which then reads the status without names.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from forwarder import words
from forwarder.http.messages import Answer

_FILES: Final = Path(__file__).parent / "page"
_SCRIPTS: Final = ("drawing.js", "headline.js", "sections.js", "receipt.js", "polling.js")
_LINK_TO_PAGE: Final = '<a href="status">status</a>: the status page, without names of events and customers'
_NO_PAGE: Final = "The status page is not shown here; <code>admin.page = true</code> shows it, without names of events."
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def own_page(*, asks_for_token: bool) -> Answer:
    """Show the page that reads /v1/status. With `asks_for_token` it does not try to do without the token first."""
    return _page("data-token" if asks_for_token else "")


def shared_page() -> Answer:
    """Show the page that reads /status.json, which names no events, and has nothing that needs the intake."""
    return _page("data-shared")


def links(*, has_page: bool) -> Answer:
    """Show what the admin listener has. `has_page`: the status page, too."""
    page, policy = _links(has_page)
    return Answer(200, {**_HEADERS, "Content-Security-Policy": policy}, page.encode())


def _page(attribute: str) -> Answer:
    page, policy = _made()
    if attribute:
        page = page.replace("<body>", f"<body {attribute}>", 1)
    return Answer(200, {**_HEADERS, "Content-Security-Policy": policy}, page.encode())


@cache
def _made() -> tuple[str, str]:
    """Return the status page and its Content-Security-Policy."""
    script = words.put_into("".join(_read(name) for name in _SCRIPTS))
    page, policy = _styled("page.html", _read("style.css"))
    return page.replace("{{script}}", script), "; ".join(
        (
            f"script-src '{_hash(script)}'",
            "connect-src 'self'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
            policy,
        )
    )


@cache
def _links(has_page: bool) -> tuple[str, str]:  # noqa: FBT001 - a cache takes positions
    page, policy = _styled("links.html", _read("style.css"))
    return page.replace("{{page}}", _LINK_TO_PAGE if has_page else _NO_PAGE), policy


def _styled(name: str, style: str) -> tuple[str, str]:
    """Return a page with its style, and the policy that allows that, pictures within the page, and nothing else."""
    policy = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return _read(name).replace("{{style}}", style), "; ".join(policy)


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
