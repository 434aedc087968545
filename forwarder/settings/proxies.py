"""A proxy that only the environment names: the forwarder does not use it, and says so.

Only `forwarder.settings` imports this module.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit


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
