"""How `load` groups lines, what it makes of each answer, and what it shows."""

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.clients import RETRY_SECONDS, TryLater, later
from forwarder.cli.daemon import (
    AnswerLostError,
    Daemon,
    DaemonAnswer,
    DaemonError,
    HostPort,
    Place,
    StoppedError,
    UnreachableError,
)
from forwarder.cli.event_files import Entry, entries
from forwarder.cli.load import (
    MAX_LISTED,
    LoadBatch,
    Loader,
    LoadJudged,
    LoadProgress,
    LoadTally,
    batches,
    judge,
    progress_text,
)
from forwarder.cli.options import ErrorShown, progress_bar

PLACE = Place(HostPort("127.0.0.1", 8920))
ERROR = {"code": "empty", "field": "name", "message": "name must not be empty"}
SHOWN = ErrorShown("empty", "name", "name must not be empty")
ERROR_TEXT = "name: name must not be empty (empty)"
REFUSED = LoadJudged(0, 0, [(index, [SHOWN]) for index in range(3)])


class ScriptedDaemon(Daemon):
    """Gives the answers of a list, and keeps what was posted."""

    def __init__(self, *script: DaemonAnswer | DaemonError) -> None:
        super().__init__(PLACE)
        self.posted: list[bytes] = []
        self._script: Iterator[DaemonAnswer | DaemonError] = iter(script)

    def post(self, path: str, body: bytes, *, content_type: str, **_: float) -> DaemonAnswer:
        assert (path, content_type) == ("/v1/events", "application/x-ndjson")
        self.posted.append(body)
        step = next(self._script)
        if isinstance(step, DaemonError):
            raise step
        return step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """A loader over a scripted daemon; its waits take no time and are kept."""

    def __init__(self, *script: DaemonAnswer | DaemonError) -> None:
        self.daemon = ScriptedDaemon(*script)
        self.said = io.StringIO()
        self.waits: list[float] = []
        self.loader = Loader(self.daemon, progress=LoadProgress(self.said, None, clock=self.clock), sleep=self.sleep)

    def clock(self) -> float:
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def load(self, text: bytes, *, max_events: int = 500, max_event_bytes: int = 1000) -> LoadTally:
        lines = entries(io.BytesIO(text), name="f", max_event_bytes=max_event_bytes)
        for batch in batches(self.loader.sendable(lines), max_events=max_events, max_bytes=10_000):
            self.loader.send(batch)
        self.loader.finish("")
        return self.loader.tally

    @property
    def lines_said(self) -> list[str]:
        return self.said.getvalue().splitlines()


def taken(accepted: int, *rejected: int, duplicates: int = 0) -> DaemonAnswer:
    refusals = [{"index": index, "errors": [ERROR]} for index in rejected]
    return answer(202, {"accepted": accepted, "duplicates": duplicates, "rejected": refusals})


def answer(
    status: int, content: dict[str, object] | None = None, retry_after_seconds: int | None = None
) -> DaemonAnswer:
    return DaemonAnswer(
        status, {"success": False, "errors": [ERROR]} if content is None else content, retry_after_seconds
    )


def lost() -> AnswerLostError:
    return AnswerLostError("the answer was lost", fix="")


def unreachable() -> UnreachableError:
    return UnreachableError(["a: no"], fix="")


@given(st.lists(st.integers(1, 40)), st.integers(1, 5), st.integers(1, 60))
def test_batches_hold_every_line_in_order_and_keep_both_bounds(
    sizes: Sequence[int], max_events: int, max_bytes: int
) -> None:
    lines = [Entry(number, b"x" * size, 0) for number, size in enumerate(sizes, start=1)]
    found = list(batches(lines, max_events=max_events, max_bytes=max_bytes))
    assert [line for batch in found for line in batch.events] == lines
    for batch in found:
        assert 1 <= len(batch.events) <= max_events
        assert len(batch.body) <= max_bytes or len(batch.events) == 1
    for batch, following in pairwise(found):
        more = LoadBatch([*batch.events, following.events[0]])
        assert len(more.events) > max_events or len(more.body) + 1 > max_bytes, "a batch ends only at a bound"


def test_a_batch_is_its_lines_and_nothing_else() -> None:
    assert LoadBatch([Entry(2, b"a", 2), Entry(5, b"b", 9)]).body == b"a\nb"


@pytest.mark.parametrize(
    ("given_answer", "verdict"),
    [
        (taken(2, 1), LoadJudged(2, 0, [(1, [SHOWN])])),
        (taken(1, duplicates=2), LoadJudged(1, 2, [])),
        (answer(422, {"accepted": 0, "duplicates": 0, "rejected": []}), LoadJudged(0, 0, [])),
        (answer(422), REFUSED),
        (answer(400), REFUSED),
        (answer(408), REFUSED),
        (answer(500), REFUSED),
        (answer(413), None),
    ],
)
def test_an_answer_is_judged_by_status_and_content(given_answer: DaemonAnswer, verdict: object) -> None:
    assert judge(given_answer, daemon=Daemon(PLACE), count=3) == verdict


@pytest.mark.parametrize(
    ("given_answer", "wait"),
    [
        (answer(429, retry_after_seconds=7), TryLater(7, ERROR_TEXT)),
        (answer(429, retry_after_seconds=0), TryLater(0.2, ERROR_TEXT)),
        (answer(503, {}), TryLater(1, "answered 503")),
        (answer(500), None),
        (taken(1), None),
    ],
)
def test_full_and_stopping_daemons_ask_to_wait(given_answer: DaemonAnswer, wait: TryLater | None) -> None:
    assert later(given_answer) == wait


def test_a_single_line_that_is_too_large_is_refused_as_it_cannot_be_split() -> None:
    assert judge(answer(413), daemon=Daemon(PLACE), count=1) == LoadJudged(0, 0, [(0, [SHOWN])])


@pytest.mark.parametrize(
    "strange",
    [
        answer(200, {}),
        answer(202, {}),
        answer(202, {"accepted": 1, "duplicates": 0, "rejected": [{"index": 3}]}),
        answer(202, {"accepted": 1, "duplicates": 0, "rejected": [{"index": -1}]}),
        answer(202, {"accepted": 1, "duplicates": 0, "rejected": [7]}),
        answer(202, {"accepted": "1", "duplicates": 0, "rejected": []}),
        answer(202, {"accepted": 4, "duplicates": 0, "rejected": []}),
        answer(301, {}),
        answer(400, {}),
        answer(401),
        answer(403),
        answer(404),
        answer(405),
        answer(502, {}),
    ],
)
def test_where_no_batch_would_fare_better_loading_stops(strange: DaemonAnswer) -> None:
    with pytest.raises(StoppedError, match=r"127\.0\.0\.1:8920"):
        judge(strange, daemon=Daemon(PLACE), count=3)


def test_refused_lines_are_named_by_their_place_in_the_file() -> None:
    run = Run(taken(1, 1), taken(0, 0))
    tally = run.load(b"\na\n\nb\nc\n", max_events=2)
    assert run.daemon.posted == [b"a\nb", b"c"]
    assert run.lines_said == [f"line 4: {ERROR_TEXT}", f"line 5: {ERROR_TEXT}"]
    assert str(tally) == "read 3, accepted 1, refused 2"
    assert not tally.all_taken


def test_a_batch_that_is_refused_as_a_whole_is_refused_line_by_line() -> None:
    run = Run(answer(400), taken(1))
    tally = run.load(b"a\nb\nc", max_events=2)
    assert run.lines_said == [f"line 1: {ERROR_TEXT}", f"line 2: {ERROR_TEXT}"]
    assert str(tally) == "read 3, accepted 1, refused 2"


def test_a_batch_too_large_for_the_daemon_is_sent_in_parts_and_in_order() -> None:
    run = Run(answer(413), answer(413), taken(1), answer(413), taken(2))
    tally = run.load(b"a\nb\nc\nd")
    assert run.daemon.posted == [b"a\nb\nc\nd", b"a\nb", b"a", b"b", b"c\nd"]
    assert run.lines_said == [f"line 2: {ERROR_TEXT}"]
    assert str(tally) == "read 4, accepted 3, refused 1"


def test_the_same_batch_is_sent_again_after_the_time_the_daemon_asked_for() -> None:
    run = Run(answer(429, retry_after_seconds=3), answer(429, retry_after_seconds=8), answer(503, {}), taken(2))
    tally = run.load(b"a\nb")
    assert run.daemon.posted == [b"a\nb"] * 4
    assert run.waits == [3, 8, 1]
    (first, second) = run.lines_said
    assert first.startswith(f"waiting 3 s: {ERROR_TEXT}; ")
    assert second.startswith("waiting 1 s: answered 503; ")
    assert tally.all_taken
    assert str(tally) == "read 2, accepted 2, refused 0"


def test_after_a_lost_answer_the_batch_is_sent_again_and_what_may_be_double_is_counted() -> None:
    run = Run(lost(), lost(), taken(1, 1), taken(1))
    tally = run.load(b"a\nb\nc", max_events=2)
    assert run.daemon.posted == [b"a\nb"] * 3 + [b"c"]
    assert str(tally) == "read 3, accepted 2, refused 1, possible duplicates up to 2"
    assert run.lines_said[0] == "the answer was lost; they may have been accepted; sending lines 1 to 2 again in 0.2 s"


def test_where_nothing_was_sent_nothing_can_be_double() -> None:
    run = Run(unreachable(), taken(1))
    assert str(run.load(b"a")) == "read 1, accepted 1, refused 0"
    assert run.lines_said == ["no daemon can be reached at a: no; sending line 1 again in 0.2 s"]


def test_failures_in_a_row_are_bounded_and_wait_longer_and_longer() -> None:
    run = Run(*[unreachable()] * (len(RETRY_SECONDS) + 1))
    with pytest.raises(UnreachableError):
        run.load(b"a\nb")
    assert run.waits == list(RETRY_SECONDS) == sorted(RETRY_SECONDS)
    assert str(run.loader.tally) == "read 2, accepted 0, refused 0, not confirmed 2"


def test_an_answer_ends_the_row_of_failures() -> None:
    failures = [unreachable()] * len(RETRY_SECONDS)
    run = Run(*failures, answer(503), *failures, taken(1))
    assert (run.load(b"a")).all_taken


def test_a_line_too_long_for_any_daemon_is_refused_without_sending_it() -> None:
    run = Run(taken(2))
    tally = run.load(b"a\n" + b"x" * 20 + b"\nb", max_event_bytes=10)
    assert run.daemon.posted == [b"a\nb"]
    assert run.lines_said[0].startswith("line 2: the event is longer than")
    assert str(tally) == "read 3, accepted 2, refused 1"


def test_of_many_refused_lines_the_first_are_listed_and_the_others_counted() -> None:
    count = MAX_LISTED + 7
    run = Run(taken(0, *range(count)))
    run.load(b"a\n" * count)
    assert len(run.lines_said) == MAX_LISTED + 1
    assert run.lines_said[-1] == "… and 7 more events were refused"


def test_refusals_that_the_daemon_does_not_list_are_counted() -> None:
    run = Run(taken(1, 0))
    tally = run.load(b"a\nb\nc\nd")
    assert run.lines_said == [f"line 1: {ERROR_TEXT}", "… and 2 more events were refused"]
    assert tally.refused == 3


def test_of_one_line_a_few_errors_are_listed_and_the_others_counted() -> None:
    rejected = [{"index": 0, "errors": [ERROR] * 8}]
    run = Run(answer(422, {"accepted": 0, "duplicates": 0, "rejected": rejected}))
    run.load(b"a")
    assert run.lines_said == [f"line 1: {'; '.join([ERROR_TEXT] * 5)}; and 3 more"]


def test_who_is_stopped_is_told_where() -> None:
    run = Run(taken(2), answer(404))
    with pytest.raises(StoppedError):
        run.load(b"a\n\nb\nc", max_events=2)
    run.loader.finish("the reason")
    assert run.lines_said == ["the reason", "what is behind line 3 was not sent, or got no answer"]


def test_progress_is_told_in_words() -> None:
    tally = LoadTally(read=3000, accepted=2990, refused=10)
    text = progress_text(tally, 1 << 20, 4 << 20, seconds=2.0)
    assert text == "1.0 of 4.0 MiB, 3000 events, 1500/s, 10 refused"
    assert progress_text(tally, 1 << 20, None, seconds=0) == "1.0 MiB, 3000 events, 0/s, 10 refused"


@pytest.mark.parametrize(
    ("done", "total", "bar"),
    [
        (0, 100, f"[{' ' * 20}]   0 %"),
        (50, 100, f"[{'#' * 10}{' ' * 10}]  50 %"),
        (200, 100, f"[{'#' * 20}] 100 %"),
        (5, None, ""),
        (0, 0, ""),
    ],
)
def test_the_bar_is_as_long_as_the_share_of_the_file(done: int, total: int | None, bar: str) -> None:
    assert progress_bar(done, total) == bar


def test_where_no_terminal_is_a_line_comes_every_few_seconds_at_most() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = LoadProgress(stream, None, clock=lambda: now)
    for now in (1, 2, 5, 6, 9.9, 10):  # noqa: B007 - the clock reads it
        progress.show(LoadTally(), note="x")
    assert len(stream.getvalue().splitlines()) == 2


def test_on_a_terminal_a_note_is_shown_at_once_and_the_bar_makes_way_for_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = LoadProgress(stream, 100, clock=lambda: 0.0)
    progress.show(LoadTally(), done_bytes=50)
    assert stream.getvalue() == ""
    progress.show(LoadTally(), note="waiting")
    assert stream.getvalue().startswith(f"\r\x1b[K{progress_bar(50, 100)}")
    assert "\n" not in stream.getvalue()
    progress.say("line 1: bad")
    assert stream.getvalue().endswith("\r\x1b[Kline 1: bad\n")
