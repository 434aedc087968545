"""Rules between several settings, and what is dangerous about them.

A broken rule is an error. A danger is a warning: the settings can be used, but let strangers in, or leave out a proxy that
the environment names. Pure, and no message shows a secret. Only `forwarder.settings` imports this module.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final
from urllib.parse import urlsplit

from forwarder.settings.sections import AdminSettings, IntakeSettings, Settings
from forwarder.settings.sources import Name
from forwarder.settings.values import size_text

_LEAST_CHARACTERS: Final = 16
_LEAST_DIFFERENT: Final = 6
"""A random token of 16 hexadecimal digits has ten different ones on average, and fewer than these in less than one case of
ten thousand."""
_REPEATED: Final = re.compile(rf"(.{{1,{_LEAST_CHARACTERS - 1}}}?)\1+")


def broken_rules(settings: Settings, *, require_api_key: bool) -> Iterator[tuple[Name, Name, str]]:
    """Yield for each rule between two settings that is broken: their names, and what is wrong with the first one."""
    growlytics, delivery = settings.growlytics, settings.delivery
    intake, admin = settings.intake, settings.admin
    if require_api_key and growlytics.api_key is None:
        fix = "set GROWLYTICS_API_KEY to your project's key, or name a file that holds it with GROWLYTICS_API_KEY_FILE"
        without = "without an account, try `growlytics-forwarder demo`"
        yield ("growlytics", "api_key"), ("growlytics", "api_key_file"), f"is missing; {fix}; {without}"
    if growlytics.proxy is not None and growlytics.url.lower().startswith("http:"):
        wrong = "would see the events and the key, as growlytics.url is plain http; leave it out or use https"
        yield ("growlytics", "proxy"), ("growlytics", "url"), wrong
    yield from _broken_intake_rules(intake)
    if admin.http is not None and admin.http == intake.http and admin.http.port != 0:
        yield ("admin", "http"), ("intake", "http"), f"{admin.http} is the address of intake.http too; choose another"
    for what, initial, longest in (
        ("retry", delivery.retry_initial_seconds, delivery.retry_max_seconds),
        ("probe", delivery.probe_initial_seconds, delivery.probe_max_seconds),
    ):
        if longest < initial:
            wrong = f"{longest} is below {what}_initial_seconds, {initial}; raise it"
            yield ("delivery", f"{what}_max_seconds"), ("delivery", f"{what}_initial_seconds"), wrong


def _broken_intake_rules(intake: IntakeSettings) -> Iterator[tuple[Name, Name, str]]:
    sockets = {name: getattr(intake, name) for name in ("unix_socket", "lines_socket", "datagram_socket")}
    if intake.http is None and not any(sockets.values()):
        wrong = (
            "is off, and so are intake.unix_socket, lines_socket and datagram_socket; apps need one of them to post to"
        )
        yield ("intake", "http"), ("intake", "unix_socket"), wrong
    for one, other in combinations([name for name, path in sockets.items() if path], 2):
        if sockets[one] == sockets[other]:
            yield ("intake", other), ("intake", one), f"is the path of intake.{one} too; choose another"
    if intake.max_body_bytes > intake.max_parsing_bytes:
        body, parsing = size_text(intake.max_body_bytes), size_text(intake.max_parsing_bytes)
        wrong = f"{body} is above intake.max_parsing_bytes, {parsing}"
        fix = "no body of that size could ever be parsed; raise that, or lower this"
        yield ("intake", "max_body_bytes"), ("intake", "max_parsing_bytes"), f"{wrong}: {fix}"
    is_open = intake.token is None and not intake.allow_remote_without_token
    if intake.http is not None and not intake.http.is_loopback and is_open:
        wrong = f"{intake.http} can be reached from other machines, and anybody there could post events"
        fix = "listen on 127.0.0.1, demand a token with intake.token_file, or accept it with "
        fix += "intake.allow_remote_without_token = true"
        yield ("intake", "http"), ("intake", "allow_remote_without_token"), f"{wrong}; {fix}"


def exposures(intake: IntakeSettings, admin: AdminSettings) -> Iterator[str]:
    """Yield a warning for each dangerous setting: its name, why it is dangerous, and the fix."""
    is_remote = intake.http is not None and not intake.http.is_loopback
    if is_remote and intake.token is not None and (fault := _weakness(intake.token.reveal())):
        setting = "intake.token" if intake.token_file is None else "intake.token_file"
        yield (
            f"{setting}: the token {fault}, so others could guess it, as intake.http can be reached from other machines; "
            "use a random one, as `openssl rand -hex 32` makes it"
        )
    if "*" in intake.allowed_hosts and (intake.http or admin.http) is not None:
        yield (
            'intake.allowed_hosts has "*", so any web page in a browser that reaches the forwarder can call it, by a name '
            "of its own that leads here (DNS rebinding); list the names by which apps and Prometheus call it instead"
        )


def _weakness(token: str) -> str:
    """Return why a token can be guessed; empty if nothing suggests that."""
    if len(token) < _LEAST_CHARACTERS:
        return f"has fewer than {_LEAST_CHARACTERS} characters"
    if len(set(token)) < _LEAST_DIFFERENT:
        return f"has fewer than {_LEAST_DIFFERENT} different characters"
    if _REPEATED.fullmatch(token):
        return "repeats a few characters again and again"
    return ""


def ignored_proxy(environ: Mapping[str, str], url: str) -> str | None:
    """Return a warning if `environ` names a proxy for `url`, as the forwarder does not use it; else None.

    The warning does not show the proxy, which may hold a password.
    """
    parts = urlsplit(url)
    names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    names += ["http_proxy", "HTTP_PROXY"] if parts.scheme == "http" else []
    found = next((name for name in names if environ.get(name)), None)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    host = (parts.hostname or "").rstrip(".")
    exceptions = re.split(r"[\s,]+", f"{environ.get('NO_PROXY', '')},{environ.get('no_proxy', '')}")
    if found is None or any(_covers(each, host, port) for each in exceptions):
        return None
    return (
        f"{found} is set and ignored: the forwarder uses the proxy that growlytics.proxy names, and no other. "
        f"Set that, or add {host} to NO_PROXY"
    )


def _covers(exception: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY covers a host: `*`, a domain, an address or a network, perhaps with a port."""
    if _is_in(exception.strip("[]"), host):
        return True
    name, separator, its_port = exception.rpartition(":")
    if separator and its_port.isdecimal():
        return int(its_port) == port and _covers(name, host, port)
    domain = exception.lower().removeprefix("*").strip(".")
    return exception == "*" or (domain != "" and (host == domain or host.endswith(f".{domain}")))


def _is_in(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
