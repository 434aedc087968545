"""How `dead-letters` replays and purges: it sends ids in chunks, and the daemon does each chunk as a whole or not at all.

A chunk whose answer was lost is sent again. That does no harm: a replayed event is no longer a dead letter, so none is
replayed twice, even if the command is interrupted and started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from forwarder.cli.clients import Patience, in_one_line
from forwarder.cli.daemon import Daemon, DaemonAnswer, StoppedError, UnreachableError, described_errors
from forwarder.cli.dead_letter_requests import Action, Decided, judge, post
from forwarder.cli.options import Ticker, progress_bar

MAX_CHUNK_IDS: Final = 500
MAX_LISTED: Final = 10
"""The most refused dead letters, and the most missing ones, that are listed one by one."""


@dataclass
class ChangeTally:
    """What became of the dead letters so far."""

    action: Action
    dry_run: bool = False
    asked: int | None = None
    """None until all ids are known."""
    done: int = 0
    refused: int = 0
    missing: int = 0
    missing_after_loss: int = 0
    """Those of `missing` that a request whose answer was lost may have moved."""
    in_doubt: int = 0
    """Those of the remaining ones that were sent without a known answer."""

    where: str = ""
    """Where the daemon was found, in words, if it is told."""

    @property
    def handled(self) -> int:
        return self.done + self.refused + self.missing

    @property
    def done_word(self) -> str:
        return "replayed" if self.action == "replay" else "purged"

    def __str__(self) -> str:
        done = f"Would {self.action}" if self.dry_run else self.done_word.capitalize()
        left = "all" if self.asked is None else self.asked - self.handled
        events = f"{self.done} event{'' if self.done == 1 else 's'}"
        at = f" of the daemon at {self.where}" if self.where else ""
        return f"{done} {events}{at} ({self.refused} refused, {self.missing} already gone, {left} remaining)."


class Pace:
    """Says when the next chunk may be sent, so that at most `per_second` events a second are moved. Pure."""

    def __init__(self, per_second: int | None) -> None:
        self._per_second = per_second
        self._due = 0.0

    def wait_seconds(self, now: float) -> float:
        return max(self._due - now, 0.0) if self._per_second else 0.0

    def moved(self, events: int, *, sent_at: float) -> None:
        """Note that a chunk was moved. Unused time is not caught up."""
        if self._per_second:
            self._due = sent_at + events / self._per_second


class Changer:
    """Sends chunks one after the other, and counts."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        tally: ChangeTally,
        ticker: Ticker,
        per_second: int | None = None,
        sleep: Callable[[float], object] = sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.tally: Final = tally
        self._daemon = daemon
        self._patience = Patience(say=ticker.say, note=self._show, sleep=sleep)
        self._ticker = ticker
        self._max_ids = min(MAX_CHUNK_IDS, per_second or MAX_CHUNK_IDS)
        self._pace = Pace(None if tally.dry_run else per_second)
        self._sleep = sleep
        self._clock = clock
        self._sent_at = clock()

    def change(self, ids: Sequence[str], *, name_missing: bool = False) -> None:
        """Replay or purge `ids` in order. Raises DaemonError."""
        self.tally.asked = len(ids)
        # A stack: the last chunk is first.
        pending = [ids[at : at + self._max_ids] for at in range(0, len(ids), self._max_ids)][::-1]
        while pending:
            chunk = pending.pop()
            if wait_seconds := self._pace.wait_seconds(self._clock()):
                self._sleep(wait_seconds)
            decided = self._decided(chunk)
            if decided is None:
                middle = len(chunk) // 2
                pending += [chunk[middle:], chunk[:middle]]
            else:
                self._count(decided, name_missing=name_missing)
        self._ticker.clear()

    def finish(self, stopped: str) -> None:
        """Print the final messages; `stopped` says why not all were sent, or is empty."""
        self._ticker.clear()
        if stopped:
            self._ticker.say(stopped)
        tally = self.tally
        if tally.in_doubt:
            self._ticker.say(
                f"of those remaining, {tally.in_doubt} were sent and got no answer: they may have been {tally.done_word}"
            )
        if tally.missing_after_loss:
            self._ticker.say(
                f"of those already gone, up to {tally.missing_after_loss} "
                f"were {tally.done_word} by a request whose answer was lost"
            )
        if tally.refused > MAX_LISTED:
            self._ticker.say(f"… and {tally.refused - MAX_LISTED} more were refused")

    def _decided(self, chunk: Sequence[str]) -> Decided | None:
        answer, lost = self._patience.answer(
            lambda: self._ask(chunk),
            doing=f"sending {len(chunk)} dead letters",
            doubt="" if self.tally.dry_run else f"they may have been {self.tally.done_word}",
        )
        try:
            decided = judge(self.tally.action, answer, chunk, self._daemon)
        except StoppedError:
            if not described_errors(answer.content) and not self.tally.dry_run:
                self.tally.in_doubt = len(chunk)
            raise
        if decided is not None:
            self._pace.moved(decided.done, sent_at=self._sent_at)
            if lost and not self.tally.dry_run:
                self.tally.missing_after_loss += len(decided.missing)
        return decided

    def _ask(self, chunk: Sequence[str]) -> DaemonAnswer:
        before = self.tally.in_doubt
        self.tally.in_doubt = 0 if self.tally.dry_run else len(chunk)
        self._sent_at = self._clock()
        try:
            answer = post(self._daemon, self.tally.action, chunk, dry_run=self.tally.dry_run)
        except UnreachableError:
            self.tally.in_doubt = before
            raise
        self.tally.in_doubt = 0
        return answer

    def _count(self, decided: Decided, *, name_missing: bool) -> None:
        for letter_id, errors in decided.refusals[: max(MAX_LISTED - self.tally.refused, 0)]:
            self._ticker.say(f"dead letter {letter_id}: {in_one_line(errors)}")
        if name_missing:
            for letter_id in decided.missing[: max(MAX_LISTED - self.tally.missing, 0)]:
                self._ticker.say(f"dead letter {letter_id}: it does not exist, or no longer")
        self.tally.done += decided.done
        self.tally.refused += len(decided.refusals)
        self.tally.missing += len(decided.missing)
        self._show()

    def _show(self, note: str = "") -> None:
        handled, asked = self.tally.handled, self.tally.asked
        text = f"{handled} of {asked} dead letters, {self.tally.refused} refused"
        self._ticker.tell(text, bar=progress_bar(handled, asked), note=note)
