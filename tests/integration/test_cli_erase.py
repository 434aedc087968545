"""`erase`, `dead-letters bury` and the filters of `dead-letters`, against the whole app in this process."""

import asyncio
import io
import json
import os
import pty
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from forwarder.cli import main
from forwarder.cli.letter_filters import since
from forwarder.sandbox.faults import Faults
from tests.fakes.commands import COMMAND, environment
from tests.integration.test_erase import DOWN, REJECTING, VICTIM, System, event, running, traces

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the commands no terminal as standard input, wherever the tests run."""
    monkeypatch.setattr("sys.stdin", io.StringIO())


async def command(system: System, *words: str) -> int:
    """Run a command of this daemon, and return its exit code."""
    control = str(system.directory / "control.sock")

    def run() -> int:
        try:
            return main([*words, "--unix-socket", control])
        except SystemExit as ended:
            return int(ended.code or 0)

    return await asyncio.to_thread(run)


async def typed(system: System, answer: bytes, *words: str) -> tuple[int, str]:
    """Run a command on a terminal, type an answer once it asks, and return its exit code and all that it showed."""
    outer, inner = pty.openpty()
    arguments = [*COMMAND, *words, "--unix-socket", str(system.directory / "control.sock")]
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=inner, stdout=inner, stderr=inner, env=environment()
    )
    os.close(inner)

    def converse() -> str:
        shown, has_answered = b"", False
        while True:
            try:
                part = os.read(outer, 4096)
            except OSError:  # the last one who had it open has ended
                return shown.decode(errors="replace")
            if not part:
                return shown.decode(errors="replace")
            shown += part
            if b"[y/N]" in shown and not has_answered:
                has_answered = True
                os.write(outer, answer)

    try:
        async with asyncio.timeout(30):
            shown = await asyncio.to_thread(converse)
            return await process.wait(), shown
    finally:
        os.close(outer)


async def test_erase_says_what_it_removed_and_not_of_whom(tmp_path: Path, capsys: Capture) -> None:
    async with running(tmp_path) as system:
        await system.accept([event("other", 0)])
        await system.until_settled()
        system.sandbox.faults = REJECTING
        await system.accept([event(VICTIM, 1)])
        await system.until_settled()
        system.sandbox.faults = DOWN
        await system.accept([event("a", 2)])
        await system.accept([event(VICTIM, n) for n in range(3, 6)])
        assert await command(system, "erase", "--customer", VICTIM, "--dry-run") == 0
        said = capsys.readouterr().out
        # While it is down, an attempt may be under way.
        assert said.startswith(
            ("Would erase 3 buffered events, 1 dead letter, ", "Would erase 2 buffered events, 1 dead ")
        )
        assert system.app.buffer.dead_letters.events == 1
        assert await command(system, "erase", "--customer", VICTIM, "--yes", "--json") == 0
        out, err = capsys.readouterr()
        erased = json.loads(out)
        assert (erased["complete"], erased["buffered"] + erased["in_flight"], erased["dead_letters"]) == (True, 3, 1)
        assert VICTIM not in out + err
        assert traces(system.directory) == {}


async def test_a_purge_of_a_customer_is_an_erasure(tmp_path: Path, capsys: Capture) -> None:
    async with running(tmp_path) as system:
        await system.accept([event("other", 0)])
        await system.until_settled()
        system.sandbox.faults = REJECTING
        await system.accept([event(VICTIM, 1)])
        await system.until_settled()
        system.sandbox.faults = DOWN
        await system.accept([event("a", 2), event(VICTIM, 3)])
        assert await command(system, "dead-letters", "purge", "--customer", VICTIM, "--dry-run") == 0
        said = capsys.readouterr().out
        assert said.startswith(
            ("Would erase 1 buffered event, 1 dead letter, ", "Would erase 0 buffered events, 1 dead ")
        )
        assert await command(system, "dead-letters", "purge", "--customer", VICTIM, "--yes") == 0
        assert capsys.readouterr().out.startswith("Erased 1 buffered event, 1 dead letter, ")
        assert system.app.buffer.ledger().dropped["erased"] == 1
        assert system.app.buffer.dead_letters.events == 0
        assert traces(system.directory) == {}


async def test_erase_asks_a_person_and_takes_anything_but_yes_for_no(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        await system.accept([event("c", 1), event("d", 2)])
        for answer in (b"n\n", b"\n", b"erase\n", b"\x04"):
            code, shown = await typed(system, answer, "erase", "--customer", "d")
            assert code == 1
            assert re.search("Would erase [01] buffered events?, .* of the daemon at the Unix socket ", shown)
            assert "nothing was changed" in shown
        assert system.app.buffer.occupancy().events == 2
        code, shown = await typed(system, b"y\n", "erase", "--customer", "d")
        assert code == 0
        assert re.search("Erased [01] buffered events?, .* of the daemon at the Unix socket ", shown)
        assert system.app.buffer.occupancy().events == 1


@pytest.mark.parametrize(
    "words", [("erase", "--customer", "c"), ("dead-letters", "bury", "1"), ("dead-letters", "purge", "--customer", "c")]
)
async def test_without_a_terminal_nothing_is_removed_unless_yes_is_said(
    tmp_path: Path, capsys: Capture, words: tuple[str, ...]
) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        await system.accept([event("c", 1)])
        assert await command(system, *words) == 64
        assert "add --yes" in capsys.readouterr().err
        assert system.app.buffer.occupancy().events == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("erase", "--customer", "", "--yes"), "must not be empty"),
        (("erase", "--yes"), "--customer"),
        (("dead-letters", "list", "--reason", "rejectd"), "Did you mean rejected?"),
        (("dead-letters", "list", "--reason", "zzz"), "rejected, expired, ambiguous"),
        (("dead-letters", "list", "--since", "yesterday"), "2h"),
        (("dead-letters", "list", "--since", "2x"), "2026-11-29"),
        (("dead-letters", "list", "--since", "1969-01-01"), "1970"),
        (("dead-letters", "list", "--since", ""), "neither an age"),
        (("dead-letters", "list", "--since", "-2h"), "--since"),
        (("dead-letters", "list", "--customer", ""), "must not be empty"),
        (("dead-letters", "replay"), "at least one of"),
        (("dead-letters", "replay", "--all", "--reason", "rejected"), "cannot be combined"),
        (("dead-letters", "purge", "--id", "1", "--since", "2h"), "cannot be combined"),
        (("dead-letters", "bury", "x", "--yes"), "digits"),
    ],
)
async def test_what_cannot_be_meant_is_a_usage_error(capsys: Capture, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, [*words, "--url", "http://127.0.0.1:9"])
    assert ended.value.code == 64
    assert said in capsys.readouterr().err


async def some_dead(system: System) -> None:
    await system.accept([event("first", 0)])
    await system.until_settled()
    system.sandbox.faults = REJECTING
    await system.accept([event("c", 1), {**event("d", 2), "name": "Signed Up"}, event("d", 3)])
    await system.until_settled()


def numbers(out: str) -> list[int]:
    return sorted(json.loads(line)["attributes"]["number"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), [1, 2, 3]),
        (("--customer", "d"), [2, 3]),
        (("--customer", "D"), []),
        (("--name", "Signed Up"), [2]),
        (("--name", "Signed Up", "--customer", "c"), []),
        (("--reason", "rejected", "--since", "1h"), [1, 2, 3]),
        (("--reason", "expired"), []),
        (("--since", "2999-01-01"), []),
        (("--since", "2020-01-01T00:00:00+02:00", "--customer", "c"), [1]),
    ],
)
async def test_the_filters_choose_what_is_exported(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], filters: tuple[str, ...], expected: list[int]
) -> None:
    async with running(tmp_path) as system:
        await some_dead(system)
        assert await command(system, "dead-letters", "export", *filters) == 0
        assert numbers(capsysbinary.readouterr().out.decode()) == expected


async def test_the_filters_choose_what_is_listed_replayed_and_purged(tmp_path: Path, capsys: Capture) -> None:
    async with running(tmp_path) as system:
        await some_dead(system)
        assert await command(system, "dead-letters", "list", "--customer", "d") == 0
        heading, *rows, last = capsys.readouterr().out.splitlines()
        assert len(rows) == 2
        assert last == "shown 2 of 3 dead letters in all"
        assert heading.split()[-1] == "ANSWER"
        assert await command(system, "dead-letters", "list", "--name", "Signed Up", "--json") == 0
        listed = json.loads(capsys.readouterr().out)
        assert (listed["status"], bool(listed["answer"])) == (422, True)
        one_name = ("--customer", "d", "--name", "Add To Cart")
        assert await command(system, "dead-letters", "purge", *one_name, "--dry-run") == 0
        assert "Would purge 1 event of the daemon at the " in capsys.readouterr().out
        assert await command(system, "dead-letters", "purge", "--customer", "d", "--name", "Add To Cart", "--yes") == 0
        assert system.app.buffer.dead_letters.events == 2
        system.sandbox.faults = Faults()
        assert await command(system, "dead-letters", "replay", "--since", "1h", "--name", "Signed Up") == 0
        await system.until_settled()
        assert system.app.buffer.dead_letters.events == 1
        assert [json.loads(each.raw)["attributes"]["number"] for each in system.sandbox.stored()] == [0, 2]


async def test_who_may_not_see_payloads_gets_the_list_without_answers_and_no_customers(tmp_path: Path) -> None:
    async with running(tmp_path) as system:
        await some_dead(system)
        address = f"http://{system.app.addresses['http']}"
        async with system.http.get("http://localhost/v1/dead-letters?answers=true") as response:
            assert all(each["answer"] for each in (await response.json())["dead_letters"])

        def ask(query: str) -> tuple[int, str]:
            try:
                with urlopen(f"{address}/v1/dead-letters?{query}") as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        status, text = await asyncio.to_thread(ask, "answers=true&name=Signed%20Up")
        assert status == 200
        assert [each.get("answer") for each in json.loads(text)["dead_letters"]] == [None]
        assert (await asyncio.to_thread(ask, "customer=d"))[0] == 401


async def test_bury_makes_what_waits_a_dead_letter_and_says_why_where_nothing_waits(
    tmp_path: Path, capsys: Capture
) -> None:
    async with running(tmp_path) as system:
        system.sandbox.faults = DOWN
        _, second = await system.accept([event("c", 1), event("c", 2)])
        assert await command(system, "dead-letters", "bury", second, "--dry-run") == 0
        assert "would become a dead letter" in capsys.readouterr().out
        assert system.app.buffer.dead_letters.events == 0
        assert await command(system, "dead-letters", "bury", second, "--yes") == 0
        out = capsys.readouterr().out
        assert re.search(f"^event {second} of the daemon at the .+ is now a dead letter", out)
        assert system.app.buffer.dead_letters.events == 1
        assert await command(system, "dead-letters", "bury", second, "--yes") == 1
        assert "its state is dead_letter" in capsys.readouterr().err
        assert await command(system, "dead-letters", "bury", "7", "--yes") == 1
        assert "it is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [("replay", "--all"), ("purge", "--reason=expired"), ("purge", "--all", "--dry-run")]
)
async def test_who_may_not_change_dead_letters_is_told_so_although_there_are_none(
    tmp_path: Path, capsys: Capture, change: tuple[str, ...]
) -> None:
    async with running(tmp_path) as system:
        url = f"http://{system.app.addresses['http']}"
        assert await asyncio.to_thread(main, ["dead-letters", *change, "--url", url]) == 1
        assert "run it with sudo and without --url; or use --unix-socket" in capsys.readouterr().err
        assert await command(system, "dead-letters", *change) == 0


def test_the_id_of_an_event_to_bury_is_one_that_waits(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["dead-letters", "bury", "abc"])
    assert "must be the id of an event that waits, which is digits" in capsys.readouterr().err


def test_an_age_or_a_time_is_read_as_what_it_says() -> None:
    now = time.time()
    for text, seconds in (("90s", 90), ("15m", 900), ("2h", 7200), ("1.5H", 5400), ("3d", 259_200), (" 1w ", 604_800)):
        assert now - since(text) == pytest.approx(seconds, abs=5)
    assert since("99999w") == 0
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
    for text in ("2026-11-29T12:00:00Z", "2026-11-29T12:00", "2026-11-29 14:00+02:00"):
        assert since(text) == noon
    assert since("2026-11-29") == noon - 43_200
