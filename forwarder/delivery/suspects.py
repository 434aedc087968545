"""What an answer about one event means for the others: its own fault, a passing fault, or a refusal of all that we send.

Pure, with times given by the caller (seconds of the event loop's clock). Used by the engine alone. Simulated against the
mixes of tests/unit/test_suspects_mixes.py. The rule:

- Own errors (400, 409, 413, 422, `success: false`) are not decided here: see `Engine._rejected`.
- A refusal by a forward proxy is about us: delivery holds at once (`auth`). Not decided here: the proxy saw no event.
- A 401 or 407 is about us, too, and holds at once. But one to an event that was refused before, while attempts begun since
  with the same key were delivered, makes that event a suspect.
- Any other refusal makes the event a suspect. Its lane waits with the normal backoff, and all others go on.
- Confirmed: a refusal of a suspect counts only if another event's attempt, begun after this event's previous refusal and
  with the same key, was delivered. After three counted refusals over at least `delivery.systemic_seconds` the event is a
  dead letter (`rejected`). Once one was confirmed so, three counted refusals suffice for later suspects, without the time.
- Recovered: a suspect that is delivered on a later try proves that such refusals pass. The shortcut ends, and for
  `systemic_seconds` no suspect becomes a dead letter.
- Hold (`auth`): at the first refusal while this key has delivered nothing; or after the first attempts of
  `delivery.systemic_rejections` different lanes in a row were refused without a delivery. Retries never count.
- Probes prefer lanes that were never refused. Until `systemic_rejections` different lanes failed as probes of this hold, a
  lane not yet tried is probed after `probe_initial_seconds`, however long the interval is by then.
- One customer only: no evidence, so no dead letter and, once the key has delivered, no hold. The event is tried at least
  every `retry_max_seconds`, and status, page and alert show it.
- A 2xx that is no answer of Growlytics: the same, with `ambiguous` for `rejected` and the cause `not_growlytics`. Where the
  event is never repeated it is a dead letter at once, and counts towards the hold by itself rather than by its lane.

A new key begins with a clean record: what was refused with the old one says nothing of the new one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from forwarder.settings import DeliverySettings
from forwarder.words import EventBlockedWhy, RefusalCause

REFUSALS_TO_CONFIRM: Final = 3
_NEVER: Final = float("-inf")


@dataclass(slots=True)
class Refusals:
    """The refusals of one event with one key."""

    key_number: int
    attempts_begun: int
    """How many attempts of all events had begun at the last refusal."""
    suspect: bool = False
    number: int = 0
    counted: int = 0
    first_counted_at: float = 0.0
    status: int = 0
    """That of the last refusal."""
    maybe_there: bool = False
    """One of them was a 2xx, so the event may have arrived."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What follows from a refusal."""

    refusals: Refusals
    """What to remember of the event."""
    hold: RefusalCause | None
    has_evidence: bool
    """Another event was delivered since this one's previous refusal, so this one is at fault rather than all."""
    confirmed: bool
    """The event is a dead letter."""


class Suspects:
    """Which refusals count, and what has been learned of them so far."""

    def __init__(self, settings: DeliverySettings) -> None:
        self.attempts_begun = 0
        """How many attempts have begun; the engine counts each here, and that is its number."""
        self._delivered_latest = 0  # the latest attempt, by its number, of those with this key that were delivered
        self._row: set[Hashable] = set()  # lanes whose first attempts were refused since the last delivery
        self._failed_probes: set[Hashable] = set()  # lanes that were probed in this hold in vain
        self._confirmed_before = False
        self._no_verdict_until = _NEVER
        self.key_number = 0
        """Which key is in use: one more with each new one."""
        self.use(settings)

    def use(self, settings: DeliverySettings) -> None:
        """Go by other settings from now on."""
        self._lanes_in_a_row = settings.systemic_rejections
        self._seconds = settings.systemic_seconds

    @property
    def hurries(self) -> bool:
        """Whether a lane not yet tried is probed early: few lanes were probed in vain in this hold."""
        return len(self._failed_probes) < self._lanes_in_a_row

    def key_changed(self) -> None:
        """There is a new key, of which nothing is known."""
        self.key_number += 1
        self._delivered_latest = 0
        self._confirmed_before = False
        self._failed_probes.clear()

    def hold_began(self) -> None:
        """Nothing is sent any more but probes."""
        self._failed_probes.clear()

    def probe_failed(self, lane: Hashable) -> None:
        """A probe with the key in use was not delivered, for whatever reason."""
        if self.hurries:
            self._failed_probes.add(lane)

    def delivered(self, number: int, key_number: int, refusals: Refusals | None, now: float) -> None:
        """An attempt was delivered; `refusals` are those of its event before."""
        if key_number != self.key_number:
            return
        self._delivered_latest = max(self._delivered_latest, number)
        self._row.clear()
        if refusals is not None and refusals.suspect and refusals.key_number == key_number:
            self._confirmed_before = False
            self._no_verdict_until = now + self._seconds

    def refused(
        self,
        before: Refusals | None,
        why: EventBlockedWhy,
        *,
        status: int,
        key_number: int,
        counts_for: Hashable | None,
        now: float,
    ) -> Refused:
        """Decide what follows from a refusal of an event, of which `before` is what is remembered.

        `counts_for` is what a row of refusals counts: the lane, if this was its first attempt; None for a retry.
        """
        is_current = key_number == self.key_number
        refusals = before if before and before.key_number == key_number else Refusals(key_number, self.attempts_begun)
        has_evidence = is_current and self._delivered_latest > refusals.attempts_begun
        counts = has_evidence and refusals.suspect
        if counts:
            refusals.first_counted_at = refusals.first_counted_at if refusals.counted else now
            refusals.counted += 1
        refusals.suspect |= why != "key" or has_evidence
        refusals.number += 1
        refusals.attempts_begun = self.attempts_begun
        refusals.status = status
        refusals.maybe_there |= why == "not_growlytics"
        hold = self._hold(refusals, why, counts_for) if is_current else None
        return Refused(refusals, hold, has_evidence, counts and self._confirms(refusals, now))

    def _hold(self, refusals: Refusals, why: EventBlockedWhy, counts_for: Hashable | None) -> RefusalCause | None:
        if not refusals.suspect:
            return "auth"
        if counts_for is not None and len(self._row) < self._lanes_in_a_row:
            self._row.add(counts_for)
        if self._delivered_latest and len(self._row) < self._lanes_in_a_row:
            return None
        return "not_growlytics" if why == "not_growlytics" else "auth"

    def _confirms(self, refusals: Refusals, now: float) -> bool:
        if refusals.counted < REFUSALS_TO_CONFIRM or now < self._no_verdict_until:
            return False
        confirms = self._confirmed_before or now - refusals.first_counted_at >= self._seconds
        self._confirmed_before |= confirms
        return confirms
