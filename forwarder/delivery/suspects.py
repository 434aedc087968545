"""Decides whether a refusal concerns one event, or everything that we send; and whether it passes.

Pure, with times given by the caller (seconds of the event loop's clock). Only the engine uses it. It is simulated against
the mixes of tests/unit/test_suspects_mixes.py. The rule:

- Own errors (400, 409, 413, 422, `success: false`) are not decided here: see `Engine._rejected`.
- A refusal by a forward proxy concerns us: delivery holds at once (`auth`). Not decided here, as the proxy saw no event.
- A 401 or 407 concerns us, too, and delivery holds at once. But if the event was refused before, and attempts that began
  since with the same key were delivered, the event becomes a suspect.
- Any other refusal makes the event a suspect. Its lane waits with the normal backoff. All other lanes go on.
- Confirmed: a refusal of a suspect counts only if another event's attempt, begun after this event's previous refusal and
  with the same key, was delivered. After three counted refusals over at least `delivery.systemic_seconds` the event is a
  dead letter (`rejected`). After the first such one, three counted refusals are enough for later suspects, without the time.
- Recovered: if a suspect is delivered on a later try, such refusals pass. Then the time counts again, and no suspect becomes
  a dead letter for `systemic_seconds`.
- Hold (`auth`): at the first refusal while this key has delivered nothing; or after the first attempts of
  `delivery.systemic_rejections` different lanes in a row were refused without a delivery. Retries never count.
- Probes prefer lanes that were never refused. Until `systemic_rejections` different lanes failed as probes of this hold, a
  lane not yet tried is probed after `probe_initial_seconds`, however long the interval is by then.
- One customer only: no evidence, so no dead letter and, once the key has delivered, no hold. The event is tried at least
  every `retry_max_seconds`, and status, page and alert show it.
- A 2xx that is no answer of Growlytics: the same, with `ambiguous` for `rejected` and the cause `not_growlytics`. If the
  event is never repeated, it is a dead letter at once, and counts towards the hold by itself rather than by its lane.

A new key begins with a clean record: refusals of the old key tell nothing about the new one.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from forwarder.settings import DeliverySettings
from forwarder.words import EventBlockedWhy, RefusalCause

REFUSALS_TO_CONFIRM: Final = 3
_NEVER: Final = float("-inf")


@dataclass(slots=True)
class RefusalHistory:
    """The refusals of one event with one key."""

    key_number: int
    attempts_begun: int
    """How many attempts of all events had begun at the last refusal."""
    suspect: bool = False
    number: int = 0
    counted: int = 0
    first_counted_at: float = 0.0
    status: int = 0
    """The status of the last refusal."""
    maybe_there: bool = False
    """One of the refusals was a 2xx, so the event may have arrived."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a refusal."""

    refusals: RefusalHistory
    """What to remember of the event."""
    hold: RefusalCause | None
    has_evidence: bool
    """Another event was delivered since the previous refusal of this one, so the refusal concerns this one alone."""
    confirmed: bool
    """The event is a dead letter."""


class Suspects:
    """Decides which refusals count, and remembers what it needs for that."""

    def __init__(self, settings: DeliverySettings) -> None:
        self.attempts_begun = 0
        """How many attempts have begun. The engine counts each attempt here, and the count is the attempt's number."""
        self._delivered_latest = 0  # the number of the latest attempt with this key that was delivered
        self._row: set[Hashable] = set()  # lanes whose first attempts were refused since the last delivery
        self._failed_probes: set[Hashable] = set()  # lanes whose probes failed in this hold
        self._confirmed_before = False
        self._no_verdict_until = _NEVER
        self.key_number = 0
        """The number of the key in use; it rises by one with each new key."""
        self.use(settings)

    def use(self, settings: DeliverySettings) -> None:
        """Use other settings from now on."""
        self._lanes_in_a_row = settings.systemic_rejections
        self._seconds = settings.systemic_seconds

    @property
    def hurries(self) -> bool:
        """Whether a lane not yet tried is probed early, as few probes failed in this hold."""
        return len(self._failed_probes) < self._lanes_in_a_row

    def key_changed(self) -> None:
        """Forget what is known of the key, as there is a new one."""
        self.key_number += 1
        self._delivered_latest = 0
        self._confirmed_before = False
        self._failed_probes.clear()

    def hold_began(self) -> None:
        """Note that only probes are sent from now on."""
        self._failed_probes.clear()

    def probe_failed(self, lane: Hashable) -> None:
        """Note that a probe with the key in use was not delivered."""
        if self.hurries:
            self._failed_probes.add(lane)

    def delivered(self, number: int, key_number: int, refusals: RefusalHistory | None, now: float) -> None:
        """Note that an attempt was delivered. `refusals` are the earlier ones of its event."""
        if key_number != self.key_number:
            return
        self._delivered_latest = max(self._delivered_latest, number)
        self._row.clear()
        if refusals is not None and refusals.suspect and refusals.key_number == key_number:
            self._confirmed_before = False
            self._no_verdict_until = now + self._seconds

    def refused(
        self,
        before: RefusalHistory | None,
        why: EventBlockedWhy,
        *,
        status: int,
        key_number: int,
        counts_for: Hashable | None,
        now: float,
    ) -> Verdict:
        """Decide what follows from a refusal of an event; `before` is what is remembered of it.

        `counts_for` is what counts in a row of refusals: the lane, if this was the event's first attempt; None for a retry.
        """
        is_current = key_number == self.key_number
        refusals = (
            before if before and before.key_number == key_number else RefusalHistory(key_number, self.attempts_begun)
        )
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
        return Verdict(refusals, hold, has_evidence, counts and self._confirms(refusals, now))

    def _hold(self, refusals: RefusalHistory, why: EventBlockedWhy, counts_for: Hashable | None) -> RefusalCause | None:
        if not refusals.suspect:
            return "auth"
        if counts_for is not None and len(self._row) < self._lanes_in_a_row:
            self._row.add(counts_for)
        if self._delivered_latest and len(self._row) < self._lanes_in_a_row:
            return None
        return "not_growlytics" if why == "not_growlytics" else "auth"

    def _confirms(self, refusals: RefusalHistory, now: float) -> bool:
        if refusals.counted < REFUSALS_TO_CONFIRM or now < self._no_verdict_until:
            return False
        confirms = self._confirmed_before or now - refusals.first_counted_at >= self._seconds
        self._confirmed_before |= confirms
        return confirms
