"""The locks on the door of TCP: which requests are let in at all, by their headers. Nothing here does any I/O.

Any web page in a browser on this machine can reach a port of loopback. What tells its requests from those of apps: a browser
says which page sends (`Origin`) and which name it thinks it calls (`Host`, another one after DNS rebinding), and without
asking first (CORS preflight) it sends only the content types of forms. A Unix socket has no locks: its mode guards it, but
to see payloads and to change something there, one must be the daemon's own user, root, or a member of `control.group`.

Headers are given by their names in lower case; where one came several times its values are joined by ", ", so a second
Host or Origin makes the whole another one, which nobody allows.
"""

import hmac
import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from forwarder.host.sockets import Peer
from forwarder.settings import Address, ControlSettings, IntakeSettings
from forwarder.words import SharedCode

_ROOT: Final = 0
_PREFLIGHT_SECONDS: Final = 600
_ALLOWED_HEADERS: Final = "content-type, idempotency-key, authorization, x-growlytics-key, accept"
_AUTHORITY: Final = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]{2,45})(?:%[A-Za-z0-9._%-]+)?\])(?::[0-9]{0,5})?")
"""A name or an IPv4 address, or an IPv6 address, whose zone means something to its client only."""
_UNASKED_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page may send to another origin without the browser asking there first, as the Fetch standard has it."""
_USUAL_TYPES: Final = frozenset({"application/json", "application/x-ndjson"})
"""What nearly all apps send, and browsers not unasked."""

Headers = Mapping[str, str]
"""Values by names in lower case, as the module's docstring says."""


class Hosts:
    """The names and addresses by which a listener may be called, without ports; `*` is any."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(_normal_host, names))
        self.include_any: Final = "*" in self._names
        self._last_included = ""
        """Nearly always it is the next one's, too."""

    def include(self, authority: str) -> bool:
        """Whether this is one of them, with or without a port; not if it is empty, or two that are joined."""
        if authority == self._last_included or self.include_any:
            return authority != "" and "," not in authority
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None or _normal_host(parts[1] or parts[2]) not in self._names:
            return False
        self._last_included = authority
        return True


class Locks:
    """What a request over TCP must show."""

    def __init__(self, settings: IntakeSettings) -> None:
        self._token = b""
        self.use(settings)

    def use(self, settings: IntakeSettings) -> None:
        """Go by these settings from now on: the token, the hosts, the origins."""
        self._hosts = Hosts([*settings.allowed_hosts, *_own(settings.http)])
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
        host = headers.get("host")
        if host is None or "," in host or not self._hosts.include(host if authority is None else authority):
            return "forbidden_host"
        if "origin" in headers and self._origin(headers) is None:
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

    def _origin(self, headers: Headers) -> str | None:
        """Return the origin if it is one that is allowed; browsers send the normal form, which settings have, too."""
        origin = headers.get("origin")
        return origin if origin in self._origins else None

    def shows_token(self, headers: Headers) -> bool:
        """Whether there is a token, and these show it."""
        if not self._token:
            return False
        shown = _values(headers, "x-growlytics-key")
        for credentials in _values(headers, "authorization"):
            scheme, _, value = credentials.partition(" ")
            if scheme.lower() == "bearer":
                shown.append(value.strip())
        matches = [hmac.compare_digest(each.encode(errors="surrogateescape"), self._token) for each in shown]
        return True in matches


class AdminLock:
    """What a request to the admin listener must show: one of its names, an IP address, or no Host, as old health checks.

    A page in a browser, whose name resolves to this machine, has none of these; what scrapes and probes mostly does.
    """

    def __init__(self, settings: IntakeSettings, *, own: Address | None) -> None:
        """`own` is where it listens, `admin.http`."""
        self._own = own
        self.use(settings)

    def use(self, settings: IntakeSettings) -> None:
        """Go by these settings' hosts from now on."""
        self._hosts = Hosts([*settings.allowed_hosts, *_own(self._own)])

    def refuse(self, headers: Headers, *, authority: str | None = None) -> SharedCode | None:
        """Return the code of what a request lacks, or None to let it in; `authority` as in `Locks.refuse`."""
        called = headers.get("host") if authority is None else authority
        if called is None or self._hosts.include_any or self._hosts.include(called) or _is_address(called):
            return None
        return "forbidden_host"


class Operators:
    """Who may operate the daemon over a Unix socket: see payloads, and change something."""

    def __init__(self, settings: ControlSettings) -> None:
        self._own = os.geteuid()
        self.use(settings)

    def use(self, settings: ControlSettings) -> None:
        """Go by these settings from now on."""
        self._group = None if settings.group is None else settings.group.number

    def include(self, peer: Peer | None) -> bool:
        """Whether this is one of them; who is not known is not."""
        return peer is not None and (peer.user in (self._own, _ROOT) or self._group in peer.groups)


def preflight(headers: Headers, method: str) -> dict[str, str]:
    """Return what a browser is told that asks, for a page of an allowed origin, whether it may send such a request."""
    answer = {
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return answer


def may_be_unasked(headers: Headers) -> bool:
    """Whether a browser may have sent a body of this Content-Type, or of none, without asking first."""
    sent = headers.get("content-type", "")
    if sent in _USUAL_TYPES:
        return False
    # An app sends one, and plainly; whatever else may be read in two ways is read in the worse one.
    essences = [part.partition(";")[0].strip(" \t\r\n").lower() for part in sent.split(",")]
    if any(essence in _UNASKED_TYPES for essence in essences):
        return True
    return not any(essences) and ("origin" in headers or "sec-fetch-site" in headers)


def _own(address: Address | None) -> list[str]:
    return [address.host] if address else []


def _values(headers: Headers, name: str) -> list[str]:
    """Return what a header may be: all of it, or one of several that were joined."""
    value = headers.get(name)
    return [] if value is None else [value, *value.split(", ")]


def _is_address(authority: str) -> bool:
    """Whether this is an IP address in its usual form, IPv6 in brackets, with or without a port."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return False
    try:
        return (IPv4Address(parts[1].removesuffix(".")) if parts[1] else IPv6Address(parts[2])) is not None
    except ValueError:
        return False


def _normal_host(host: str) -> str:
    """Return a host in the one form that all its spellings have in common."""
    if ":" not in host:
        return host.removesuffix(".").lower()
    try:
        return str(IPv6Address(host.partition("%")[0]))
    except ValueError:
        return host
