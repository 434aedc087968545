"""Nothing acknowledged is lost when the daemon is killed in the middle of its work, again and again.

What the clients know is compared with what the sandbox stored: a post that was answered is acknowledged, one whose
connection broke is unknown, and its events may be there or not. Each event is told from all others by its bytes.
"""

import asyncio
import json
import os
import random
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.processes import (
    Daemon,
    Sandbox,
    example_event,
    running_daemon,
    running_sandbox,
    starting_daemon,
    until,
)

EVENTS_PER_KILL = 400
CLIENTS = 6
POST_SIZES = (1, 1, 1, 1, 1, 1, 1, 1, 2, 5, 20)
LULL_SECONDS = 0.02
"""At most how long after so many answers a kill comes, so that its moment has nothing to do with an answer's."""
START_KILLED_EACH = 16
"""Every so many kills one hits a daemon that starts; nothing is unanswered then, and nothing on the wire."""
START_SECONDS = 0.6
MAX_CONCURRENCY = 64
SLOW_AND_FAILING = {"latency_ms": 20, "jitter_ms": 30, "fail_rate": 0.05, "fail_statuses": {"503": 9, "422": 1}}
SETTINGS = {
    "delivery__max_concurrency": MAX_CONCURRENCY,
    "delivery__retry_initial_seconds": 0.05,
    "delivery__retry_max_seconds": 1,
}


def written_in_many_ways(number: int) -> bytes:
    """Return an event as different apps write it, so that whoever encodes it anew alters it."""
    event = example_event(number)
    attributes = event["attributes"]
    assert isinstance(attributes, dict)
    attributes |= {"Größe": "größer \u2028 😀", "Exact": 9007199254740993 + number, "Price": "PRICE"}
    text = json.dumps(event, ensure_ascii=number % 2 == 0, separators=(",", ":") if number % 3 else (" ,  ", ": "))
    return text.replace('"PRICE"', "4531.50e0").encode()


@dataclass
class Books:
    """What the clients know of the events that they post, each named by its number."""

    bodies: Sequence[bytes]
    waiting: deque[int] = field(default_factory=deque)
    under_way: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    unknown: list[Sequence[int]] = field(default_factory=list)
    """One for each post whose connection broke."""
    answered: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.bodies)))

    @property
    def posted(self) -> int:
        """How many events were posted, and are not under way any more."""
        return len(self.acknowledged) + sum(map(len, self.unknown))

    @property
    def unknown_events(self) -> set[int]:
        return {number for post in self.unknown for number in post}

    async def post_all(self, daemon: Daemon, *, unix: bool, rng: random.Random) -> None:
        """Post, and wait for each answer, until no event waits or the daemon dies."""
        connector = aiohttp.UnixConnector(str(daemon.unix_socket)) if unix else None
        base = "http://localhost" if unix else daemon.base
        async with aiohttp.ClientSession(connector=connector) as http:
            while self.waiting:
                numbers = [self.waiting.popleft() for _ in range(min(rng.choice(POST_SIZES), len(self.waiting)))]
                self.under_way.update(numbers)
                try:
                    await self._post(http, base, numbers, as_array=rng.random() < 0.5)
                except aiohttp.ClientConnectorError:  # nothing was sent
                    self.waiting.extendleft(reversed(numbers))
                    return
                except aiohttp.ClientError:
                    self.unknown.append(numbers)
                    return
                finally:
                    self.under_way.difference_update(numbers)
                async with self.answered:
                    self.acknowledged.update(numbers)
                    self.answered.notify_all()

    async def _post(self, http: aiohttp.ClientSession, base: str, numbers: Sequence[int], *, as_array: bool) -> None:
        some = [self.bodies[number] for number in numbers]
        if len(some) == 1:
            path, body, content_type = "/track/event", some[0], "application/json"
        elif as_array:
            path, body, content_type = "/v1/events", b"[" + b" ,\n".join(some) + b"]", "application/json"
        else:
            path, body, content_type = "/v1/events", b"\n".join(some), "application/x-ndjson"
        async with http.post(base + path, data=body, headers={"Content-Type": content_type}) as response:
            answer = await response.json()
        assert response.status in (200, 202), answer
        assert answer.get("accepted", 1) == len(numbers), answer


@dataclass
class Kills:
    """What was true at each kill, and how many events the sandbox had stored when nothing of that life was under way."""

    unanswered: list[int] = field(default_factory=list)
    """Events whose posts were under way and never answered."""
    on_the_wire: list[int] = field(default_factory=list)
    """Attempts that the sandbox had before it and had not answered, counted after the kill."""
    stored: list[int] = field(default_factory=list)

    @property
    def in_the_middle(self) -> int:
        return sum(bool(posts and attempts) for posts, attempts in zip(self.unanswered, self.on_the_wire, strict=True))

    async def died(self, sandbox: Sandbox, *, unanswered: int, on_the_wire: int) -> None:
        async def at_rest() -> dict[str, Any] | None:
            counters = await sandbox.counters()
            return None if counters["in_flight"] else counters

        self.unanswered.append(unanswered)
        self.on_the_wire.append(on_the_wire)
        self.stored.append((await until(at_rest, "the sandbox is done with the attempts of the dead"))["stored"])


async def kill_while_it_works(
    daemon: Daemon, sandbox: Sandbox, books: Books, kills: Kills, *, goal: int, rng: random.Random
) -> None:
    """Have the clients post, and kill the daemon a little after `goal` events have been posted in all its lives."""
    at_least = max(goal, books.posted + 1)
    async with asyncio.TaskGroup() as tasks:
        for client in range(CLIENTS):
            tasks.create_task(books.post_all(daemon, unix=client % 2 == 0, rng=rng))
        async with books.answered:
            await books.answered.wait_for(lambda: books.posted >= at_least)
        await asyncio.sleep(rng.uniform(0, LULL_SECONDS))
        under_way = set(books.under_way)
        daemon.process.kill()
        on_the_wire = (await sandbox.counters())["in_flight"]
    await daemon.process.wait()
    await kills.died(sandbox, unanswered=len(under_way & books.unknown_events), on_the_wire=on_the_wire)


async def kill_while_it_starts(directory: Path, sandbox: Sandbox, kills: Kills, *, rng: random.Random) -> None:
    async with starting_daemon(directory, sandbox.url, **SETTINGS) as daemon:
        await asyncio.sleep(rng.uniform(0, START_SECONDS))
        daemon.process.kill()
        on_the_wire = (await sandbox.counters())["in_flight"]
        await daemon.process.wait()
    assert_nothing_went_wrong(daemon)
    await kills.died(sandbox, unanswered=0, on_the_wire=on_the_wire)


def assert_nothing_went_wrong(daemon: Daemon) -> None:
    """Among what would be told: that the ledger differs from the rows, and that the file is damaged."""
    assert not [line for line in daemon.lines if line["level"] in ("error", "critical")]


async def assert_ledger_balances(daemon: Daemon, books: Books) -> dict[str, Any]:
    """Check the ledger of all lives, and return it."""
    ledger: dict[str, Any] = (await daemon.status())["ledger"]["for_ever"]
    assert ledger["unaccounted"] == 0
    assert ledger["received"] == ledger["accepted"]
    assert ledger["duplicates"] == ledger["rejected"] == 0
    assert not any(ledger["dropped"].values())
    dead = sum(ledger["dead_lettered"].values())
    assert ledger["accepted"] == ledger["delivered"] + dead + ledger["buffered"]
    assert 0 <= ledger["accepted"] - len(books.acknowledged) <= len(books.unknown_events)
    return ledger


async def dead_letters(daemon: Daemon) -> list[bytes]:
    """Return what was sent for each dead letter, byte for byte."""
    bodies: list[bytes] = []
    after: str | None = "0"
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.unix_socket))) as http:
        while after is not None:
            path = f"/v1/dead-letters?payload=true&limit=100&after={after}"
            async with http.get(f"http://localhost{path}") as response:
                text = await response.read()
            page = json.loads(text)
            after = page["next"]
            # What comes before an event in the text was written by the daemon, and the event ends where its JSON does.
            for each in text.split(b'"event":')[1:]:
                _, end = json.JSONDecoder().raw_decode(each.decode())
                bodies.append(each.decode()[:end].encode())
            assert len(page["dead_letters"]) == text.count(b'"event":')
    return bodies


def assert_copies_are_due_to_kills(stored: Sequence[int], dead: Sequence[int], kills: Kills) -> Counter[int]:
    """Check that each kill had no more events sent again than could be in flight; return how many, by the kill.

    In flight is what is on the wire or waits for the commit of its ack: two for each permit at most. The sandbox resets no
    connection here, so that no answer is lost otherwise.
    """
    last_life: dict[int, int] = {}
    copies: Counter[int] = Counter()
    ended = [(number, bisect_right(kills.stored, place)) for place, number in enumerate(stored)]
    ended += [(number, len(kills.stored)) for number in dead]
    for number, life in ended:
        if number in last_life:
            assert last_life[number] < life, "an event was stored twice, and no kill in between"
            copies[last_life[number]] += 1
        last_life[number] = life
    assert all(count <= 2 * MAX_CONCURRENCY for count in copies.values()), copies
    return copies


@pytest.mark.parametrize(
    "number_of_kills",
    [
        pytest.param(18, marks=pytest.mark.timeout(180)),
        pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
async def test_nothing_acknowledged_is_lost_nothing_altered_and_nothing_invented_however_often_it_is_killed(
    tmp_path: Path, number_of_kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    with capsys.disabled():  # so that `make test` shows it, too
        print(f"\nKILL_SEED={seed}")
    rng = random.Random(seed)
    began = time.monotonic()
    books = Books([written_in_many_ways(number) for number in range(number_of_kills * EVENTS_PER_KILL)])
    kills = Kills()
    async with running_sandbox("--seed", str(seed)) as sandbox:
        await sandbox.faults(**SLOW_AND_FAILING)
        for kill in range(number_of_kills):
            if (kill + 1) % START_KILLED_EACH == 0:
                await kill_while_it_starts(tmp_path, sandbox, kills, rng=rng)
                continue
            async with running_daemon(tmp_path, sandbox.url, **SETTINGS) as daemon:
                await assert_ledger_balances(daemon, books)
                goal = int((kill + rng.random()) * 0.95 * EVENTS_PER_KILL)
                await kill_while_it_works(daemon, sandbox, books, kills, goal=goal, rng=rng)
            assert_nothing_went_wrong(daemon)
        killed_seconds = time.monotonic() - began

        async with running_daemon(tmp_path, sandbox.url, **SETTINGS) as daemon:
            await assert_ledger_balances(daemon, books)
            await sandbox.faults(latency_ms=0, jitter_ms=0)
            await asyncio.gather(*(books.post_all(daemon, unix=unix, rng=rng) for unix in (False, True)))
            await until(daemon.drained, "everything is delivered", seconds=30 + len(books.bodies) / 200)
            ledger = await assert_ledger_balances(daemon, books)
            stored_bodies = [body.encode() for body in await sandbox.raw()]
            dead_bodies = await dead_letters(daemon)
            assert await daemon.stop() == 0
        assert_nothing_went_wrong(daemon)

    number_of = {body: number for number, body in enumerate(books.bodies)}
    assert number_of.keys() >= {*stored_bodies, *dead_bodies}, "an event was altered, or nobody posted it"
    stored = [number_of[body] for body in stored_bodies]
    dead = [number_of[body] for body in dead_bodies]
    there = {*stored, *dead}
    copies = assert_copies_are_due_to_kills(stored, dead, kills)
    with capsys.disabled():
        print(
            f"{len(kills.stored)} kills, {kills.in_the_middle} of them with posts unanswered and attempts on the wire "
            f"({sum(kills.on_the_wire)} attempts); events: {len(books.acknowledged)} acknowledged, "
            f"{len(books.unknown_events)} unknown, {len(there & books.unknown_events)} of them there, {len(stored)} stored, "
            f"{len(dead)} dead letters, {copies.total()} duplicates, by one kill at most {max(copies.values())} of "
            f"{2 * MAX_CONCURRENCY} stated; "
            f"{killed_seconds:.1f} s of kills, {time.monotonic() - began:.1f} s in all"
        )
    assert kills.in_the_middle >= 0.8 * len(kills.stored)
    assert books.acknowledged | books.unknown_events == set(range(len(books.bodies)))
    assert books.acknowledged <= there, "acknowledged, and lost"
    assert len(dead) == len(set(dead)) == sum(ledger["dead_lettered"].values())
    assert all(there.issuperset(post) or there.isdisjoint(post) for post in books.unknown), "a part of a post was taken"
    assert ledger["accepted"] == len(books.acknowledged) + len(there & books.unknown_events)
    assert ledger["buffered"] == 0
    last = daemon.lines[-1]
    assert (last["message"], last["buffered"], last["unaccounted"]) == ("stopped", 0, 0)


@pytest.mark.parametrize(
    ("breaker_failures", "least_tried", "holds"),
    [pytest.param(10, 10, {"breaker"}, id="in a hold"), pytest.param(1_000_000, 100, set(), id="among retries")],
)
async def test_a_stop_during_an_outage_loses_nothing_and_everything_arrives_once_after_the_next_start(
    tmp_path: Path, breaker_failures: int, least_tried: int, holds: set[str]
) -> None:
    bodies = [written_in_many_ways(number) for number in range(2000)]
    async with running_sandbox() as sandbox:
        await sandbox.faults(down=True)
        async with running_daemon(
            tmp_path,
            sandbox.url,
            shutdown__drain_seconds=0.5,
            delivery__breaker_failures=breaker_failures,
            **SETTINGS,
        ) as daemon:
            lines = {"Content-Type": "application/x-ndjson"}
            async with daemon.http.post(f"{daemon.base}/v1/events", data=b"\n".join(bodies), headers=lines) as response:
                assert response.status == 202, await response.text()

            async def was_tried() -> bool:
                tried: int = (await sandbox.counters()).get("injected_503", 0)
                return tried >= least_tried and set((await daemon.status())["holds"]) == holds

            await until(was_tried, "some were tried")
            assert await daemon.stop() == 0
        last = daemon.lines[-1]
        assert (last["level"], last["message"], last["lost_events"]) == ("info", "stopped", 0)
        assert (last["accepted"], last["delivered"], last["buffered"], last["unaccounted"]) == (2000, 0, 2000, 0)

        await sandbox.faults(down=False)
        async with running_daemon(tmp_path, sandbox.url, **SETTINGS) as daemon:
            await until(daemon.drained, "everything is delivered")
            status = await daemon.status()
            assert await daemon.stop() == 0
        assert sorted(await sandbox.raw()) == sorted(body.decode() for body in bodies), "none lost, none twice"
        assert_nothing_went_wrong(daemon)
    ledger = status["ledger"]["for_ever"]
    assert (ledger["accepted"], ledger["delivered"], ledger["buffered"], ledger["unaccounted"]) == (2000, 2000, 0, 0)
    last = daemon.lines[-1]
    assert (last["accepted"], last["delivered"], last["buffered"], last["unaccounted"]) == (0, 2000, 0, 0)
