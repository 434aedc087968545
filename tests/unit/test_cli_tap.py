"""The command `tap` with a daemon that follows a script: what it does about each answer,."""

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from forwarder.cli.daemon import AnswerLostError, Daemon, DaemonAnswer, DaemonError, Place, UnreachableError
from forwarder.cli.tap import Watching
from forwarder.growlytics import json_text

LINE = {"at": 1.5, "id": "1", "name": "Add To Cart", "age_seconds": 0.1, "outcome": "accepted", "intake": "http"}


def answer(status: int, **content: Any) -> DaemonAnswer:
    text = orjson.dumps(content)
    parsed = json_text.parse(text)
    assert isinstance(parsed, dict)
    return DaemonAnswer(status, parsed, None, text)


def read(*lines: dict[str, Any], lost: int = 0, ended: str | None = None) -> DaemonAnswer:
    return answer(200, lines=list(lines), lost=lost, ended=ended)


def opened(tap_id: str = "7") -> DaemonAnswer:
    return answer(200, id=tap_id)


def refused(status: int, code: str) -> DaemonAnswer:
    return answer(status, errors=[{"code": code, "field": None, "message": "why"}])


def late() -> AnswerLostError:
    error = AnswerLostError("it took too long")
    error.__cause__ = TimeoutError()
    return error


Step = DaemonAnswer | BaseException


class ScriptedDaemon(Daemon):
    """Gives the answers of a list, and keeps what was asked."""

    def __init__(self, *script: Step) -> None:
        super().__init__(Place(None, "/run/control.sock"))
        self.asked: list[str] = []
        self.closed: list[object] = []
        self._script: Iterator[Step] = iter(script)

    def _step(self) -> DaemonAnswer:
        step = next(self._script)
        if isinstance(step, BaseException):
            raise step
        return step

    def get(self, path: str, **_: object) -> DaemonAnswer:
        self.asked.append(f"GET {path}")
        return self._step()

    def post(self, path: str, body: bytes, **_: object) -> DaemonAnswer:
        if path == "/v1/tap/close":
            self.closed.append(json.loads(body))
            return answer(200, closed=True)
        self.asked.append(f"POST {path} {body.decode()}")
        return self._step()


def watch(daemon: ScriptedDaemon, **request: Any) -> str:
    watching = Watching(daemon, **request)
    try:
        return watching.watch()
    finally:
        watching.close()


def test_it_asks_for_what_was_chosen_shows_lines_and_says_why_it_ended(capfd: pytest.CaptureFixture[str]) -> None:
    daemon = ScriptedDaemon(opened("7"), read(LINE), read(), read(LINE, ended="stopping"))
    assert watch(daemon, with_payloads=True, names=["a \udcff"], customers=["c"]) == "the daemon is stopping"
    request = '{"payloads": true, "names": ["a \\udcff"], "customers": ["c"]}'
    assert daemon.asked == [f"POST /v1/tap {request}", *["GET /v1/tap/7"] * 3]
    out = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["TIME", "00:00:01.500Z", "00:00:01.500Z"]
    assert daemon.closed == [], "it has ended already"


def test_json_has_no_heading_and_says_what_was_lost_where_it_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    daemon = ScriptedDaemon(opened(), read(LINE), read(LINE, lost=3, ended="closed"))
    assert watch(daemon, as_json=True) == "the daemon ended the tap"
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [LINE, {"lost": 3}, LINE]


@pytest.mark.parametrize(
    ("lost", "text"),
    [(1, "... 1 line is not shown: the output"), (12, "... 12 lines are not shown: the output was not read in time")],
)
def test_people_are_told_how_many_lines_are_missing(lost: int, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    watch(ScriptedDaemon(opened(), read(lost=lost, ended="stopping")))
    assert text in capfd.readouterr().out


def test_a_read_that_takes_too_long_is_made_again_as_this_process_may_have_been_stopped(
    capfd: pytest.CaptureFixture[str],
) -> None:
    daemon = ScriptedDaemon(opened(), late(), read(LINE), read(ended="stopping"))
    assert watch(daemon, as_json=True) == "the daemon is stopping"
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [{"lost": None}, LINE]


def test_a_tap_that_ended_while_this_process_was_stopped_is_followed_by_another(
    capfd: pytest.CaptureFixture[str],
) -> None:
    daemon = ScriptedDaemon(
        opened("7"), late(), refused(404, "not_found"), opened("8"), read(LINE), read(ended="stopping")
    )
    assert watch(daemon, as_json=True) == "the daemon is stopping"
    assert daemon.asked[-1] == "GET /v1/tap/8"
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [{"lost": None}, LINE]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (refused(404, "not_found"), "the daemon has stopped or was restarted"),
        (refused(503, "shutting_down"), "the daemon has stopped or was restarted"),
    ],
)
def test_a_tap_that_is_gone_though_it_was_read_means_that_the_daemon_has_gone(step: Step, why: str) -> None:
    daemon = ScriptedDaemon(opened(), read(), step)
    assert watch(daemon).startswith(why)
    assert daemon.closed == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([late(), late()], "it took too long"),
        ([UnreachableError("no daemon can be reached", fix="start it")], "no daemon can be reached"),
        ([AnswerLostError("the connection was closed")], "the connection was closed"),
        ([refused(403, "forbidden_user")], "answered 403: why"),
        ([answer(200, lines="x", lost=0, ended=None)], "not like a growlytics-forwarder"),
        ([answer(200)], "not like a growlytics-forwarder"),
    ],
)
def test_what_cannot_be_read_ends_it_and_the_tap_is_closed(script: list[Step], message: str) -> None:
    daemon = ScriptedDaemon(opened("7"), *script)
    with pytest.raises(DaemonError, match=message):
        watch(daemon)
    assert daemon.closed == [{"id": "7"}]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (refused(404, "not_found"), "has no taps"),
        (refused(429, "too_many_taps"), "answered 429: why"),
        (answer(200, id=7), "not like a growlytics-forwarder"),
        (answer(200, id="../x"), "not like a growlytics-forwarder"),
    ],
)
def test_a_tap_that_is_not_opened_is_an_error_and_nothing_is_closed(step: Step, message: str) -> None:
    daemon = ScriptedDaemon(step)
    with pytest.raises(DaemonError, match=message):
        watch(daemon)
    assert daemon.closed == []


def test_a_tap_is_closed_when_it_is_interrupted() -> None:
    daemon = ScriptedDaemon(opened("7"), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        watch(daemon)
    assert daemon.closed == [{"id": "7"}]
