"""Checks of the running daemon, if one runs: does it answer, what does it say is wrong, does Growlytics accept its key?

What it answers is a stranger's text until shown otherwise: nothing is trusted, and texts are escaped and cut. Used by
`diagnosis`.
"""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from forwarder.cli.checks import Checked, counted
from forwarder.cli.daemon import AnswerLostError, Daemon, DaemonAnswer, DaemonError
from forwarder.cli.machine import lock_holder, process_state
from forwarder.text import duration, printable

_LATELY_SECONDS: Final = 60
_MAX_PROBLEMS: Final = 10
_MAX_NUMBER: Final = 10**15
_MAX_CHARACTERS: Final = 500
DIAGNOSED_PARTS: Final = "process,settings"
_UNAUTHORIZED: Final = 401
_FIRST_OF_SERVERS: Final = 500
"""From here on a status is a failure of the server, and says nothing of who asked."""
_MAY_BE_GOOD: Final = "see what the daemon says above; the key may be good"
UNTRIED_KEY: Final = "whether Growlytics accepts the API key cannot be tried without an event"
_MAX_STATUS_BYTES: Final = 4 * 1024 * 1024
_DEBUG_PATIENCE: Final = 3
"""How much longer than for its status a daemon may take to show its inside, as it has answered once."""
_MAX_DEBUG_BYTES: Final = 16 * 1024 * 1024
_SHOWN_IN_STATUS: Final = {
    "buffer.directory": ("buffer", "directory"),
    "buffer.kind": ("buffer", "kind"),
    "growlytics.url": ("delivery", "destination"),
}
"""Settings that the status shows to everybody: the directory as an absolute path, the URL without its query."""
_NOTHING: Final[Mapping[str, Any]] = {}


class DaemonFacts(NamedTuple):
    """What the running daemon says of itself."""

    status: Mapping[str, Any] = _NOTHING
    """Empty if none answers."""
    debug: Mapping[str, Any] = _NOTHING
    """Empty if it does not show that to this user."""
    place: str = ""
    """Where it answers."""
    why_no_debug: str = ""
    error: str = ""
    """Why there is no status."""
    is_silent: bool = False
    """Whether something accepted the question and did not answer it."""
    unix_socket: str | None = None
    """The Unix socket that was asked."""
    fix: str = ""

    @property
    def descriptors(self) -> Mapping[str, Any] | None:
        """Its open files and their limit; None if it does not say."""
        return _object(_object(self.debug.get("process")).get("descriptors")) or None

    @property
    def shows_settings(self) -> bool:
        """Whether it shows all of its settings to this user."""
        return bool(self.debug.get("settings"))

    @property
    def other_host(self) -> str:
        """The name of its machine or container, if that is not this one; empty if it is, or if it does not say."""
        theirs = self.status.get("instance")
        is_other = isinstance(theirs, str) and theirs != printable(socket.gethostname())
        return _text(theirs) if is_other else ""

    @property
    def delivers(self) -> bool:
        """Whether it has delivered something within the last minute."""
        at = _number(_object(self.status.get("delivery")).get("last_delivery_at"))
        return at is not None and abs(time.time() - at) < _LATELY_SECONDS

    def setting(self, path: str) -> str | None:
        """Return a setting of the daemon as text; None if it has none, does not say, or says what cannot be one."""
        value = None
        if (place := _SHOWN_IN_STATUS.get(path)) is not None:
            value = _object(self.status.get(place[0])).get(place[1])
        if value is None:
            section, _, key = path.partition(".")
            value = _object(_object(self.debug.get("settings")).get(section)).get(key)
        return value if isinstance(value, str) and _can_be_used(value) else None


def look(daemon: Daemon, *, parts: str, seconds: float) -> DaemonFacts:
    """Ask the daemon how it is, and for these parts of its inside."""
    try:
        answer = daemon.get("/v1/status", max_answer_bytes=_MAX_STATUS_BYTES, answer_seconds=seconds)
        if answer.status != 200 or not _is_status(answer):
            raise daemon.refused(answer)
    except DaemonError as error:
        fix = error.explained.removeprefix(str(error)).strip("; \n").splitlines()
        return DaemonFacts(
            error=printable(str(error), _MAX_CHARACTERS),
            fix=printable(fix[-1], _MAX_CHARACTERS) if fix else "",
            is_silent=isinstance(error, AnswerLostError),
            unix_socket=daemon.place.unix_socket,
        )
    try:
        inside = daemon.get(
            f"/v1/debug?parts={parts}", max_answer_bytes=_MAX_DEBUG_BYTES, answer_seconds=_DEBUG_PATIENCE * seconds
        )
        if inside.status != 200:
            raise daemon.refused(inside)
    except DaemonError as error:
        why = printable(error.explained, _MAX_CHARACTERS)
        return DaemonFacts(answer.content, place=str(daemon.place), why_no_debug=why)
    return DaemonFacts(answer.content, inside.content, place=str(daemon.place))


def check_daemon(found: DaemonFacts, *, directory: str | None) -> Iterator[Checked]:
    """Say whether it runs, and what it says is wrong. `directory` is that of the buffer, if it is on disk."""
    if not found.status:
        yield _absent(found, directory)
        return
    status = found.status
    state, version = (printable(str(status.get(name, "?"))) for name in ("state", "version"))
    pid = _number(status.get("pid"))
    facts = {"state": state, "version": version, "place": found.place, "pid": None if pid is None else int(pid)}
    text = f"version {version} answers at {found.place}: {state}{_uptime(status)}"
    fine = state == "ready"
    yield Checked("daemon", "ok" if fine else "warn", text, "" if fine else "wait until it is ready", facts)
    yield from _problems(status)
    yield _delivery(status)


def holder_of(found: DaemonFacts, directory: str | None) -> int | None:
    """Return the process that uses the buffer's directory, or the one that the Unix socket is in, as auto puts it."""
    beside = None if found.unix_socket is None else str(Path(found.unix_socket).parent)
    return next((each for each in map(lock_holder, filter(None, (directory, beside))) if each is not None), None)


def _absent(found: DaemonFacts, directory: str | None) -> Checked:
    """Say why there is no status: no daemon, or one that does not answer."""
    holder = holder_of(found, directory)
    if holder is None and not found.is_silent:
        return Checked("daemon", "warn", found.error or "no daemon answers", found.fix or "start it")
    state = process_state(holder) if holder else {}
    who = f"process {holder} ({state.get('state', 'of another namespace')})" if holder else "a daemon"
    fix = (
        "look at its log, and where it hangs (py-spy dump, /proc/PID/stack); a stopped process goes on with kill -CONT"
    )
    return Checked(
        "daemon", "fail", f"{who} runs and does not answer: {found.error}", fix, {"pid": holder, "process": state}
    )


def check_key(found: DaemonFacts, *, has_key: bool, fault: str) -> Checked:
    """Say what is known of the API key. `fault` is why this command may not read it."""
    if found.status:
        return _key_of_daemon(found.status)
    if fault:
        return Checked("key", "skip", f"{fault}; {UNTRIED_KEY}")
    if not has_key:
        fix = "set it in GROWLYTICS_API_KEY or, better, in a file that growlytics.api_key_file names"
        return Checked("key", "warn", "no API key is in the settings that this command reads, and `run` needs one", fix)
    return Checked("key", "skip", f"there is one; {UNTRIED_KEY}")


def _key_of_daemon(status: Mapping[str, Any]) -> Checked:
    delivery = _object(status.get("delivery"))
    failure, is_paused = _object(delivery.get("last_failure")), "auth" in _object(status.get("holds"))
    answered = _number(failure.get("status")) if failure.get("kind") == "status" else None
    is_refused = is_paused or (_delivers_nothing(status) and _number(_object(delivery.get("suspects")).get("events")))
    if is_refused and answered is not None and answered < _FIRST_OF_SERVERS:
        if answered == _UNAUTHORIZED:
            fix = "write a valid key into the file that growlytics.api_key_file names, or set it and restart the daemon"
            return Checked("key", "fail", "Growlytics refuses the daemon's API key", fix)
        text = f"the daemon was answered {int(answered)}, so whether the API key is accepted is not known"
        return Checked("key", "warn", text, _MAY_BE_GOOD)
    if is_paused:
        text = (
            f"{_text(failure.get('error')) or 'the daemon is refused'}: so whether the API key is accepted is not known"
        )
        return Checked("key", "warn", text, _MAY_BE_GOOD)
    delivered = _number(_object(delivery.get("attempts")).get("delivered"))
    if delivered:
        text = f"Growlytics accepted the daemon's API key: {counted(int(delivered), 'event')} delivered since its start"
        return Checked("key", "ok", text)
    return Checked("key", "skip", f"{UNTRIED_KEY}, and the running daemon has not delivered one yet")


def _delivers_nothing(status: Mapping[str, Any]) -> bool:
    """Return whether the daemon says that it does not deliver."""
    return _object(status.get("headline")).get("state") == "not_delivering"


def _problems(status: Mapping[str, Any]) -> Iterator[Checked]:
    """Yield what the daemon itself says is wrong."""
    problems = status.get("problems")
    for each in (problems if isinstance(problems, list) else [])[:_MAX_PROBLEMS]:
        problem = _object(each)
        text = " ".join(_text(problem.get(name)) for name in ("what", "cause") if problem.get(name))
        commands = problem.get("commands")
        others = [_text(each) for each in commands[:3]] if isinstance(commands, list) else []
        shown = [f"`{each}`" for each in others if " diagnose" not in each]
        fix = " ".join((_text(problem.get("fix")), ", ".join(shown))).strip()
        yield Checked(
            "daemon",
            "fail" if problem.get("mood") == "bad" else "warn",
            text or "something is wrong",
            fix or "see `growlytics-forwarder status`",
            {"kind": _text(problem.get("kind"))},
        )


def _delivery(status: Mapping[str, Any]) -> Checked:
    """Say when the daemon delivered last and what failed last: that is what cannot be tried from here."""
    delivery, holds = _object(status.get("delivery")), _object(status.get("holds"))
    failure, at = _object(delivery.get("last_failure")), _number(delivery.get("last_delivery_at"))
    delivered = int(_number(_object(delivery.get("attempts")).get("delivered")) or 0)
    text = f"{counted(delivered, 'event')} delivered since its start"
    if at:
        text += f", the last {_ago(at)}"
    failed_at = _number(failure.get("at"))
    if failure:
        host = _text(failure.get("host"))
        text += f"; last failure{f' {_ago(failed_at)}' if failed_at else ''}: {_text(failure.get('error'))}"
        text += f" ({host})" if host else ""
    facts = {
        "delivered": delivered,
        "last_delivery_at": at,
        "last_failure_at": failed_at,
        "holds": sorted(map(_text, holds)),
    }
    if holds:
        causes = ", ".join(sorted(map(_text, holds)))
        fix = "see the checks below, and `growlytics-forwarder status`"
        return Checked("delivery", "fail", f"delivery is paused ({causes}); {text}", fix, facts)
    if _delivers_nothing(status):
        fix = "see what the daemon says above, and `growlytics-forwarder status`"
        return Checked("delivery", "fail", f"nothing is delivered now; {text}", fix, facts)
    if failed_at and failed_at > (at or 0):
        return Checked(
            "delivery", "warn", text, "nothing was delivered since that failure: see the checks below", facts
        )
    return Checked("delivery", "ok", text, facts=facts)


def _is_status(answer: DaemonAnswer) -> bool:
    return isinstance(answer.content.get("state"), str) and isinstance(answer.content.get("ledger"), dict)


def _can_be_used(text: str) -> bool:
    """Whether a stranger's text can be a path, and if it looks like a URL, whether that can be split."""
    with suppress(ValueError):
        return text.isprintable() and ("://" not in text or urlsplit(text).port != 0)
    return False


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NOTHING


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MAX_NUMBER:
        return None
    return float(value)


def _text(value: object) -> str:
    return "" if value is None else printable(str(value), _MAX_CHARACTERS)


def _uptime(status: Mapping[str, Any]) -> str:
    seconds = _number(status.get("uptime_seconds"))
    return "" if seconds is None else f", up for {duration(seconds)}"


def _ago(at: float) -> str:
    return f"{duration(max(0.0, time.time() - at))} ago"
