"""`dead-letters`, against a server that keeps dead letters as a daemon does."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from forwarder.cli import main
from forwarder.cli.clients import RETRY_SECONDS
from forwarder.cli.daemon import AnswerLostError, Daemon, Place, UnreachableError, url_argument
from forwarder.cli.dead_letter_changes import Changer, ChangeTally
from forwarder.cli.dead_letter_requests import MAX_PAGE_BYTES
from forwarder.cli.options import Ticker
from tests.fakes.commands import COMMAND, environment, exit_code, finish, start
from tests.fakes.dead_letter_daemon import (
    ERROR_TEXT,
    DeadLetterDaemon,
    answering,
    dead_letter_daemon,
    hang_up,
    no_answer,
    refusing,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORWARDER_INTAKE__HTTP", "FORWARDER_INTAKE__UNIX_SOCKET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def daemon() -> AsyncIterator[DeadLetterDaemon]:
    async with dead_letter_daemon() as running:
        yield running


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def ticker(said: io.StringIO) -> Ticker:
    return Ticker(said)


async def dead_letters(daemon: DeadLetterDaemon, *arguments: str) -> int:
    action, *others = arguments
    return await asyncio.to_thread(main, ["dead-letters", action, "--url", daemon.url, *others])


# list


async def test_list_shows_a_table_with_the_oldest_first_and_how_many_there_are(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    daemon.add(b'{"n":1.50}')
    daemon.add(name="View", reason="expired", status=None, attempts=12, last_attempt_at=None)
    assert await dead_letters(daemon, "list") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "ID   NAME         REASON    STATUS  ATTEMPTS  DIED                  BYTES\n"
        "101  Add To Cart  rejected     422         1  2025-11-23T12:13:22Z     10\n"
        "102  View         expired        -        12  -                         7\n"
        "shown 2 of 2 dead letters\n"
    )
    assert daemon.asked[0].target == "/v1/dead-letters?limit=100&answers=true"


async def test_list_goes_through_as_many_pages_as_the_limit_needs(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    ids = daemon.add_many(12)
    daemon.max_page = 4
    assert await dead_letters(daemon, "list", "--limit", "10") == 0
    *rows, last = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ids[:10]
    assert last == "shown 10 of 12 dead letters"
    assert [each.target.partition("?")[2] for each in daemon.asked] == [
        "limit=10&answers=true",
        "limit=6&after=104&answers=true",
        "limit=2&after=108&answers=true",
    ]


async def test_list_of_one_reason_says_that_the_total_is_of_all(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add_many(2)
    daemon.add(reason="ambiguous")
    assert await dead_letters(daemon, "list", "--reason", "ambiguous") == 0
    _, row, last = capsys.readouterr().out.splitlines()
    assert row.startswith("103 ")
    assert last == "shown 1 of 3 dead letters in all"


async def test_list_as_json_gives_nothing_but_one_object_a_line(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add(name="\x9b31m\ud83d")
    daemon.add(status=None)
    assert await dead_letters(daemon, "list", "--json") == 0
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert out.isascii()
    assert first == {name: value for name, value in daemon.entries["101"].items() if name not in {"customer", "answer"}}
    assert second["status"] is None
    assert err == "shown 2 of 2 dead letters\n"


async def test_list_of_none_says_so(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    assert await dead_letters(daemon, "list") == 0
    assert capsys.readouterr() == ("shown 0 of 0 dead letters\n", "")


async def test_a_name_cannot_play_with_the_terminal(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add(name="\x1b[2J\n\u202e\ud83d", reason="\r")
    assert await dead_letters(daemon, "list") == 0
    _, row, _ = capsys.readouterr().out.splitlines()
    assert row.isprintable()
    assert r"\x1b[2J\n\u202e\ud83d" in row


async def test_list_ends_quietly_when_the_reader_of_its_output_has_seen_enough(daemon: DeadLetterDaemon) -> None:
    daemon.add_many(2000)

    def head() -> tuple[int | None, bytes]:
        command = [*COMMAND, "dead-letters", "list", "--limit=2000", "--url", daemon.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            err = process.stderr.read()
        return process.returncode, err

    assert await asyncio.to_thread(head) == (1, b"")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"dead_letters": {}, "next": None, "events": 0},
        {"dead_letters": [{"id": "1"}], "next": None, "events": 1},
        {"dead_letters": [], "next": "x", "events": 0},
        {"dead_letters": [], "next": None, "events": True},
    ],
)
async def test_what_no_forwarder_answers_is_called_that(
    content: object, daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    daemon.steps.append(answering(content))
    assert await dead_letters(daemon, "list") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{daemon.url} answered 200, but not like a growlytics-forwarder")


async def test_a_cursor_that_does_not_move_ends_the_paging(daemon: DeadLetterDaemon) -> None:
    again = answering({"dead_letters": [], "next": "7", "events": 5})
    daemon.steps += [again, again]
    assert await dead_letters(daemon, "list") == 1
    assert len(daemon.asked) == 2


async def test_list_without_a_daemon_says_so_at_once(capsys: Capture, tmp_path: Path) -> None:
    missing = str(tmp_path / "no.sock")
    assert await asyncio.to_thread(main, ["dead-letters", "list", "--unix-socket", missing]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"no daemon can be reached at the Unix socket {missing}: ")


# show


async def test_show_tells_all_there_is_about_one(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add(b'{ "n" : 1.50,\r\n\t"s":"\\ud83d" }', answer='{"error":\n"\x1b[1m"}')
    assert await dead_letters(daemon, "show", "101") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "id:            101\n"
        "name:          Add To Cart\n"
        "customer:      c\n"
        "reason:        rejected\n"
        "status:        422\n"
        "attempts:      1\n"
        "accepted:      2025-11-23T12:13:20Z\n"
        "first attempt: 2025-11-23T12:13:21Z\n"
        "last attempt:  2025-11-23T12:13:22Z\n"
        "size:          30 bytes\n"
        'answer:        {"error":\\n"\\x1b[1m"}\n'
        'event:         { "n" : 1.50,   "s":"\\ud83d" }\n'
    )


async def test_show_of_an_id_that_is_not_there_is_its_no(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    assert await dead_letters(daemon, "show", "7") == 1
    assert capsys.readouterr() == ("", "there is no dead letter with the id 7, or no longer; `list` shows the ids\n")


@pytest.mark.parametrize("arguments", [("show", "101"), ("export",), ("replay", "--all"), ("purge", "--id", "101")])
async def test_who_is_not_let_in_is_told_what_to_do(
    arguments: tuple[str, ...], daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    daemon.is_open = False
    assert await dead_letters(daemon, *arguments) == 1
    mend = "run it with sudo and without --url; or use --unix-socket, or --token-file if the daemon has a token"
    assert f"{daemon.url} answered 401: no (unauthorized); {mend}\n" in capsys.readouterr().err


async def test_the_token_of_a_file_is_sent_and_never_shown(
    daemon: DeadLetterDaemon, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "token").write_text(" s3cret\n")
    daemon.is_open = False
    assert await dead_letters(daemon, "list", "--token-file", str(tmp_path / "token")) == 1
    assert daemon.asked[0].authorization == "Bearer s3cret"
    assert "s3cret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"s3cret\ntwo", "does not hold a token, which is printable ASCII"),
        (b"s3cret\xff", "does not hold a token, which is printable ASCII"),
        (b"s3cret" * 20_000, "is larger than 64 KiB, too large for a token"),
    ],
)
def test_a_token_file_that_cannot_be_used_ends_with_78(
    content: bytes | None, why: str, tmp_path: Path, capsys: Capture
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    address = ("--url", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token"))
    assert exit_code("dead-letters", "list", *address) == 78
    assert capsys.readouterr().err == f"--token-file names a file that {why}\n"


async def test_on_a_unix_socket_everything_is_open(tmp_path: Path, capsys: Capture) -> None:
    path = str(tmp_path / "intake.sock")
    async with dead_letter_daemon(path) as daemon:
        daemon.add()
        assert await asyncio.to_thread(main, ["dead-letters", "replay", "--all", "--unix-socket", path]) == 0
    assert daemon.replayed == ["101"]


# replay


async def test_replay_moves_all_in_chunks_the_oldest_first(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    ids = daemon.add_many(1100)
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert capsys.readouterr() == ("Replayed 1100 events (0 refused, 0 already gone, 0 remaining).\n", "")
    assert daemon.replayed == ids
    assert [len(each.ids) for each in daemon.changes] == [500, 500, 100]


async def test_replay_of_a_reason_leaves_the_others(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add_many(3)
    expired = daemon.add_many(2, reason="expired")
    assert await dead_letters(daemon, "replay", "--reason", "expired") == 0
    assert daemon.replayed == expired
    assert len(daemon.entries) == 3


async def test_what_dies_again_meanwhile_is_not_replayed_again(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    ids = daemon.add_many(700)
    daemon.dies_again = True
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert capsys.readouterr().out == "Replayed 700 events (0 refused, 0 already gone, 0 remaining).\n"
    assert daemon.replayed == ids
    assert len(daemon.entries) == 700


async def test_what_dies_while_they_are_listed_does_not_keep_the_listing_going(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(6)
    daemon.max_page = 2
    daemon.after_each_page = lambda: daemon.add_many(2)
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert daemon.replayed == ids


async def test_a_dry_run_says_what_would_become_of_them_and_changes_nothing(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(3)
    daemon.refused = {ids[1]}
    assert await dead_letters(daemon, "replay", "--all", "--dry-run") == 1
    out, err = capsys.readouterr()
    assert out == "Would replay 2 events (1 refused, 0 already gone, 0 remaining).\n"
    assert err == f"dead letter 102: {ERROR_TEXT}\n"
    assert daemon.changes[0].content == {"ids": ids, "dry_run": True}
    assert list(daemon.entries) == ids
    daemon.refused.clear()
    assert await dead_letters(daemon, "replay", "--all", "--dry-run") == 0


async def test_the_first_that_are_refused_are_named_with_their_errors(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(20)
    daemon.refused = set(ids[3:])
    assert await dead_letters(daemon, "replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == "Replayed 3 events (17 refused, 0 already gone, 0 remaining).\n"
    *named, last = err.splitlines()
    assert named == [f"dead letter {each}: {ERROR_TEXT}" for each in ids[3:13]]
    assert last == "… and 7 more were refused"


async def test_ids_that_are_no_longer_there_are_its_no_and_one_given_twice_counts_once(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    daemon.add_many(2)
    assert await dead_letters(daemon, "replay", "--id", "101", "7", "--id", "0101") == 1
    out, err = capsys.readouterr()
    assert out == "Replayed 1 event (0 refused, 1 already gone, 0 remaining).\n"
    assert err == "dead letter 7: it does not exist, or no longer\n"
    assert daemon.changes[0].ids == ["101", "7"]
    assert await dead_letters(daemon, "replay", "--id", "102") == 0


async def test_where_all_were_meant_those_that_are_gone_meanwhile_are_fine(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(3)

    def someone_else_came_first(_: web.BaseRequest) -> web.Response:
        daemon.replay(ids[:2])
        return web.json_response(daemon.replay(ids))

    daemon.steps += [None, someone_else_came_first]
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert capsys.readouterr() == ("Replayed 1 event (0 refused, 2 already gone, 0 remaining).\n", "")
    assert daemon.replayed == ids


async def test_where_more_would_never_fit_half_as_many_are_sent_in_the_same_order(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(10)
    daemon.max_ids = 3
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert daemon.replayed == ids
    assert [len(each.ids) for each in daemon.changes] == [10, 5, 2, 3, 5, 2, 3]


async def test_a_single_one_that_never_fits_is_refused(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add()
    daemon.max_ids = 0
    assert await dead_letters(daemon, "replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == "Replayed 0 events (1 refused, 0 already gone, 0 remaining).\n"
    assert err == "dead letter 101: no (body_too_large)\n"


async def test_an_answer_that_refuses_the_whole_stops_it(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add_many(2)
    daemon.steps += [None, refusing(500, "internal_error")]
    assert await dead_letters(daemon, "replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == "Replayed 0 events (0 refused, 0 already gone, 2 remaining).\n"
    assert err == f"{daemon.url} answered 500: no (internal_error)\n"


@pytest.mark.parametrize(
    "content",
    [
        {"replayed": [], "refused": [], "missing": []},
        {"replayed": [{"id": "101"}, {"id": "101"}], "refused": [], "missing": []},
        {"replayed": [{"id": "101"}, {"id": "9"}], "refused": [], "missing": []},
        {"replayed": [{"id": 101}], "refused": [], "missing": ["102"]},
        {"replayed": ["101"], "refused": [], "missing": ["102"]},
        {"replayed": [{"id": "101"}], "refused": [], "missing": "102"},
    ],
)
async def test_an_answer_that_does_not_account_for_each_leaves_them_in_doubt(
    content: object, daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    daemon.add_many(2)
    daemon.steps += [None, answering(content)]
    assert await dead_letters(daemon, "replay", "--all") == 1
    out, err = capsys.readouterr()
    assert out == "Replayed 0 events (0 refused, 0 already gone, 2 remaining).\n"
    assert "of those remaining, 2 were sent and got no answer: they may have been replayed" in err


async def test_if_even_the_listing_fails_all_are_left(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.steps += [refusing(500, "internal_error")]
    assert await dead_letters(daemon, "replay", "--all") == 1
    assert capsys.readouterr().out == "Replayed 0 events (0 refused, 0 already gone, all remaining).\n"


async def test_ctrl_c_says_how_far_it_got_and_repeating_sends_none_twice(
    daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(1200)

    def taken_in_silence(request: web.BaseRequest) -> None:
        daemon.replay(daemon.changes[-1].ids)
        process.send_signal(signal.SIGINT)

    daemon.steps += [None, None, None, taken_in_silence]
    process = await start("dead-letters", "replay", "--all", "--url", daemon.url)
    code, out, err = await finish(process)
    assert (code, out) == (1, "Replayed 500 events (0 refused, 0 already gone, 700 remaining).\n")
    assert err == "interrupted\nof those remaining, 500 were sent and got no answer: they may have been replayed\n"
    assert await dead_letters(daemon, "replay", "--all") == 0
    assert capsys.readouterr().out == "Replayed 200 events (0 refused, 0 already gone, 0 remaining).\n"
    assert daemon.replayed == ids


class Changing:
    """Replays in this process; its waits take no time, but for the clock, and are kept."""

    def __init__(self, url: str, *, per_second: int | None = None) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.tally = ChangeTally("replay")
        self._url = url
        self._per_second = per_second

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def change(self, ids: list[str], ticker: Ticker) -> ChangeTally:
        return await asyncio.to_thread(self._change, ids, ticker)

    def _change(self, ids: list[str], ticker: Ticker) -> ChangeTally:
        with Daemon(Place(url_argument(self._url))) as daemon:
            changer = Changer(
                daemon,
                tally=self.tally,
                ticker=ticker,
                per_second=self._per_second,
                sleep=self.sleep,
                clock=lambda: self.now,
            )
            changer.change(ids)
            changer.finish("")
        return self.tally


async def test_on_a_terminal_replay_shows_how_far_it_is_and_why_it_waits(daemon: DeadLetterDaemon) -> None:
    daemon.add_many(600)
    daemon.steps += [None, None, refusing(429, "buffer_full", "0")]
    terminal, stderr = pty.openpty()
    try:
        code, out, _ = await finish(await start("dead-letters", "replay", "--all", "--url", daemon.url, stderr=stderr))
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(stderr)
    assert (code, out) == (0, "Replayed 600 events (0 refused, 0 already gone, 0 remaining).\n")
    assert f"[{'#' * 16}{' ' * 4}]  83 % waiting 0.2 s: no (buffer_full); 500 of 600 dead " in shown
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown


async def test_failures_in_a_row_are_bounded(daemon: DeadLetterDaemon, ticker: Ticker) -> None:
    ids = daemon.add_many(2)
    daemon.steps += [hang_up] * (len(RETRY_SECONDS) + 1)
    changing = Changing(daemon.url)
    with pytest.raises(AnswerLostError):
        await changing.change(ids, ticker)
    assert changing.waits == list(RETRY_SECONDS)
    assert changing.tally.in_doubt == 2


async def test_where_nothing_was_sent_nothing_is_in_doubt(ticker: Ticker) -> None:
    async with dead_letter_daemon() as daemon:
        ids = daemon.add_many(2)
    changing = Changing(daemon.url)
    with pytest.raises(UnreachableError):
        await changing.change(ids, ticker)
    assert changing.waits == list(RETRY_SECONDS)
    assert changing.tally.in_doubt == 0


async def test_the_same_chunk_is_sent_again_after_the_time_the_daemon_asked_for(
    daemon: DeadLetterDaemon, ticker: Ticker
) -> None:
    ids = daemon.add_many(2)
    daemon.steps += [refusing(429, "buffer_full", "7"), refusing(503, "shutting_down", "0"), refusing(503, "x")]
    changing = Changing(daemon.url)
    assert str(await changing.change(ids, ticker)) == "Replayed 2 events (0 refused, 0 already gone, 0 remaining)."
    assert changing.waits == [7, 0.2, 1]
    assert [each.ids for each in daemon.changes] == [ids] * 4


async def test_a_chunk_whose_answer_was_lost_is_sent_again_and_none_is_replayed_twice(
    daemon: DeadLetterDaemon, ticker: Ticker, said: io.StringIO
) -> None:
    ids = daemon.add_many(2)

    def taken_and_lost(request: web.BaseRequest) -> web.StreamResponse | None:
        daemon.replay(ids)
        return hang_up(request)

    daemon.steps += [hang_up, taken_and_lost]
    changing = Changing(daemon.url)
    tally = await changing.change(ids, ticker)
    assert str(tally) == "Replayed 0 events (0 refused, 2 already gone, 0 remaining)."
    assert changing.waits == [0.2, 0.4]
    assert daemon.replayed == ids
    first, *_, last = said.getvalue().splitlines()
    assert first.endswith("they may have been replayed; sending 2 dead letters again in 0.2 s")
    assert last == ("of those already gone, up to 2 were replayed by a request whose answer was lost")


async def test_the_rate_sets_the_size_of_the_chunks_and_the_waits_between_them(
    daemon: DeadLetterDaemon, ticker: Ticker
) -> None:
    ids = daemon.add_many(10)
    changing = Changing(daemon.url, per_second=4)
    await changing.change(ids, ticker)
    assert [len(each.ids) for each in daemon.changes] == [4, 4, 2]
    assert changing.waits == [1, 1]


async def test_what_was_not_replayed_needs_no_wait(daemon: DeadLetterDaemon, ticker: Ticker) -> None:
    ids = daemon.add_many(8)
    daemon.replay(ids[:4])
    changing = Changing(daemon.url, per_second=4)
    await changing.change(ids, ticker)
    assert changing.waits == []


# export


async def test_export_gives_each_event_on_one_line_with_every_digit_and_escape(
    daemon: DeadLetterDaemon, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    daemon.add(b'{"n":1.50,"i":123456789012345678901234567890,"f":1E+2}')
    daemon.add(b'{ "name":\r\n\t"a\\n\\ud83d]},{" , "event":[[[[[[[["]"]]]]]]]] }')
    daemon.add(b'{"dead_letters":[{"event":1}],"u":"\xc3\xa9 \xc2\x9b","s":"\\u00e9"}')
    assert await export(daemon) == 0
    out, err = capfdbinary.readouterr()
    assert out == (
        b'{"n":1.50,"i":123456789012345678901234567890,"f":1E+2}\n'
        b'{ "name":   "a\\n\\ud83d]},{" , "event":[[[[[[[["]"]]]]]]]] }\n'
        b'{"dead_letters":[{"event":1}],"u":"\xc3\xa9 \xc2\x9b","s":"\\u00e9"}\n'
    )
    assert err == b"exported 3 events\n"


async def export(daemon: DeadLetterDaemon, *arguments: str) -> int:
    return await dead_letters(daemon, "export", *arguments)


async def test_on_a_terminal_export_escapes_what_a_terminal_would_obey(daemon: DeadLetterDaemon) -> None:
    daemon.add(b'{"s":"\xc2\x9b\x7f"}')
    terminal, stdout = pty.openpty()
    try:
        process = await start("dead-letters", "export", "--url", daemon.url, stdout=stdout)
        code, _, err = await finish(process)
        shown = os.read(terminal, 65536)
    finally:
        os.close(terminal)
        os.close(stdout)
    assert (code, err) == (0, "exported 1 event\n")
    assert shown == b'{"s":"\\u009b\\u007f"}\r\n'


async def test_export_goes_page_by_page_and_may_be_of_one_reason(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    for number in range(300):
        daemon.add(b'{"n":%d}' % number, reason="expired" if number % 2 else "rejected")
    assert await export(daemon, "--reason", "expired") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f'{{"n":{number}}}' for number in range(1, 300, 2)]
    assert err == "exported 150 events\n"
    assert [each.target.partition("?")[2] for each in daemon.asked] == [
        "limit=100&reason=expired&payload=true",
        "limit=100&after=300&reason=expired&payload=true",
    ]


async def test_export_asks_for_fewer_where_a_page_would_be_too_long(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    long = b'{"s":"%b"}' % (b"x" * (MAX_PAGE_BYTES // 2))
    events = [b"{}", long, long + b" ", long, b'{"s":"%b"}' % (b"x" * MAX_PAGE_BYTES), b"{}"]
    for event in events:
        daemon.add(event)
    assert await export(daemon) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [event.decode().rstrip() for event in events]
    limits = [int(each.target.partition("limit=")[2].partition("&")[0]) for each in daemon.asked]
    # After a page that fits, twice as many are asked for; in the end no more than are left.
    assert limits == [100, 50, 25, 12, 6, 3, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]


async def test_export_asks_again_for_a_page_whose_answer_was_lost(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add(b'{"n":1}')
    daemon.steps += [hang_up, refusing(503, "buffer_unavailable", "0")]
    assert await export(daemon) == 0
    out, err = capsys.readouterr()
    assert out == '{"n":1}\n'
    assert "was lost: the connection was closed; asking again in 0.2 s" in err


async def test_export_that_is_stopped_says_how_many_it_gave(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add_many(150)
    daemon.steps += [None, answering({"dead_letters": [{"event": 1}], "next": None, "events": 1})]
    assert await export(daemon) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 100
    assert "answered 200, but not like a growlytics-forwarder" in err
    assert err.endswith("\nexported 100 events\n")


async def test_ctrl_c_ends_export(daemon: DeadLetterDaemon) -> None:
    daemon.add()
    daemon.steps += [no_answer]
    process = await start("dead-letters", "export", "--url", daemon.url)
    await daemon.was_asked.wait()
    process.send_signal(signal.SIGINT)
    assert await finish(process) == (1, "", "interrupted\nexported 0 events\n")


# purge


async def test_purge_says_how_many_without_asking(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add_many(600)
    kept = daemon.add_many(2, reason="expired")
    assert await dead_letters(daemon, "purge", "--reason", "rejected") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"Purged 600 events of the daemon at .+ \(0 refused, 0 already gone, 0 remaining\)\.\n", out)
    assert err == ""
    assert list(daemon.entries) == kept
    assert [each.target for each in daemon.changes] == ["/v1/dead-letters/purge"] * 2
    assert daemon.changes[0].content.keys() == {"ids"}


async def test_purge_of_an_id_that_is_not_there_is_its_no(daemon: DeadLetterDaemon, capsys: Capture) -> None:
    daemon.add()
    assert await dead_letters(daemon, "purge", "--id", "101", "--id", "7") == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(r"Purged 1 event of the daemon at .+ \(0 refused, 1 already gone, 0 remaining\)\.\n", out)
    assert err == "dead letter 7: it does not exist, or no longer\n"


@pytest.mark.parametrize(
    "content",
    [
        {"purged": 1, "missing": []},
        {"purged": 1, "missing": ["7"]},
        {"purged": 0, "missing": ["101", "101"]},
        {"purged": -1, "missing": ["101", "102"]},
        {"purged": True, "missing": ["101"]},
    ],
)
async def test_a_purge_that_does_not_account_for_each_is_in_doubt(
    content: object, daemon: DeadLetterDaemon, capsys: Capture
) -> None:
    ids = daemon.add_many(2)
    daemon.steps += [answering(content)]
    assert await dead_letters(daemon, "purge", "--id", *ids) == 1
    assert "2 were sent and got no answer: they may have been purged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("replay",),
        ("purge",),
        ("replay", "--all", "--reason", "expired"),
        ("replay", "--id", "x"),
        ("replay", "--id", "1\n"),
        ("replay", "--all", "--rate", "0"),
        ("purge", "--reason", "a b"),
        ("list", "--reason", "full"),
        ("show", "../events"),
        ("list", "--limit", "0"),
        ("export", "--token-file"),
    ],
)
def test_arguments_that_cannot_be_meant_end_with_64(arguments: tuple[str, ...], capsys: Capture) -> None:
    assert exit_code("dead-letters", *arguments) == 64
