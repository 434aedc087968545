"""What `top` shows of /v1/status, as values: each None or empty where the daemon has none. Texts are fit to be shown.

Pure. Used by `top` only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LedgerShown:
    """What became of every event for ever."""

    received: int | None
    accepted: int | None
    duplicates: int | None
    rejected: int | None
    delivered: int | None
    dead_lettered: dict[str, int]
    dropped: dict[str, int]
    """Both by reason."""
    buffered: int | None
    unaccounted: int | None


@dataclass(frozen=True, slots=True)
class BufferShown:
    """How full it is."""

    available: bool
    ready: int | None
    parked: int | None
    in_flight: int | None
    bytes: int | None
    max_events: int | None
    max_bytes: int | None
    oldest_seconds: float | None

    @property
    def events(self) -> int | None:
        """All of them."""
        states = [self.ready, self.parked, self.in_flight]
        return None if None in states else sum(each or 0 for each in states)

    @property
    def share(self) -> float | None:
        """How full it is, from 0 to 1, by the bound that is nearer."""
        pairs = ((self.events, self.max_events), (self.bytes, self.max_bytes))
        return max((has / most for has, most in pairs if has is not None and most), default=None)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds, of the recent ones; None while there are none."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class DeliveryShown:
    """What is on the wire, and what came of it."""

    in_flight: int | None
    limit: int | None
    max_concurrency: int | None
    attempts: dict[str, int]
    """By outcome, since the start."""
    attempt_seconds: Percentiles
    latency_seconds: Percentiles
    last_failure: "Occurrence | None"


@dataclass(frozen=True, slots=True)
class Hold:
    """A cause for which delivery holds."""

    cause: str
    seconds: float | None
    """For how long."""
    probe_in_seconds: float | None


@dataclass(frozen=True, slots=True)
class DeadLettersShown:
    """How many are kept."""

    events: int | None
    bytes: int | None
    max_events: int | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class ConflictShown:
    """An attribute that came with another type than before."""

    name: str
    attribute: str
    expected: str
    found: str
    action: str
    conflicts: int | None


@dataclass(frozen=True, slots=True)
class Forecasts:
    """As the daemon makes them; seconds are None for never."""

    accepted_per_second: float | None
    done_with_per_second: float | None
    full_in_seconds: float | None
    drained_in_seconds: float | None


@dataclass(frozen=True, slots=True)
class HistoryShown:
    """Samples of the last minutes, oldest first: the first three per second, the last a number of events."""

    interval_seconds: float | None
    accepted: list[float]
    delivered: list[float]
    refused: list[float]
    buffered: list[float]


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A refusal, a dead letter or a failed attempt, in words."""

    at: float | None
    """Seconds since 1970."""
    text: str


@dataclass(frozen=True, slots=True)
class SettingsShown:
    """What became of the last time that the settings were read."""

    restart_needed: list[str]
    error: str | None


@dataclass(frozen=True, slots=True)
class StatusShown:
    """All that is shown."""

    version: str | None
    state: str
    uptime_seconds: float | None
    ledger: LedgerShown
    buffer: BufferShown
    delivery: DeliveryShown
    holds: list[Hold]
    dead_letters: DeadLettersShown
    conflicts: list[ConflictShown]
    types_full: bool
    forecasts: Forecasts
    history: HistoryShown
    refusals: list[Occurrence]
    dead: list[Occurrence]
    settings: SettingsShown
