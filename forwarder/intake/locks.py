"""The access rules of TCP: which requests are allowed, by their headers. Nothing here does any I/O.

Any web page in a browser on this machine can reach a port of loopback. Its requests differ from those of apps: a browser
sends the page's `Origin`, and as `Host` the name that the page used, which after DNS rebinding is not one of ours. Without
asking first (CORS preflight) it sends only the content types of forms. A Unix socket is guarded by its mode instead; but to
see payloads or change something there, a client must be the daemon's own user, root, or a member of `control.group`.

Headers are named in lower case. If a header came several times, its values are joined by ", ", so a second Host or Origin
yields a value that is not allowed.
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
"""A name, an IPv4 address, or an IPv6 address with or without a zone."""
_UNASKED_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a browser lets a page send to another origin without asking there first, by the Fetch standard."""
_USUAL_TYPES: Final = frozenset({"application/json", "application/x-ndjson"})
"""What most apps send, and what a browser sends only after it has asked."""

Headers = Mapping[str, str]
"""Values by lower-case names; see the module's docstring."""


class Hosts:
    """The names and addresses that a Host may have, without ports; `*` allows any."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(_normal_host, names))
        self.include_any: Final = "*" in self._names
        self._last_included = ""
        """The next request mostly has the same."""

    def include(self, authority: str) -> bool:
        """Return whether this is one of them, with or without a port; False if it is empty, or two that are joined."""
        if authority == self._last_included or self.include_any:
            return authority != "" and "," not in authority
        parts = _AUTHORITY.fullmatch(authority)
        if parts is None or _normal_host(parts[1] or parts[2]) not in self._names:
            return False
        self._last_included = authority
        return True


class Locks:
    """The rules for requests over TCP."""

    def __init__(self, settings: IntakeSettings) -> None:
        self._token = b""
        self.use(settings)

    def use(self, settings: IntakeSettings) -> None:
        """Use the token, the hosts and the origins of these settings from now on."""
        self._hosts = Hosts([*settings.allowed_hosts, *_own(settings.http)])
        self._origins = frozenset(settings.allowed_origins)
        self._token = b"" if settings.token is None else settings.token.reveal().encode()

    @property
    def needs_token(self) -> bool:
        """Whether requests need a token."""
        return self._token != b""

    def refuse(
        self, headers: Headers, *, authority: str | None = None, is_preflight: bool = False
    ) -> SharedCode | None:
        """Return why a request is not allowed, or None if it is.

        If the target is a whole URL, its `authority` counts instead of the Host. A preflight needs no token.
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
        """Return the headers that let a page of an allowed origin read an answer; none for other requests."""
        origin = self._origin(headers)
        if origin is None:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "Retry-After", "Vary": "Origin"}

    def _origin(self, headers: Headers) -> str | None:
        """Return the origin if it is allowed. Browsers send the normal form, which settings have, too."""
        origin = headers.get("origin")
        return origin if origin in self._origins else None

    def shows_token(self, headers: Headers) -> bool:
        """Return whether a token is set and the headers contain it."""
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
    """The rule for requests to the admin listener: the Host must be one of its names, an IP address, or missing.

    Scrapers and probes, old ones without a Host too, satisfy it. A web page whose name resolves to this machine does not.
    """

    def __init__(self, settings: IntakeSettings, *, own: Address | None) -> None:
        """`own` is the address of the listener, `admin.http`."""
        self._own = own
        self.use(settings)

    def use(self, settings: IntakeSettings) -> None:
        """Use the hosts of these settings from now on."""
        self._hosts = Hosts([*settings.allowed_hosts, *_own(self._own)])

    def refuse(self, headers: Headers, *, authority: str | None = None) -> SharedCode | None:
        """Return why a request is not allowed, or None if it is; `authority` is as in `Locks.refuse`."""
        called = headers.get("host") if authority is None else authority
        if called is None or self._hosts.include_any or self._hosts.include(called) or _is_address(called):
            return None
        return "forbidden_host"


class Operators:
    """The users who may see payloads and change something over a Unix socket."""

    def __init__(self, settings: ControlSettings) -> None:
        self._own = os.geteuid()
        self.use(settings)

    def use(self, settings: ControlSettings) -> None:
        """Use the group of these settings from now on."""
        self._group = None if settings.group is None else settings.group.number

    def include(self, peer: Peer | None) -> bool:
        """Return whether this user is one of them; False if the user is unknown."""
        return peer is not None and (peer.user in (self._own, _ROOT) or self._group in peer.groups)


def preflight(headers: Headers, method: str) -> dict[str, str]:
    """Return the headers of the answer to a browser that asks whether a page of an allowed origin may send a request."""
    answer = {
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return answer


def may_be_unasked(headers: Headers) -> bool:
    """Return whether a browser may have sent a body with this Content-Type, or none, without asking first."""
    sent = headers.get("content-type", "")
    if sent in _USUAL_TYPES:
        return False
    # Apps send one type, in its plain form; anything ambiguous is read as the type that a form could send.
    essences = [part.partition(";")[0].strip(" \t\r\n").lower() for part in sent.split(",")]
    if any(essence in _UNASKED_TYPES for essence in essences):
        return True
    return not any(essences) and ("origin" in headers or "sec-fetch-site" in headers)


def _own(address: Address | None) -> list[str]:
    return [address.host] if address else []


def _values(headers: Headers, name: str) -> list[str]:
    """Return the possible values of a header: all of it, or each of several that were joined."""
    value = headers.get(name)
    return [] if value is None else [value, *value.split(", ")]


def _is_address(authority: str) -> bool:
    """Return whether this is an IP address, IPv6 in brackets, with or without a port."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return False
    try:
        return (IPv4Address(parts[1].removesuffix(".")) if parts[1] else IPv6Address(parts[2])) is not None
    except ValueError:
        return False


def _normal_host(host: str) -> str:
    """Return the normal form of a host, which is the same for all its spellings."""
    if ":" not in host:
        return host.removesuffix(".").lower()
    try:
        return str(IPv6Address(host.partition("%")[0]))
    except ValueError:
        return host
