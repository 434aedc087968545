"""The locks on the door of TCP: which requests are let in at all, by their headers. Nothing here does any I/O.

Any web page in a browser on this machine can reach a port of loopback. What tells its requests from those of apps: a browser
says which page sends (`Origin`) and which name it thinks it calls (`Host`, another one after DNS rebinding), and without
asking first (CORS preflight) it sends only the content types of forms. A Unix socket has no locks: its mode guards it, and
for what operators do see `peers`.
"""

import hmac
import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Final, Protocol

from forwarder.settings import IntakeSettings
from forwarder.words import SharedCode

_PREFLIGHT_SECONDS: Final = 600
_ALLOWED_HEADERS: Final = "content-type, idempotency-key, authorization, x-growlytics-key, accept"
_AUTHORITY: Final = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]{2,45})\])(?::[0-9]{0,5})?")
_UNASKED_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page may send to another origin without the browser asking there first, as the Fetch standard has it."""
_USUAL_TYPES: Final = frozenset({"application/json", "application/x-ndjson"})
"""What nearly all apps send, and browsers not unasked."""


class Headers(Protocol):
    """The headers of a request, by names in any case."""

    def __contains__(self, name: object, /) -> bool: ...

    def get(self, name: str, /) -> str | None: ...

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]: ...


class Locks:
    """What a request over TCP must show."""

    def __init__(self, settings: IntakeSettings) -> None:
        self._token = b""
        self.use(settings)

    def use(self, settings: IntakeSettings) -> None:
        """Go by these settings from now on: the token, the hosts, the origins."""
        own = [settings.http.host] if settings.http else []
        self._hosts = frozenset({*settings.allowed_hosts, *map(_normal_host, own)})
        self._any_host = "*" in self._hosts
        self._last_allowed = ""
        """The authority that was let in last: nearly always it is the next one's, too."""
        self._origins = frozenset(settings.allowed_origins)
        self._token = b"" if settings.token is None else settings.token.reveal().encode()

    @property
    def demand_a_token(self) -> bool:
        """Whether who is let in has shown one."""
        return self._token != b""

    def refuse(
        self, headers: Headers, *, authority: str | None = None, is_preflight: bool = False
    ) -> SharedCode | None:
        """Return the code of what a request lacks, or None to let it in.

        `authority` is that of a target that is a whole URL, which then counts, and not the Host. A preflight shows no token.
        """
        hosts = headers.getall("Host", ())
        if len(hosts) != 1 or not self._is_allowed_host(hosts[0] if authority is None else authority):
            return "forbidden_host"
        if "Origin" in headers and self._origin(headers) is None:
            return "forbidden_origin"
        if self._token and not is_preflight and not self.shows_token(headers):
            return "unauthorized"
        return None

    def cors(self, headers: Headers) -> dict[str, str]:
        """Return what every answer to a request of an allowed origin says besides, so that the page may read it."""
        origin = self._origin(headers)
        if origin is None:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "Retry-After", "Vary": "Origin"}

    def _is_allowed_host(self, authority: str) -> bool:
        if authority == self._last_allowed:
            return authority != ""
        if self._any_host:
            return authority != ""
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None or (parts[1].lower() if parts[1] else _normal_host(parts[2])) not in self._hosts:
            return False
        self._last_allowed = authority
        return True

    def _origin(self, headers: Headers) -> str | None:
        """Return the origin if it is one that is allowed; browsers send the normal form, which settings have, too."""
        sent = headers.getall("Origin", ())
        return sent[0] if len(sent) == 1 and sent[0] in self._origins else None

    def shows_token(self, headers: Headers) -> bool:
        """Whether there is a token, and these show it."""
        if not self._token:
            return False
        shown = [*headers.getall("x-growlytics-key", ())]
        for credentials in headers.getall("Authorization", ()):
            scheme, _, value = credentials.partition(" ")
            if scheme.lower() == "bearer":
                shown.append(value.strip())
        matches = [hmac.compare_digest(each.encode(errors="surrogateescape"), self._token) for each in shown]
        return True in matches


def preflight(headers: Headers, method: str) -> dict[str, str]:
    """Return what a browser is told that asks, for a page of an allowed origin, whether it may send such a request."""
    answer = {
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    if headers.get("Access-Control-Request-Private-Network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return answer


def may_be_unasked(headers: Headers) -> bool:
    """Whether a browser may have sent a body of this Content-Type, or of none, without asking first."""
    types = headers.getall("Content-Type", ())
    if len(types) == 1 and types[0] in _USUAL_TYPES:
        return False
    # An app sends one, and plainly; whatever else may be read in two ways is read in the worse one.
    essences = [part.partition(";")[0].strip(" \t\r\n").lower() for each in types for part in each.split(",")]
    if any(essence in _UNASKED_TYPES for essence in essences):
        return True
    return not any(essences) and ("Origin" in headers or "Sec-Fetch-Site" in headers)


def _normal_host(host: str) -> str:
    try:
        return str(IPv6Address(host))
    except ValueError:
        return host.lower()
