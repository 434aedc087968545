"""The settings: what can be set, with which default, type and range; how they are loaded, checked and shown.

A section is a frozen class, and a component takes exactly its own (`sections`). `load` reports every error at once; a
section that is constructed directly, as tests do, is taken as it is. No error and no dump ever shows a secret. Everybody may
import this module; the others of this package are its inner parts.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import attrs

from forwarder.settings.doubts import exposures, ignored_proxy
from forwarder.settings.sections import (
    AdminSettings,
    BufferSettings,
    ContractSettings,
    ControlSettings,
    DeadLettersSettings,
    DeliverySettings,
    GrowlyticsSettings,
    IntakeSettings,
    LogSettings,
    ReceiptsSettings,
    Settings,
    ShutdownSettings,
)
from forwarder.settings.sources import (
    Field,
    Layer,
    Name,
    certificates_fault,
    fields_of,
    gather,
    printable_path,
    read_secret_file,
    read_secrets,
    structure,
)
from forwarder.settings.values import Address, Group, RefusedError, Secret, size_text

__all__ = [
    "Address",
    "AdminSettings",
    "BufferSettings",
    "Changes",
    "ContractSettings",
    "ControlSettings",
    "DeadLettersSettings",
    "DeliverySettings",
    "Group",
    "GrowlyticsSettings",
    "IntakeSettings",
    "Loaded",
    "LogSettings",
    "Problem",
    "ReceiptsSettings",
    "RefusedError",
    "Secret",
    "SettingReference",
    "Settings",
    "SettingsError",
    "ShutdownSettings",
    "certificates_fault",
    "load",
    "merge",
    "read_secret_file",
    "reference",
    "shown",
    "to_toml",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    path: str
    """The dotted path of the setting, or the name of a source that could not be read."""
    message: str
    """What is wrong, the mend, and where the value was given."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class SettingsError(Exception):
    """The configuration cannot be used."""

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[str] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        """As in `Loaded`: a misspelt variable that was ignored may explain a problem."""


@dataclass(frozen=True)
class Loaded:
    """What `load` returns."""

    settings: Settings
    warnings: tuple[str, ...]
    """Sentences for the log or the terminal; without secrets."""


def load(
    config: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    require_api_key: bool = False,
) -> Loaded:
    """Load the settings, or raise `SettingsError` with every problem there is.

    Later sources win, value by value: the defaults, the TOML file `config`, `GROWLYTICS_API_KEY` and
    `GROWLYTICS_API_KEY_FILE`, the variables `FORWARDER_<SECTION>__<KEY>` of `environ`, and `overrides`, each written
    `section.key=value`. The default of `buffer.directory` is the first directory of `STATE_DIRECTORY` in `environ`, which
    systemd sets, if there is one.

    A secret may be given itself or as `*_file`, the path of a file that holds it; the settings then have both. To give
    both is an error, as nobody could tell which one is meant, with one exception: `GROWLYTICS_API_KEY` and
    `GROWLYTICS_API_KEY_FILE` may be in the environment for the app's sake, so they give way to a key or key file that a
    `FORWARDER_…` variable or an override names. They do not give way to `config`, which ranks below the environment.
    """
    given, failures, warnings = gather(config, environ, overrides, Settings)
    failures |= read_secrets(given, Settings)
    settings, refused, doubts = structure(given, Settings)
    failures |= refused
    warnings += doubts
    if given.keys().isdisjoint({("growlytics", "proxy"), ("growlytics", "proxy_file")}):
        warnings += filter(None, [ignored_proxy(environ, settings.growlytics.url)])
    warnings += exposures(settings.intake, settings.admin)
    if settings.growlytics.ca_file and (fault := certificates_fault(settings.growlytics.ca_file)):
        failures["growlytics", "ca_file"] = fault
    problems = [_problem(name, message, given) for name, message in failures.items()]
    # Rules compare settings, so what they compare must be known: the file was read, and neither was refused.
    if (str(config),) not in failures:
        for name, other, message in _broken_rules(settings, require_api_key=require_api_key):
            if failures.keys().isdisjoint((name, other)):
                problems.append(_problem(name, message, given))
    if problems:
        raise SettingsError(problems, warnings)
    return Loaded(settings, tuple(warnings))


def _problem(name: Name, message: str, given: Layer) -> Problem:
    origin = f" ({given[name].origin})" if name in given else ""
    return Problem(printable_path(name), message + origin)


def _broken_rules(settings: Settings, *, require_api_key: bool) -> Iterator[tuple[Name, Name, str]]:
    """Yield each rule between two settings that does not hold: both names, and what is wrong with the first one."""
    growlytics, delivery = settings.growlytics, settings.delivery
    intake, admin = settings.intake, settings.admin
    if require_api_key and growlytics.api_key is None:
        mend = "give it here or, better, in a file that growlytics.api_key_file names"
        yield ("growlytics", "api_key"), ("growlytics", "api_key_file"), f"is missing; {mend}"
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
        mend = "listen on 127.0.0.1, demand a token with intake.token_file, or accept it with "
        mend += "intake.allow_remote_without_token = true"
        yield ("intake", "http"), ("intake", "allow_remote_without_token"), f"{wrong}; {mend}"


@dataclass(frozen=True)
class Changes:
    """What `merge` returns."""

    settings: Settings
    """Those to use from now on."""
    taken_up: tuple[str, ...]
    """The paths of the settings that are other than before."""
    restart_needed: tuple[str, ...]
    """The paths of those that would be, but cannot while the daemon runs."""


def merge(used: Settings, loaded: Settings) -> Changes:
    """Return what changes for a daemon that uses the one and is to take up the other.

    Raises `SettingsError` if what it can take up does not go together with what it cannot.
    """
    changed = [field for field in fields_of(Settings) if _value(loaded, field) != _value(used, field)]
    settings = used
    for field in changed:
        if field.live:
            section = attrs.evolve(_holder(settings, field), **{field.key: _value(loaded, field)})
            settings = attrs.evolve(settings, **{field.section: section})
    broken = [
        Problem(printable_path(name), f"{message}; or restart the daemon, as not all that changed can be taken up")
        for name, _, message in _broken_rules(settings, require_api_key=True)
    ]
    if broken:
        raise SettingsError(broken)
    return Changes(
        settings,
        tuple(field.path for field in changed if field.live),
        tuple(field.path for field in changed if not field.live),
    )


def _holder(settings: Settings, field: Field) -> Any:
    """Return the section that has a setting."""
    return getattr(settings, field.section) if field.section else settings


def _value(settings: Settings, field: Field) -> object:
    return getattr(_holder(settings, field), field.key)


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as `to_toml` has them, parsed: by section and key, or by key at the top level."""
    return tomllib.loads(to_toml(settings))


def to_toml(settings: Settings) -> str:
    """Return the settings as TOML, secrets as `********`. What is not set is left out.

    A secret that came from a file is left out too, as the file is named and both together would be an error.
    """
    tables: dict[str, list[str]] = {"": []}
    for field in fields_of(Settings):
        text = field.reader.toml(_value(settings, field))
        if text is not None and getattr(_holder(settings, field), f"{field.key}_file", None) is None:
            tables.setdefault(field.section, []).append(f"{field.key} = {text}\n")
    return "\n".join((f"[{section}]\n" if section else "") + "".join(lines) for section, lines in tables.items())


@dataclass(frozen=True)
class SettingReference:
    """One setting, for documentation."""

    path: str
    type: str
    """What it takes, with unit and range."""
    default: str | None
    """As TOML text; None if there is none."""
    description: str
    live: bool
    """Whether a running daemon takes it up on SIGHUP."""


def reference() -> list[SettingReference]:
    """Return every setting that exists, in the order of the sections."""
    return [
        SettingReference(
            field.path, field.reader.type_text, field.reader.toml(field.default), field.description, field.live
        )
        for field in fields_of(Settings)
    ]
