"""Warnings about several settings together: they can be used, but let strangers in, or leave out a proxy that is named.

All is pure, and no warning shows a secret. Only `forwarder.settings` imports this module.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from forwarder.settings.sections import AdminSettings, IntakeSettings

_LEAST_CHARACTERS: Final = 16
_LEAST_DIFFERENT: Final = 6
"""A random token of 16 hexadecimal digits has ten on average, and fewer than these in less than one case of ten thousand."""
_REPEATED: Final = re.compile(rf"(.{{1,{_LEAST_CHARACTERS - 1}}}?)\1+")


def exposures(intake: IntakeSettings, admin: AdminSettings) -> Iterator[str]:
    """Yield a warning for each: the setting, why it is dangerous, and the fix."""
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
    """Return why a token can be guessed; empty if it cannot be, as far as that shows."""
    if len(token) < _LEAST_CHARACTERS:
        return f"has fewer than {_LEAST_CHARACTERS} characters"
    if len(set(token)) < _LEAST_DIFFERENT:
        return f"has fewer than {_LEAST_DIFFERENT} different characters"
    if _REPEATED.fullmatch(token):
        return "repeats a few characters again and again"
    return ""


def ignored_proxy(environ: Mapping[str, str], url: str) -> str | None:
    """Return the warning that a proxy in `environ` is not used to reach `url`; None if there is none, or it is not for it.

    What it holds is not shown: a password may be in it.
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
    """Return whether an entry of NO_PROXY is about a host: `*`, a domain, an address or a network, perhaps with a port."""
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
