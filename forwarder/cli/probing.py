"""Tries the way to Growlytics without an event and without the key: name, connection, proxy, TLS, answer, clock.

Each step yields what it found, in words and as facts, with the fix. A step that fails does not stop those that can still be
tried; the others are told as not tried. No step takes longer than its time, and no text shows a user, a password, or the
path or query of a URL. All that the other side sends is bounded and safe to print. Used by `diagnose` and by
`check-config --connect`.
"""

import errno
import ipaddress
import re
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from forwarder import __version__
from forwarder.cli import clock
from forwarder.cli.checks import Checked, counted, milliseconds
from forwarder.cli.handshakes import Handshake, Trust, check_tls, shake_hands, trust_of, trust_of_anybody
from forwarder.cli.name_servers import RESOLVER_FILE, ask_each, name_servers
from forwarder.cli.streams import (
    ClosedError,
    NotHttpError,
    Stream,
    TcpStream,
    TlsStream,
    connect_request,
    exchange,
    together,
    within,
)
from forwarder.growlytics import causes
from forwarder.settings import GrowlyticsSettings, Secret
from forwarder.text import printable
from forwarder.words import WAY_STEPS, WayStep

SECONDS: Final = 5.0
"""The default time of a step, in which it may try several addresses at the same time."""
MAX_ADDRESSES: Final = 8
"""How many addresses of a name are tried."""

_SLOW_NAME_SECONDS: Final = 1.0
_USER_AGENT: Final = f"growlytics-forwarder/{__version__}"
_PLAIN_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+(?:%[a-z0-9._-]+)?")
_NOT_HERE: Final = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH})
"""What a machine without IPv6 says of its addresses; that costs nothing if there are others."""


class Endpoint(NamedTuple):
    """Where to connect."""

    host: str
    """In ASCII, as the name server knows it; an address has no brackets."""
    port: int
    is_tls: bool
    setting: str
    """Which setting names it."""
    login: Secret | None = None
    """User and password of a proxy, joined by a colon."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def tls_host(self) -> str:
        """The name that the certificate must have."""
        return self.host.rstrip(".").partition("%")[0]

    @property
    def authority(self) -> str:
        """The Host of a request: without the port if it is the scheme's own."""
        return str(self).rpartition(":")[0] if self.port == (443 if self.is_tls else 80) else str(self)


class Candidate(NamedTuple):
    """One address of a host."""

    family: int
    address: tuple[Any, ...]
    """As the socket module has it: the address first, then the port."""

    def __str__(self) -> str:
        host = str(self.address[0])
        return f"[{host}]:{self.address[1]}" if ":" in host else f"{host}:{self.address[1]}"


def probe_way(growlytics: GrowlyticsSettings, *, seconds: float = SECONDS, asks: bool = True) -> Iterator[Checked]:
    """Try the way to `growlytics.url` with the settings' proxy and authorities, and yield what each step found.

    Without `asks`, end after TLS, so that nothing is requested at all. A step takes at most twice `seconds`.
    """
    target = endpoint(growlytics.url)
    proxy = None if growlytics.proxy is None else endpoint(growlytics.proxy.reveal(), setting="growlytics.proxy")
    first = proxy or target
    places = yield from _resolve(first, seconds)
    reached = (yield from _connect(first, places, seconds)) if places else []
    if not reached:
        yield from _untried("connect" if not places else "proxy" if proxy else "tls", proxy, asks=asks)
        return
    trust = _trust(growlytics.ca_file, seconds, is_needed=target.is_tls or (proxy is not None and proxy.is_tls))
    ways: list[tuple[str, Callable[[], Stream]]] = [(str(place), partial(_open, place, seconds)) for place in reached]
    if proxy is not None:
        through = partial(_tunnel, ways[0][1], proxy, target, trust)
        if not (yield from _check_proxy(through, proxy, target, seconds)):
            yield from _untried("tls", proxy, asks=asks)
            return
        ways = [(f"{target} through the proxy", through)]
    ways, verified = yield from _check_tls(ways, target, trust, seconds)
    if asks:
        yield from _ask(ways, target, trust, seconds, verified=verified)


def _trust(ca_file: str | None, seconds: float, *, is_needed: bool) -> Trust:
    try:
        return within(seconds, partial(trust_of, ca_file, is_needed=is_needed), name="authorities")
    except TimeoutError:
        return trust_of(None, is_needed=False)._replace(
            authorities="growlytics.ca_file",
            fault=f"names a file that was not read within {seconds:.3g} s: is it a pipe, or its disk gone?",
        )


def endpoint(url: str, *, setting: str = "growlytics.url") -> Endpoint:
    """Return where a URL of the settings leads."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    port = (443 if is_tls else 80) if parts.port is None else parts.port
    login = None
    if parts.username is not None or parts.password is not None:
        login = Secret(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}")
    return Endpoint(_ascii_host(parts.hostname or ""), port, is_tls, setting, login)


def _ascii_host(host: str) -> str:
    """Return a host as the daemon looks it up: international names are encoded, and at most one dot is at the end."""
    name = host.rstrip(".")
    if not _PLAIN_HOST.fullmatch(name):
        from yarl import URL  # it takes a while, and few hosts need it

        with suppress(ValueError):
            name = URL.build(scheme="https", host=name).raw_host or name
    return f"{name}." if host.endswith(".") else name


# The name


def _resolve(first: Endpoint, seconds: float) -> Generator[Checked, None, list[Candidate]]:
    """Return the addresses to connect to."""
    host = printable(first.host)
    is_address = _is_address(first.host)
    began = monotonic()
    try:
        places = within(seconds, partial(_look_up, first, is_address=is_address), name="dns")
    except (OSError, UnicodeError) as error:
        yield _unresolved(error, first, seconds)
        return []
    took = monotonic() - began
    shown = [str(place.address[0]) for place in places]
    facts = {"host": host, "addresses": shown, "seconds": round(took, 4)}
    if is_address:
        yield Checked("dns", "ok", f"{host} is an address, so no name is looked up", facts=facts)
    else:
        text = f"{host} has {counted(len(places), 'address', 'addresses')}: {', '.join(shown[:MAX_ADDRESSES])}"
        slow = took > _SLOW_NAME_SECONDS
        fix = f"each new connection waits for that; {_name_server_fix()}" if slow else ""
        yield Checked("dns", "warn" if slow else "ok", f"{text} ({milliseconds(took)})", fix, facts)
    return places[:MAX_ADDRESSES]


def _look_up(first: Endpoint, *, is_address: bool) -> list[Candidate]:
    flags = socket.AI_NUMERICHOST if is_address else socket.AI_ADDRCONFIG  # as the daemon's resolver
    found = socket.getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Candidate(family, address) for family, _, _, _, address in found))


def _unresolved(error: OSError | UnicodeError, first: Endpoint, seconds: float) -> Checked:
    """Return why there is no address, with what each name server says."""
    host = printable(first.host)
    facts: dict[str, object] = {"host": host}
    if isinstance(error, UnicodeError):
        return Checked("dns", "fail", f"not a valid host name: {host}", f"correct {first.setting}", facts)
    is_unknown = isinstance(error, socket.gaierror) and error.errno in causes.NO_SUCH_NAME
    if is_unknown and (others := _addresses_of_other_families(first, seconds)):
        text = f"{host} has addresses ({', '.join(others)}), but this machine has none of their kind (IPv4 or IPv6)"
        facts["addresses"] = others
        return Checked("dns", "fail", text, "give this machine an address of that kind, or a proxy that has one", facts)
    if isinstance(error, TimeoutError):
        text = f"the name server does not answer within {seconds:.3g} s (for {host})"
    elif isinstance(error, socket.gaierror):
        text = causes.of_name(host, error.errno)
    else:
        return Checked("dns", "fail", causes.of_errno(error.errno or 0), "free resources of this machine", facts)
    asked = ask_each(first.host, name_servers(), seconds=seconds)
    facts["name_servers"] = [each._asdict() for each in asked]
    if not is_unknown and any(each.says.startswith("answers") for each in asked):
        text = f"the name server fails (for {host})"
    text += "".join(f"; {each.server} {each.says}" for each in asked)
    fix = f"correct {first.setting}; if it is right, {_name_server_fix()}" if is_unknown else _name_server_fix()
    return Checked("dns", "fail", text, fix, facts)


def _addresses_of_other_families(first: Endpoint, seconds: float) -> list[str]:
    """Return the addresses of a kind that this machine cannot use, which the resolver leaves out."""
    with suppress(OSError, UnicodeError):
        found = within(
            seconds, partial(socket.getaddrinfo, first.host, first.port, type=socket.SOCK_STREAM), name="dns"
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))[:MAX_ADDRESSES]
    return []


def _name_server_fix() -> str:
    servers = name_servers()
    if not servers:
        return f"name a name server in {RESOLVER_FILE}, which names none that this user can read"
    named = f"the name servers {', '.join(servers)} (of {RESOLVER_FILE})"
    return f"check {named}, and that this machine may reach them (port 53)"


def _is_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]) is not None
    except ValueError:
        return False


# The connection


def _open(place: Candidate, seconds: float) -> Stream:
    return TcpStream(place.family, place.address, deadline=monotonic() + seconds)


def _connect(first: Endpoint, places: Sequence[Candidate], seconds: float) -> Generator[Checked, None, list[Candidate]]:
    """Return the addresses that can be connected to."""
    outcomes = together(2 * seconds, [partial(_timed_connect, place, seconds) for place in places], name="connect")
    reached: list[Candidate] = []
    tried: list[dict[str, object]] = []
    faults: list[tuple[Candidate, int | None, str]] = []
    for place, outcome in zip(places, outcomes, strict=True):
        try:
            took = outcome()
        except OSError as error:
            why = f"no connection within {seconds:.3g} s" if error.errno is None else causes.of_errno(error.errno)
            faults.append((place, error.errno, why))
            tried.append({"address": str(place), "seconds": None, "error": why})
        else:
            reached.append(place)
            tried.append({"address": str(place), "seconds": round(took, 4), "error": None})
    shown = "; ".join(
        f"{each['address']}: {each['error'] or f'connected in {milliseconds(_seconds(each))}'}" for each in tried
    )
    harmless = all(":" in str(place.address[0]) and number in _NOT_HERE for place, number, _ in faults)
    result: Final = "fail" if not reached else "ok" if harmless else "warn"
    fix = "" if result == "ok" else "; ".join(dict.fromkeys(_connect_fix(number, first) for _, number, _ in faults))
    yield Checked("connect", result, shown, fix, {"host": printable(str(first)), "addresses": tried})
    return reached


def _timed_connect(place: Candidate, seconds: float) -> float:
    began = monotonic()
    _open(place, seconds).close()
    return monotonic() - began


def _seconds(tried: dict[str, object]) -> float:
    took = tried["seconds"]
    assert isinstance(took, float), "it was reached"
    return took


def _connect_fix(number: int | None, first: Endpoint) -> str:
    where = f"TCP from here to {printable(str(first))}"
    if number is None or number == errno.ETIMEDOUT:
        return f"allow {where}: a firewall or security group drops it; or name the proxy to use with growlytics.proxy"
    if number == errno.ECONNREFUSED:
        return f"check host and port in {first.setting}: nothing listens there, or a firewall rejects it"
    if number in _NOT_HERE:
        return "check this machine's network: there is no route (see `ip route`)"
    return f"allow {where}: a rule of this machine's firewall may forbid it"


# The proxy


def _tunnel(open_stream: Callable[[], Stream], proxy: Endpoint, target: Endpoint, trust: Trust) -> Stream:
    """Return a connection through the proxy. Raise _ProxyRefusedError, NotHttpError, ClosedError or OSError."""
    stream = open_stream()
    if proxy.is_tls:
        stream = TlsStream(stream, trust.context, host=proxy.tls_host)
    login = None if proxy.login is None else proxy.login.reveal()
    try:
        head = exchange(stream, connect_request(str(target), user_and_password=login, agent=_USER_AGENT))
    except BaseException:
        stream.close()
        raise
    if not 200 <= head.status < 300:
        stream.close()
        raise _ProxyRefusedError(head.status)
    return stream


class _ProxyRefusedError(Exception):
    """The proxy makes no tunnel; the argument is the status of its answer."""


def _check_proxy(
    through: Callable[[], Stream], proxy: Endpoint, target: Endpoint, seconds: float
) -> Generator[Checked, None, bool]:
    """Return whether the proxy makes a tunnel."""
    began = monotonic()
    place = f"the proxy {printable(str(proxy))}"
    facts: dict[str, object] = {"proxy": printable(str(proxy)), "status": None}
    fix = "correct growlytics.proxy: it must name a forward proxy that allows CONNECT"
    try:
        within(2 * seconds, through, name="proxy").close()
    except _ProxyRefusedError as refusal:
        status = facts["status"] = refusal.args[0]
        text = f"{place} answers {status} and makes no tunnel to {printable(str(target))}"
        if status == 407 and proxy.login is None:
            text, fix = f"{place} asks for a user and a password (407)", "put them into growlytics.proxy"
        elif status == 407:
            text, fix = f"{place} refuses the user or the password (407)", "correct them in growlytics.proxy"
        else:
            fix = f"have the proxy allow CONNECT to {printable(str(target))}"
    except NotHttpError:
        text = f"{place} does not answer in HTTP"
    except ClosedError:
        text = f"{place} closes the connection before an answer"
    except TimeoutError:
        text = f"{place} does not answer within {seconds:.3g} s"
    except OSError as error:
        text = f"{place} cannot be used: {_why(error, proxy)}"
    else:
        took = monotonic() - began
        text = f"{place} makes a tunnel to {printable(str(target))} ({milliseconds(took)})"
        yield Checked("proxy", "ok", text, facts=facts | {"seconds": round(took, 4)})
        return True
    yield Checked("proxy", "fail", text, fix, facts)
    return False


def _why(error: OSError, proxy: Endpoint) -> str:
    import ssl

    if isinstance(error, ssl.SSLError):
        return causes.of_tls(error, printable(proxy.tls_host))
    return causes.of_errno(error.errno or 0)


# TLS and the answer

_Ways = list[tuple[str, Callable[[], Stream]]]


def _check_tls(
    ways: _Ways, target: Endpoint, trust: Trust, seconds: float
) -> Generator[Checked, None, tuple[_Ways, bool]]:
    """Return the ways that work, and whether they can be trusted."""
    if not target.is_tls:
        yield Checked("tls", "skip", "growlytics.url is plain http to this machine")
        return ways, True
    host = printable(target.tls_host)
    works = [partial(shake_hands, way, trust, host=target.tls_host, address=address) for address, way in ways]
    handshakes = []
    for (address, _), outcome in zip(ways, together(2 * seconds, works, name="tls"), strict=True):
        try:
            handshakes.append(outcome())
        except (OSError, NotHttpError, ClosedError, _ProxyRefusedError):
            handshakes.append(Handshake(address, why="the connection could not be made a second time"))
    yield check_tls(handshakes, trust, host=host)
    good = [way for way, each in zip(ways, handshakes, strict=True) if not each.why]
    seen = [way for way, each in zip(ways, handshakes, strict=True) if each.protocol]
    return good or seen, bool(good)


def _ask(ways: _Ways, target: Endpoint, trust: Trust, seconds: float, *, verified: bool) -> Iterator[Checked]:
    """Ask for nothing, and compare the clocks."""
    if not ways:
        yield from (Checked(each, "skip", "not tried: there is no connection") for each in ("answer", "clock"))
        return

    def open_stream() -> Stream:
        stream = ways[0][1]()
        if not target.is_tls:
            return stream
        return TlsStream(stream, trust.context if verified else trust_of_anybody(), host=target.tls_host)

    asking = partial(clock.ask, open_stream, authority=target.authority, agent=_USER_AGENT)
    try:
        asked = within(2 * seconds, asking, name="answer")
    except (OSError, NotHttpError, ClosedError, _ProxyRefusedError) as error:
        yield clock.unanswered(error, seconds=seconds)
        yield Checked("clock", "skip", "not tried: there is no answer with a Date")
        return
    yield clock.check_answer(asked)
    yield clock.check_clock(asked.head, asked.between, host=printable(target.host), verified=verified)


def _untried(first: WayStep, proxy: Endpoint | None, *, asks: bool) -> Iterator[Checked]:
    """Yield the steps from `first` on as not tried."""
    for step in WAY_STEPS[WAY_STEPS.index(first) :]:
        if (step != "proxy" or proxy is not None) and (asks or step not in {"answer", "clock"}):
            yield Checked(step, "skip", "not tried: the step before it failed")
