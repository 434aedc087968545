"""Hides secrets in texts and JSON that somebody may pass on, such as a bundle for support.

Nothing that is shown should hold a secret, so this is a second net: it also catches what an operating system, a library or a
mistake puts into a text. Pure. It imports none of ours, and all modules may import it.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "********"
_LEAST_CHARACTERS: Final = 6
"""A shorter secret is part of many words; hiding it would tell what it is."""
_USER: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#\s\"'<>]{0,500}@")
_QUERY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://[^?#\s\"'<>]{0,500}[?#])[^\s\"'<>]+")


class Masking:
    """Hides the given secrets, and in URLs users, passwords and queries."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long = (each for each in secrets if len(each) >= _LEAST_CHARACTERS)
        known = sorted({spelt for each in long for spelt in _spellings(each)}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._secrets is not None:
            text = self._secrets.sub(MASK, text)
        if "://" in text:
            text = _QUERY.sub(rf"\g<1>{MASK}", _USER.sub(rf"\g<1>{MASK}@", text))
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets, which may be in its texts or in the names of its members."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value


def _spellings(secret: str) -> tuple[str, ...]:
    """Return how a secret looks in JSON, in a URL and in Python's texts."""
    return (
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        ascii(secret)[1:-1],
    )
