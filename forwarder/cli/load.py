"""`load`: sends a file of events, one JSON object a line, to a running daemon.

The file is streamed in batches, one at a time. The daemon refuses invalid lines one by one; a batch that it has no room for
it refuses as a whole, and the same batch is sent again after a wait. Lines from a pipe wait until a batch is full or the
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
from forwarder.cli.clients import Patience, add_daemon_arguments, daemon_of, in_one_line
from forwarder.cli.daemon import (
    Daemon,
    DaemonAnswer,
    DaemonError,
    StoppedError,
    described_errors,
)
from forwarder.cli.lint import (
    TOO_LONG_MESSAGE,
    Line,
    UnreadableError,
    add_file_argument,
    file_name,
    numbered_lines,
    open_lines,
)
from forwarder.cli.options import Ticker, progress_bar, whole_number

MAX_BATCH_BYTES: Final = 512 * 1024
MAX_BATCH_EVENTS: Final = 1000
"""The most refused lines that the daemon lists for one request."""
MAX_LISTED_LINES: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    add_file_argument(parser)
    parser.add_argument(
        "--batch-events",
        metavar="N",
        type=whole_number(1, MAX_BATCH_EVENTS),
        default=500,
        help=f"events in one request, from 1 to {MAX_BATCH_EVENTS}; by default 500",
    )


def run(args: argparse.Namespace) -> int:
    """Send the file, and return 0 if every event in it was accepted."""
    daemon = daemon_of(args)
    name = file_name(args.file)
    try:
        with open_lines(args.file) as file, daemon:
            return _load(numbered_lines(file, name=name), daemon, LoadProgress(sys.stderr, _size_bytes(file)), args)
    except UnreadableError as error:
        print(error, file=sys.stderr)
        return EXIT_NO


def _load(lines: Iterable[Line], daemon: Daemon, progress: "LoadProgress", args: argparse.Namespace) -> int:
    loader = Loader(daemon, progress=progress)
    stopped = ""
    try:
        for batch in batches(loader.sendable(lines), max_events=args.batch_events, max_bytes=MAX_BATCH_BYTES):
            loader.send(batch)
    except DaemonError as error:
        stopped = error.explained
    except UnreadableError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = "interrupted"
    loader.finish(stopped)
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
    """Lines that are sent together."""

    lines: Sequence[Line]

    @property
    def body(self) -> bytes:
        return b"\n".join(line.text for line in self.lines if line.text is not None)

    @property
    def where(self) -> str:
        first, last = self.lines[0].number, self.lines[-1].number
        return f"line {first}" if first == last else f"lines {first} to {last}"


def batches(lines: Iterable[Line], *, max_events: int, max_bytes: int) -> Iterator[LoadBatch]:
    """Group lines in order, within both limits. A line that is longer than `max_bytes` is sent alone."""
    gathered: list[Line] = []
    gathered_bytes = 0
    for line in lines:
        assert line.text is not None, "`sendable` left out lines that are too long"
        line_bytes = len(line.text) + 1
        if gathered and (len(gathered) == max_events or gathered_bytes + line_bytes > max_bytes):
            yield LoadBatch(gathered)
            gathered, gathered_bytes = [], 0
        gathered.append(line)
        gathered_bytes += line_bytes
    if gathered:
        yield LoadBatch(gathered)


class LoadJudged(NamedTuple):
    """What the daemon decided about the lines of a batch."""

    accepted: int
    duplicates: int
    refusals: Sequence[tuple[int, Sequence[str]]]
    """The index and the errors of each refused line that the daemon lists."""


def judge(answer: DaemonAnswer, *, daemon: Daemon, count: int) -> LoadJudged | None:
    """Return what an answer to a batch of `count` lines means; None if it must be sent in smaller batches.

    Raises StoppedError if sending other batches is useless.
    """
    errors = described_errors(answer.content)
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
    refusals = [(each.index, described_errors({"errors": each.errors})) for each in found.rejected]
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
        self._unlisted = 0
        self._judged_to = 0

    def sendable(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Count the lines; yield those that can be sent, and refuse the others."""
        for line in lines:
            self.tally.read += 1
            if line.text is None:
                self._refuse(line, [TOO_LONG_MESSAGE])
            else:
                yield line

    def send(self, batch: LoadBatch) -> None:
        """Send a batch until the daemon has accepted or refused every line. Raises DaemonError."""
        pending = [batch]
        while pending:
            part = pending.pop()
            if (judged := self._judged(part)) is not None:
                self._count(part, judged)
            else:
                middle = len(part.lines) // 2
                pending += [LoadBatch(part.lines[middle:]), LoadBatch(part.lines[:middle])]
        self._progress.show(self.tally, done_bytes=batch.lines[-1].end_bytes)

    def finish(self, stopped: str) -> None:
        """Print the final messages; `stopped` says why not everything was sent, or is empty."""
        if self._unlisted:
            self._progress.say(f"… and {self._unlisted} more lines were refused")
        if stopped:
            self._progress.say(stopped)
            self._progress.say(f"the lines after line {self._judged_to} were not sent, or got no answer")
        self._progress.clear()

    def _judged(self, batch: LoadBatch) -> LoadJudged | None:
        body = batch.body
        answer, lost = self._patience.answer(
            lambda: self._daemon.post("/v1/events", body, content_type="application/x-ndjson"),
            doing=f"sending {batch.where}",
            doubt="they may have been accepted",
        )
        judged = judge(answer, daemon=self._daemon, count=len(batch.lines))
        if judged is not None:
            self.tally.possible_duplicates += lost * judged.accepted
        return judged

    def _count(self, batch: LoadBatch, judged: LoadJudged) -> None:
        self.tally.accepted += judged.accepted
        self.tally.duplicates += judged.duplicates
        for index, errors in judged.refusals:
            self._refuse(batch.lines[index], errors)
        unlisted = len(batch.lines) - judged.accepted - judged.duplicates - len(judged.refusals)
        self.tally.refused += unlisted
        self._unlisted += unlisted
        self._judged_to = batch.lines[-1].number

    def _refuse(self, line: Line, errors: Sequence[str]) -> None:
        self.tally.refused += 1
        if self.tally.refused > MAX_LISTED_LINES:
            self._unlisted += 1
            return
        self._progress.say(f"line {line.number}: {in_one_line(errors)}")


def _size_bytes(file: BinaryIO) -> int | None:
    """Return the size of the file; None for a pipe or a device."""
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None
