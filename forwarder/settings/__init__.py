"""The settings: what can be set, with which default, type and range; how they are loaded, checked and shown.

A section is a frozen class, and a component takes exactly its own (`sections`). `load` reports every error at once. A
section that is constructed directly, as tests do, is not checked. No error and no dump ever shows a secret. All modules may
import this one; the others of this package are its inner parts.
"""

import base64
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import attrs

from forwarder.settings.rules import broken_rules, exposures, ignored_proxy
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
    KnownSetting,
    Layer,
    Name,
    certificates_fault,
    gather,
    known_settings,
    printable_path,
    read_secret_file,
    read_secrets,
    structure,
)
from forwarder.settings.values import MAX_SOCKET_PATH_BYTES, Address, Group, RefusedError, Secret

__all__ = [
    "MAX_SOCKET_PATH_BYTES",
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
    "KnownSetting",
    "Loaded",
    "LogSettings",
    "Problem",
    "ReceiptsSettings",
    "RefusedError",
    "Secret",
    "Settings",
    "SettingsError",
    "ShutdownSettings",
    "Tried",
    "certificates_fault",
    "load",
    "merge",
    "read_secret_file",
    "reference",
    "secrets",
    "shown",
    "to_toml",
    "try_to_load",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    path: str
    """The dotted path of the setting, or the name of a source that could not be read."""
    message: str
    """What is wrong, how to fix it, and where the value was given."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class SettingsError(Exception):
    """The configuration cannot be used."""

    def __init__(
        self, problems: Sequence[Problem], warnings: Sequence[str] = (), *, log: LogSettings | None = None
    ) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        """What a person must know first comes first: how to give the key."""
        self.warnings = tuple(warnings)
        """As in `Loaded`; for example, a misspelt variable that was ignored may explain a problem."""
        self.log: Final = log or LogSettings()
        """How to log this: the settings as far as they can be used, else the defaults."""


@dataclass(frozen=True)
class Loaded:
    """What `load` returns."""

    settings: Settings
    warnings: tuple[str, ...]
    """Sentences for the log or the terminal, without secrets."""


@dataclass(frozen=True)
class Tried:
    """What `try_to_load` returns."""

    settings: Settings
    """A setting that cannot be used has its default, or none if it is a secret."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    given: frozenset[str]
    """The paths of the settings that some source gives; the others have their defaults."""


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

    A secret may be given itself or as `*_file`, the path of a file that holds it; the settings then have both. It is an
    error to give both, as it would not be clear which one is meant. There is one exception: `GROWLYTICS_API_KEY` and
    `GROWLYTICS_API_KEY_FILE` may be in the environment for the app, so a key or key file that a `FORWARDER_…` variable or
    an override gives replaces them. One in `config` does not, as the file ranks below the environment.
    """
    tried = try_to_load(config, environ=environ, overrides=overrides, require_api_key=require_api_key)
    if tried.problems:
        raise SettingsError(tried.problems, tried.warnings, log=tried.settings.log)
    return Loaded(tried.settings, tried.warnings)


def try_to_load(
    config: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    require_api_key: bool = False,
) -> Tried:
    """Return what `load` returns or raises: for a command that must look at what is wrong."""
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
    # Rules compare settings, so what they compare must be known: the file was read, and neither setting was refused.
    if (str(config),) not in failures:
        for name, other, message in broken_rules(settings, require_api_key=require_api_key):
            if failures.keys().isdisjoint((name, other)):
                problems.append(_problem(name, message, given))
    problems.sort(key=lambda problem: problem.path != "growlytics.api_key")
    return Tried(settings, tuple(problems), tuple(warnings), frozenset(map(printable_path, given)))


def _problem(name: Name, message: str, given: Layer) -> Problem:
    origin = f" ({given[name].origin})" if name in given else ""
    return Problem(printable_path(name), message + origin)


@dataclass(frozen=True)
class Changes:
    """What `merge` returns."""

    settings: Settings
    """The settings to use from now on."""
    taken_up: tuple[str, ...]
    """The paths of the settings that changed."""
    restart_needed: tuple[str, ...]
    """The paths of those that differ, but cannot change while the daemon runs."""


def merge(used: Settings, loaded: Settings) -> Changes:
    """Return what changes for a daemon that uses `used` and has loaded `loaded`.

    Raises `SettingsError` if the live settings of `loaded` do not fit the other settings of `used`.
    """
    changed = [each for each in known_settings(Settings) if each.of(loaded) != each.of(used)]
    settings = used
    for each in changed:
        if each.live:
            section = attrs.evolve(getattr(settings, each.section), **{each.key: each.of(loaded)})
            settings = attrs.evolve(settings, **{each.section: section})
    broken = [
        Problem(printable_path(name), f"{message}; or restart the daemon, as not all that changed can be taken up")
        for name, _, message in broken_rules(settings, require_api_key=True)
    ]
    if broken:
        raise SettingsError(broken)
    return Changes(
        settings,
        tuple(each.path for each in changed if each.live),
        tuple(each.path for each in changed if not each.live),
    )


def shown(settings: Settings) -> dict[str, Any]:
    """Return the content of `to_toml` as a dictionary: by section and key, or by key at the top level."""
    return tomllib.loads(to_toml(settings))


def to_toml(settings: Settings) -> str:
    """Return the settings as TOML, secrets as `********`. A setting without a value is left out.

    A secret that came from a file is left out too: the file is named, and both together would be an error.
    """
    tables: dict[str, list[str]] = {"": []}
    for each in known_settings(Settings):
        text = each.reader.toml(each.of(settings))
        section = getattr(settings, each.section) if each.section else settings
        if text is not None and getattr(section, f"{each.key}_file", None) is None:
            tables.setdefault(each.section, []).append(f"{each.key} = {text}\n")
    return "\n".join((f"[{section}]\n" if section else "") + "".join(lines) for section, lines in tables.items())


def secrets(settings: Settings) -> list[str]:
    """Return every secret of the settings, and the passwords in those that are URLs: only to hide them elsewhere."""
    found = [each.of(settings) for each in known_settings(Settings)]
    revealed = [each.reveal() for each in found if isinstance(each, Secret)]
    for url in revealed[:]:
        login, is_login, _ = url.partition("://")[2].rpartition("@")
        if is_login:
            password = login.partition(":")[2]
            encoded = base64.b64encode(unquote(login).encode()).decode("ascii")  # as a proxy gets it
            revealed += [login, unquote(login), password, unquote(password), encoded]
    return revealed


def reference() -> list[KnownSetting]:
    """Return every setting that exists, in the order of the sections, for documentation."""
    return known_settings(Settings)
