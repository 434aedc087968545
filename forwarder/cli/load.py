"""`load`: sends a file of events to a running daemon. `event_files` says what files there may be.

The file is streamed in batches, one at a time. The daemon refuses invalid events one by one; a batch that it has no room for
it refuses as a whole, and the same batch is sent again after a wait. Events from a pipe wait until a batch is full or the
pipe ends.

If the connection breaks after a batch was sent and before its answer came, the command cannot know whether the daemon
accepted the batch. It sends the batch again, as losing events is worse. The events may then be delivered twice, and the
summary says how many at most.
"""

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import BinaryIO, Final, NamedTuple, TextIO

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import MAX_LISTED_ERRORS, Patience, add_daemon_arguments, daemon_of, in_one_line
from forwarder.cli.daemon import (
    Daemon,
    DaemonAnswer,
    DaemonError,
    StoppedError,
    shown_errors,
)
from forwarder.cli.event_files import Entry, UnreadableError, entries, file_name, open_file
from forwarder.cli.lint import FILE_HELP
from forwarder.cli.options import ErrorShown, Ticker, print_json, progress_bar, whole_number

MAX_BATCH_BYTES: Final = 512 * 1024
MAX_BATCH_EVENTS: Final = 1000
"""The most refused events that the daemon lists for one request."""
MAX_LISTED: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    parser.add_argument("file", metavar="FILE", help=FILE_HELP)
    parser.add_argument(
        "--batch-events",
        metavar="N",
        type=whole_number(1, MAX_BATCH_EVENTS),
        default=500,
        help=f"events in one request, from 1 to {MAX_BATCH_EVENTS}; by default 500",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Send the file, and return 0 if every event in it was accepted."""
    daemon = daemon_of(args, changes=True)
    name = file_name(args.file)
    try:
        with open_file(args.file) as file, daemon:
            return _load(entries(file, name=name), daemon, LoadProgress(sys.stderr, _size_bytes(file)), args)
    except UnreadableError as error:
        print(error, file=sys.stderr)
        if args.json:
            print_json({"file": name, **Loader(daemon, progress=LoadProgress(sys.stderr, None)).as_json(str(error))})
        return EXIT_NO


def _load(found: Iterable[Entry], daemon: Daemon, progress: "LoadProgress", args: argparse.Namespace) -> int:
    loader = Loader(daemon, progress=progress)
    stopped = ""
    try:
        for batch in batches(loader.sendable(found), max_events=args.batch_events, max_bytes=MAX_BATCH_BYTES):
            loader.send(batch)
    except DaemonError as error:
        stopped = error.explained
    except UnreadableError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = "interrupted"
    return _end(loader, stopped, args)


def _end(loader: "Loader", stopped: str, args: argparse.Namespace) -> int:
    loader.finish(stopped)
    if args.json:
        print_json({"file": file_name(args.file), **loader.as_json(stopped)})
    else:
        print(loader.tally)
    return EXIT_NO if stopped or not loader.tally.all_taken else EXIT_OK


@dataclass
class LoadTally:
    """What became of the events so far."""

    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    """Events that the daemon had accepted before."""
    refused: int = 0
    possible_duplicates: int = 0
    """An upper bound: events that were accepted after an earlier answer was lost."""

    @property
    def unconfirmed(self) -> int:
        return self.read - self.accepted - self.duplicates - self.refused

    @property
    def all_taken(self) -> bool:
        return self.read == self.accepted + self.duplicates

    def __str__(self) -> str:
        rare = {
            "duplicates": self.duplicates,
            "not confirmed": self.unconfirmed,
            "possible duplicates up to": self.possible_duplicates,
        }
        common = f"read {self.read}, accepted {self.accepted}, refused {self.refused}"
        return common + "".join(f", {words} {count}" for words, count in rare.items() if count)


class LoadProgress(Ticker):
    """Shows how much of the file was sent."""

    def __init__(self, stream: TextIO, total_bytes: int | None, *, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(stream, clock=clock)
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def show(self, tally: LoadTally, *, done_bytes: int | None = None, note: str = "") -> None:
        """Show progress as `tell` does."""
        self._done_bytes = self._done_bytes if done_bytes is None else done_bytes
        seconds = self._clock() - self._began
        text = progress_text(tally, self._done_bytes, self._total_bytes, seconds=seconds)
        self.tell(text, bar=progress_bar(self._done_bytes, self._total_bytes), note=note)


def progress_text(tally: LoadTally, done_bytes: int, total_bytes: int | None, *, seconds: float) -> str:
    """Return the progress in words."""
    mib = 1024 * 1024
    total = f" of {total_bytes / mib:.1f}" if total_bytes else ""
    rate = tally.read / seconds if seconds > 0 else 0.0
    return f"{done_bytes / mib:.1f}{total} MiB, {tally.read} events, {rate:.0f}/s, {tally.refused} refused"


class LoadBatch(NamedTuple):
    """Events that are sent together."""

    events: Sequence[Entry]

    @property
    def body(self) -> bytes:
        return b"\n".join(event.on_one_line for event in self.events)

    @property
    def where(self) -> str:
        first, last = self.events[0].number, self.events[-1].number
        return f"line {first}" if first == last else f"lines {first} to {last}"


def batches(events: Iterable[Entry], *, max_events: int, max_bytes: int) -> Iterator[LoadBatch]:
    """Group events in order, within both limits. An event that is longer than `max_bytes` is sent alone."""
    gathered: list[Entry] = []
    gathered_bytes = 0
    for event in events:
        assert event.text is not None, "`sendable` left out what has a fault"
        event_bytes = len(event.text) + 1
        if gathered and (len(gathered) == max_events or gathered_bytes + event_bytes > max_bytes):
            yield LoadBatch(gathered)
            gathered, gathered_bytes = [], 0
        gathered.append(event)
        gathered_bytes += event_bytes
    if gathered:
        yield LoadBatch(gathered)


class LoadJudged(NamedTuple):
    """What the daemon decided about the events of a batch."""

    accepted: int
    duplicates: int
    refusals: Sequence[tuple[int, Sequence[ErrorShown]]]
    """The index and the errors of each refused event that the daemon lists."""


def judge(answer: DaemonAnswer, *, daemon: Daemon, count: int) -> LoadJudged | None:
    """Return what an answer to a batch of `count` lines means; None if it must be sent in smaller batches.

    Raises StoppedError if sending other batches is useless.
    """
    errors = shown_errors(answer.content)
    match answer.status:
        case 202 | 422 if "rejected" in answer.content:
            return _judged(answer, daemon, count)
        case 413 if count > 1:
            return None
        case 401 | 403 if errors:
            raise StoppedError(f"{daemon.place} refused access: {errors[0]}", fix=daemon.fix_for(answer.status))
        case status if status >= 400 and status not in {404, 405, 415} and errors:
            return LoadJudged(0, 0, [(index, errors) for index in range(count)])
    raise daemon.strange(answer)


def _judged(answer: DaemonAnswer, daemon: Daemon, count: int) -> LoadJudged:
    from forwarder.cli.answers import EventsAnswer

    found = daemon.read(answer, EventsAnswer)
    if found.accepted + found.duplicates > count or any(each.index >= count for each in found.rejected):
        raise daemon.strange(answer)
    refusals = [(each.index, shown_errors({"errors": each.errors})) for each in found.rejected]
    return LoadJudged(found.accepted, found.duplicates, refusals)


class Loader:
    """Sends batches one after the other, and counts."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        progress: LoadProgress,
        sleep: Callable[[float], object] = sleep,
    ) -> None:
        self.tally = LoadTally()
        self._daemon = daemon
        self._progress = progress
        self._patience = Patience(say=progress.say, note=lambda note: progress.show(self.tally, note=note), sleep=sleep)
        self._listed: list[dict[str, object]] = []
        self._faulty: list[Entry] = []
        """What cannot be sent and was not told yet: it waits for what is before it in the file."""
        self._unlisted = 0
        self._last: Entry | None = None
        """The last event that was accepted or refused by the daemon."""

    def sendable(self, found: Iterable[Entry]) -> Iterator[Entry]:
        """Count what should be events; yield what can be sent, and refuse the rest."""
        for entry in found:
            self.tally.read += 1
            if entry.fault is not None:
                self.tally.refused += 1
                if len(self._faulty) + len(self._listed) < MAX_LISTED:
                    self._faulty.append(entry)
                else:
                    self._unlisted += 1
            else:
                yield entry

    def send(self, batch: LoadBatch) -> None:
        """Send a batch until the daemon has accepted or refused every event. Raises DaemonError."""
        pending = [batch]
        while pending:
            part = pending.pop()
            if (judged := self._judged(part)) is not None:
                self._count(part, judged)
            else:
                middle = len(part.events) // 2
                pending += [LoadBatch(part.events[middle:]), LoadBatch(part.events[:middle])]
        self._progress.show(self.tally, done_bytes=batch.events[-1].end_bytes)

    def finish(self, stopped: str) -> None:
        """Print the final messages; `stopped` says why not everything was sent, or is empty."""
        self._tell([])
        if self._unlisted:
            self._progress.say(f"… and {self._unlisted} more events were refused")
        if stopped:
            self._progress.say(stopped)
            behind = f"what is behind {self._last.where}" if self._last else "the file"
            self._progress.say(f"{behind} was not sent, or got no answer")
        self._progress.clear()

    def as_json(self, stopped: str) -> dict[str, object]:
        """Return the result for programs; `stopped` as for `finish`."""
        tally = self.tally
        return {
            "read": tally.read,
            "accepted": tally.accepted,
            "duplicates": tally.duplicates,
            "refused": tally.refused,
            "not_confirmed": tally.unconfirmed,
            "possible_duplicates": tally.possible_duplicates,
            "refusals": self._listed,
            "left_out": self._unlisted,
            "last_line": self._last.number if self._last else 0,
            "stopped": stopped or None,
        }

    def _judged(self, batch: LoadBatch) -> LoadJudged | None:
        body = batch.body
        answer, lost = self._patience.answer(
            lambda: self._daemon.post("/v1/events", body, content_type="application/x-ndjson"),
            doing=f"sending {batch.where}",
            doubt="they may have been accepted",
        )
        judged = judge(answer, daemon=self._daemon, count=len(batch.events))
        if judged is not None:
            self.tally.possible_duplicates += lost * judged.accepted
        return judged

    def _count(self, batch: LoadBatch, judged: LoadJudged) -> None:
        self.tally.accepted += judged.accepted
        self.tally.duplicates += judged.duplicates
        self._tell([(batch.events[index], errors) for index, errors in judged.refusals])
        self.tally.refused += len(judged.refusals)
        unlisted = len(batch.events) - judged.accepted - judged.duplicates - len(judged.refusals)
        self.tally.refused += unlisted
        self._unlisted += unlisted
        self._last = batch.events[-1]

    def _tell(self, refused: Sequence[tuple[Entry, Sequence[ErrorShown]]]) -> None:
        """Tell what was refused, in the order of the file."""
        faulty = [(entry, [entry.fault]) for entry in self._faulty if entry.fault is not None]
        self._faulty = []
        for entry, errors in sorted([*faulty, *refused], key=lambda each: (each[0].number, each[0].ordinal)):
            if len(self._listed) == MAX_LISTED:
                self._unlisted += 1
                continue
            self._progress.say(f"{entry.where}: {in_one_line(list(map(str, errors)))}")
            shown = [each._asdict() for each in errors[:MAX_LISTED_ERRORS]]
            self._listed.append({"line": entry.number, "event": entry.ordinal, "errors": shown})


def _size_bytes(file: BinaryIO) -> int | None:
    """Return the size of the file; None for a pipe or a device."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None
