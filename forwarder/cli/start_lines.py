"""The first lines of `run` on a terminal: where to post, the page, the metrics, and what differs from the defaults. Pure."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from forwarder.cli.daemon import HostPort
from forwarder.places import PROGRAM
from forwarder.settings import Settings, reference

_MAX_VALUE_CHARACTERS: Final = 200


def start_lines(settings: Settings, addresses: Mapping[str, str], *, program: str = PROGRAM) -> list[str]:
    """Return the lines. `addresses` are those of the open listeners: `http`, `unix`, `lines`, `datagram`, `admin`.

    `program` is how this one is typed.
    """
    changed = list(_changed(settings))
    return [
        f"Post events to  {_where_to_post(addresses)}",
        f"Status page     {_page(settings, addresses, program)}",
        f"Metrics         {_metrics(addresses)}",
        *(["Not the default:", *(f"  {each}" for each in changed)] if changed else []),
        "",
    ]


def _where_to_post(addresses: Mapping[str, str]) -> str:
    if "http" in addresses:
        return f"{_url(addresses['http'])}/track/event"
    if "unix" in addresses:
        return f"the Unix socket {addresses['unix']}, path /track/event"
    if "lines" in addresses:
        return f"the Unix socket {addresses['lines']}, one JSON object a line"
    return f"the Unix socket {addresses.get('datagram')}, one JSON object in each datagram"


def _page(settings: Settings, addresses: Mapping[str, str], program: str) -> str:
    if "http" in addresses:
        return f"{_url(addresses['http'])}/" + (" (asks for the token)" if settings.intake.token else "")
    if "admin" in addresses and settings.admin.page:
        return f"{_url(addresses['admin'])}/status (without names of events)"
    top = next(
        (f" --unix-socket {shlex.quote(addresses[name])}" for name in ("control", "unix") if name in addresses), ""
    )
    return f"none for a browser, as intake.http is off; see {program} top{top}"


def _metrics(addresses: Mapping[str, str]) -> str:
    return f"{_url(addresses['admin'])}/metrics" if "admin" in addresses else "none, as admin.http is off"


def _url(address: str) -> str:
    """Return a URL that works on this machine; every address of it is reached by the loopback one."""
    parsed = HostPort.parse(address)
    return f"http://{address if parsed is None else parsed.reachable()}"


def _changed(settings: Settings) -> Iterator[str]:
    """Yield each setting that does not have its default, as --set takes it; secrets are masked."""
    defaults = Settings()
    for each in reference():
        value = each.of(settings)
        is_in_a_file = getattr(getattr(settings, each.section, None), f"{each.key}_file", None) is not None
        if value != each.of(defaults) and not is_in_a_file:
            text = each.reader.toml(value) or '""'
            yield f"{each.path} = {text if len(text) <= _MAX_VALUE_CHARACTERS else f'{text[:_MAX_VALUE_CHARACTERS]}…'}"
