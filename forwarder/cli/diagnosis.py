"""All checks, one after the other: settings, the running daemon, the way to Growlytics, this machine.

Each has a deadline, and one that fails does not stop the others. Nothing is changed, no event is made and no key is sent.
Where a daemon runs and shows its settings, those count for what this command's own do not name: an operator's shell has
mostly none of the daemon's environment. Used by `diagnose` and `bundle`.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import attrs

from forwarder import places
from forwarder.cli import daemon_checks, machine
from forwarder.cli.checks import Checked, counted
from forwarder.cli.daemon import Daemon
from forwarder.cli.daemon_checks import DIAGNOSED_PARTS, DaemonFacts, look
from forwarder.cli.finding import UnusableError, find
from forwarder.cli.options import certificate_warnings
from forwarder.cli.probing import endpoint, probe_way
from forwarder.cli.streams import within
from forwarder.masking import Masking
from forwarder.settings import Problem, Settings, Tried, secrets, try_to_load
from forwarder.settings.sections import BufferKind
from forwarder.text import printable
from forwarder.words import WAY_STEPS

if TYPE_CHECKING:
    from forwarder.database.elsewhere import LeftBehind

_BUFFER_FILE: Final = "buffer.db"
_MAX_PROBLEMS: Final = 20
_DENIED: Final = os.strerror(13)


class ReadSettings(NamedTuple):
    """This command's settings."""

    tried: Tried
    sources: str
    """Where they come from, in words; empty if nothing is set anywhere."""
    config: Path | None

    @property
    def settings(self) -> Settings:
        """As far as they can be used."""
        return self.tried.settings

    @property
    def masking(self) -> Masking:
        """Hides their secrets."""
        return Masking(secrets(self.settings))


def ask_daemon(
    args: argparse.Namespace, environ: Mapping[str, str], *, parts: str = DIAGNOSED_PARTS, seconds: float
) -> DaemonFacts:
    """Ask the daemon that the arguments and settings name, or the one to be found, how it is."""
    try:
        daemon = Daemon(*within(seconds, partial(find, args, environ), name="settings"))
    except TimeoutError:
        return DaemonFacts(error="where a daemon is was not found out: a file that is needed for it hangs")
    except UnusableError as error:
        return DaemonFacts(error=str(error), fix="correct it; `growlytics-forwarder check-config` says more")
    with daemon:
        return look(daemon, parts=parts, seconds=seconds)


def read_settings(args: argparse.Namespace, environ: Mapping[str, str], *, seconds: float) -> ReadSettings:
    """Return the settings of `--config`, FORWARDER_CONFIG or, if nothing else is set, /etc; and of the environment."""
    try:
        return within(seconds, partial(_read_settings, args, environ), name="settings")
    except TimeoutError:
        why = f"a file that holds settings or a secret was not read within {seconds:.3g} s: is it a pipe, or its disk gone?"
        return ReadSettings(Tried(Settings(), (Problem("settings", why),), (), frozenset()), "", None)


def _read_settings(args: argparse.Namespace, environ: Mapping[str, str]) -> ReadSettings:
    named = args.config or (Path(environ[places.CONFIG_VARIABLE]) if environ.get(places.CONFIG_VARIABLE) else None)
    from_environ = sorted(
        name
        for name in environ
        if name in {"STATE_DIRECTORY", "GROWLYTICS_API_KEY", "GROWLYTICS_API_KEY_FILE"}
        or (name.startswith("FORWARDER_") and name != places.CONFIG_VARIABLE)
    )
    config = named
    if config is None and not any("__" in name for name in from_environ) and os.path.lexists(places.CONFIG):
        config = places.CONFIG
    sources = [str(config)] if config is not None else []
    sources += [f"the environment ({len(from_environ)})"] if from_environ else []
    sources += ["--set"] if args.overrides else []
    tried = try_to_load(config, environ=environ, overrides=args.overrides)
    if tried.settings.growlytics.ca_file is None and tried.settings.growlytics.url.startswith("https:"):
        tried = replace(tried, warnings=(*tried.warnings, *certificate_warnings(environ)))
    return ReadSettings(tried, ", ".join(sources), config)


def diagnose(read: ReadSettings, found: DaemonFacts, *, seconds: float) -> Iterator[Checked]:
    """Yield the result of every check. `found` is what the daemon says, if one runs."""
    yield from _check_settings(read, found)
    settings, differ = _effective(read, found)
    if differ:
        text = f"the running daemon uses other settings than this command for {', '.join(differ)}"
        yield Checked("settings", "warn", text, "restart it if they changed, or name its settings with --config")
    if found.other_host:
        text = f"the daemon runs on {found.other_host}, so its way to Growlytics may be another than the one tried here"
        yield Checked("settings", "warn", text, "run this there: in its container, or on its machine")
    directory = settings.buffer.directory if settings.buffer.kind == "disk" else None
    yield from daemon_checks.check_daemon(found, directory=directory)
    if not found.status and directory is not None:
        yield from _check_waiting(directory, seconds)
    denied = [each for each in read.tried.problems if _is_denied(each) and "api_key" in each.path]
    yield daemon_checks.check_key(
        found, has_key=settings.growlytics.api_key is not None, fault=str(denied[0]) if denied else ""
    )
    if why := _why_no_way(read, found):
        yield from (Checked(step, "skip", f"not tried: {why}") for step in WAY_STEPS if step != "proxy")
    else:
        if found.status and not found.shows_settings and settings.growlytics.proxy is None:
            text = "whether the daemon uses a proxy is not shown to this user, so none is tried"
            yield Checked("proxy", "skip", f"{text} ({found.why_no_debug})")
        for each in probe_way(settings.growlytics, seconds=seconds):
            # Events get through, so the server only dislikes the request that is made here.
            is_moot = each.check == "answer" and each.result == "fail" and found.delivers and not differ
            yield each._replace(result="warn", text=f"{each.text}, but the daemon delivers") if is_moot else each
    if found.other_host:
        text = f"the daemon runs on {found.other_host}, which has a disk of its own"
        yield from (Checked(check, "skip", text) for check in ("disk", "space", "fsync"))
    else:
        yield from machine.check_disk(settings, seconds=seconds, daemon_runs=bool(found.status))
    yield machine.check_descriptors(settings, found.descriptors)


def _check_waiting(directory: str, seconds: float) -> Iterator[Checked]:
    """Say how many events wait for a daemon, if any do and this user may see it."""

    def look_there() -> "LeftBehind | None":
        if not os.path.lexists(os.path.join(directory, _BUFFER_FILE)):  # noqa: PTH118 - it is text
            return None
        from forwarder.database.elsewhere import look_at  # few need it, and it takes a while

        return look_at(Path(directory))

    with suppress(TimeoutError, OSError):  # the disk hangs, as its own check will say
        waiting = within(seconds, look_there, name="buffer")
        if waiting is not None and not waiting.in_use:  # a daemon that uses it and does not answer is told already
            verb = "waits" if waiting.events == 1 else "wait"
            text = f"{counted(waiting.events, 'event')} {verb} in {printable(directory, 200)}, and nobody delivers them"
            facts = {"directory": printable(directory, 200), "events": waiting.events}
            yield Checked("buffer", "warn", text, "start the daemon with this buffer.directory", facts)


def _check_settings(read: ReadSettings, found: DaemonFacts) -> Iterator[Checked]:
    for problem in read.tried.problems[:_MAX_PROBLEMS]:
        if _is_denied(problem) and os.geteuid() != 0:
            fix = "run this as the daemon's user or root to look at it, too"
            yield Checked("settings", "warn", f"{problem}: this user may not read it", fix)
        else:
            yield Checked("settings", "fail", str(problem), "correct it; `growlytics-forwarder check-config` says more")
    for warning in read.tried.warnings[:_MAX_PROBLEMS]:
        yield Checked("settings", "warn", warning, "correct it, if it is not meant so")
    if not read.tried.problems:
        others = "the daemon's" if found.status else "the defaults"
        text = f"read from {read.sources}" if read.sources else f"none are set here, so {others} are tried"
        yield Checked("settings", "ok", text)


def _is_denied(problem: Problem) -> bool:
    return _DENIED in problem.message


def _effective(read: ReadSettings, found: DaemonFacts) -> tuple[Settings, list[str]]:
    """Return the settings to try, and the paths of those that this command has from elsewhere than the daemon.

    Where this command's sources say nothing, the daemon's settings count.
    """
    if not found.status:
        return read.settings, []
    settings = read.settings
    chosen: dict[str, Any] = {}
    differ: list[str] = []
    for path in ("growlytics.url", "growlytics.ca_file", "buffer.directory", "buffer.kind"):
        section, _, key = path.partition(".")
        ours, theirs = getattr(getattr(settings, section), key), found.setting(path)
        is_told = theirs is not None or (path == "growlytics.ca_file" and found.shows_settings)
        chosen[path] = theirs if is_told and path not in read.tried.given else ours
        if is_told and path in read.tried.given and _comparable(path, ours) != _comparable(path, theirs):
            differ.append(path)
    kind: BufferKind = "memory" if chosen["buffer.kind"] == "memory" else "disk"
    growlytics = attrs.evolve(settings.growlytics, url=chosen["growlytics.url"], ca_file=chosen["growlytics.ca_file"])
    buffer = attrs.evolve(settings.buffer, directory=chosen["buffer.directory"], kind=kind)
    return attrs.evolve(settings, growlytics=growlytics, buffer=buffer), differ


def _comparable(path: str, value: str | None) -> object:
    """Return a value in a form that both sides show: an absolute path, a URL without its query."""
    if value is None or path == "buffer.kind":
        return value
    if path == "growlytics.url":
        return endpoint(value), urlsplit(value).path
    return os.path.abspath(value)  # noqa: PTH100 - links stay


def _why_no_way(read: ReadSettings, found: DaemonFacts) -> str:
    """Return why the way to Growlytics is not known; empty if it is."""
    growlytics = read.settings.growlytics
    if growlytics.proxy_file is not None and growlytics.proxy is None:
        return "growlytics.proxy_file cannot be read, so the proxy is not known; run this as the daemon's user or root"
    has_proxy = found.setting("growlytics.proxy") is not None or found.setting("growlytics.proxy_file") is not None
    if has_proxy and growlytics.proxy is None:
        return (
            "the running daemon uses a proxy that this command's settings do not name; name its settings with --config"
        )
    return ""
