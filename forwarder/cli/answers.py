"""Typed readers of a daemon's answers: /v1/status and posted events.

The structs mirror the answers, without what no command shows. Each field of the status may be missing or null. The address
may be a stranger's, so nothing is trusted: texts of the status are escaped, texts and lists are cut, and a value of a wrong
type is an error that names its place. Pure. Commands import this module only when they run, as it imports msgspec, which
takes as long as the rest of `--help`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from forwarder.text import printable

MAX_ENTRIES: Final = 20
"""The most entries of a list of objects or texts, or of an object within the status."""
MAX_SAMPLES: Final = 60
"""The most samples of the history; the newest are kept."""

_MAX_CHARACTERS: Final = 60
_MAX_COMMAND_CHARACTERS: Final = 9000
"""A command with two of the longest paths, quoted. A longer one is left out, as half a command is dangerous."""
_MAX_NAME_CHARACTERS: Final = 40
"""Of a field of an object: our longest has 24."""
_MAX_TEXTS: Final[Mapping[str, int]] = {
    "error": 300,
    "text": 600,
    "what": 400,
    "cause": 1000,
    "fix": 2000,
    "destination": 300,
    "commands": _MAX_COMMAND_CHARACTERS,
    "addresses": _MAX_COMMAND_CHARACTERS,
}
"""How many characters are shown of some texts, by the names of their fields."""
_Count = Annotated[int, msgspec.Meta(ge=-(10**15), le=10**15)]
"""No forwarder has more events or bytes, and a longer number would fill the screen."""
_Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


class StrangeStatusError(Exception):
    """A value has a wrong type or range. The message says where, and quotes nothing."""


class LedgerAnswer(msgspec.Struct, frozen=True):
    """What became of events. The dictionaries are by reason."""

    received: _Count | None = None
    accepted: _Count | None = None
    duplicates: _Count | None = None
    rejected: _Count | None = None
    delivered: _Count | None = None
    dead_lettered: dict[str, _Count] = {}
    dropped: dict[str, _Count] = {}
    buffered: _Count | None = None
    unaccounted: _Count | None = None


class Ledgers(msgspec.Struct, frozen=True):
    """The ledger since the daemon started, and since the buffer exists."""

    since_start: LedgerAnswer = LedgerAnswer()
    for_ever: LedgerAnswer = LedgerAnswer()


class EventStates(msgspec.Struct, frozen=True):
    """How many events are in which state."""

    ready: _Count | None = None
    parked: _Count | None = None
    in_flight: _Count | None = None


class BufferAnswer(msgspec.Struct, frozen=True):
    """How full the buffer is."""

    available: bool = True
    events: EventStates = EventStates()
    bytes: _Count | None = None
    max_events: _Count | None = None
    max_bytes: _Count | None = None
    oldest_event_age_seconds: _Number | None = None

    @property
    def all_events(self) -> int | None:
        """The events of all states."""
        states = (self.events.ready, self.events.parked, self.events.in_flight)
        return None if None in states else sum(each or 0 for each in states)

    @property
    def share(self) -> float | None:
        """How full the buffer is, from 0 to 1, by the limit that is nearer."""
        pairs = ((self.all_events, self.max_events), (self.bytes, self.max_bytes))
        return max((has / most for has, most in pairs if has is not None and most), default=None)


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds of recent attempts or deliveries; None while there are none."""

    p50: _Number | None = None
    p99: _Number | None = None


class HeadlineAnswer(msgspec.Struct, frozen=True):
    """How the daemon is, in one sentence."""

    mood: str = "note"
    text: str = "?"


class ProblemAnswer(msgspec.Struct, frozen=True):
    """Something that is wrong, with its cause and what to do."""

    mood: str = "note"
    what: str = "?"
    cause: str = ""
    fix: str = ""
    commands: list[str] = []

    @property
    def typed(self) -> list[str]:
        """The commands that are whole: what was cut or escaped must not be typed."""
        return [each for each in self.commands if "…" not in each and "\\" not in each]


class RatesAnswer(msgspec.Struct, frozen=True):
    """Events a second; None if not known."""

    accepted_per_second: _Number | None = None
    delivered_per_second: _Number | None = None
    refused_per_second: _Number | None = None


class LastFailure(msgspec.Struct, frozen=True):
    """The last attempt that failed."""

    at: _Number | None = None
    """Seconds since 1970, here as below."""
    error: str | None = None
    host: str | None = None

    @property
    def text(self) -> str:
        """The failure as text."""
        return f"{self.error or '?'} ({self.host})" if self.host else self.error or "?"


class DeliveryAnswer(msgspec.Struct, frozen=True):
    """Attempts on the wire, and how many there were since the start, by outcome."""

    in_flight: _Count | None = None
    concurrency_limit: _Count | None = None
    max_concurrency: _Count | None = None
    attempts: dict[str, _Count] = {}
    attempt_seconds: Percentiles = Percentiles()
    latency_seconds: Percentiles = Percentiles()
    last_failure: LastFailure | None = None
    last_delivery_at: _Number | None = None
    destination: str | None = None


class Hold(msgspec.Struct, frozen=True):
    """How long delivery has been paused for one cause."""

    seconds: _Number | None = None
    probe_in_seconds: _Number | None = None


class DeadLettersAnswer(msgspec.Struct, frozen=True):
    """How many dead letters are kept."""

    events: _Count | None = None
    by_reason: dict[str, _Count] = {}
    bytes: _Count | None = None
    max_events: _Count | None = None
    max_bytes: _Count | None = None


class ConflictAnswer(msgspec.Struct, frozen=True):
    """An attribute that came with another type than before."""

    name: str = "?"
    attribute: str = "?"
    expected: str = "?"
    found: str = "?"
    action: str = "?"
    conflicts: _Count | None = None


class TypesAnswer(msgspec.Struct, frozen=True):
    """What `top` shows of attribute types."""

    conflicts: list[ConflictAnswer] = []
    full: bool = False


class Forecasts(msgspec.Struct, frozen=True):
    """The daemon's forecasts; seconds are None for never."""

    accepted_per_second: _Number | None = None
    done_with_per_second: _Number | None = None
    full_in_seconds: _Number | None = None
    drained_in_seconds: _Number | None = None


class HistoryAnswer(msgspec.Struct, frozen=True):
    """Samples of the last minutes, oldest first: the first three per second, the last a number of events."""

    accepted: list[_Number] = []
    delivered: list[_Number] = []
    refused: list[_Number] = []
    buffered: list[_Number] = []


class RefusalAnswer(msgspec.Struct, frozen=True):
    """Events that intake refused for one reason."""

    at: _Number | None = None
    code: str = "?"
    field: str | None = None
    name: str | None = None
    intake: str | None = None
    events: _Count = 1

    @property
    def text(self) -> str:
        """The refusal as text."""
        field, name = f" (field {self.field})" if self.field else "", f" of {self.name}" if self.name else ""
        intake = f" via {self.intake}" if self.intake else ""
        return f"{self.code}{field}{name}{intake}" + (f", {self.events:,} times" if self.events > 1 else "")


class RecentDeadLetter(msgspec.Struct, frozen=True):
    """A recent dead letter."""

    at: _Number | None = None
    reason: str = "?"
    status: _Count | None = None
    name: str = "?"

    @property
    def text(self) -> str:
        """The dead letter as text."""
        return f"{self.reason}{'' if self.status is None else f', answered {self.status}'}: {self.name}"


class RecentAnswer(msgspec.Struct, frozen=True):
    """Recent events, the newest first."""

    refusals: list[RefusalAnswer] = []
    dead_letters: list[RecentDeadLetter] = []


class ReloadAnswer(msgspec.Struct, frozen=True):
    """The result of the last reload of the settings."""

    restart_needed: list[str] = []
    error: str | None = None


class StatusAnswer(msgspec.Struct, frozen=True):
    """The content of /v1/status."""

    state: str
    ledger: Ledgers
    headline: HeadlineAnswer | None = None
    """None before version 0.2."""
    problems: list[ProblemAnswer] = []
    rates: RatesAnswer = RatesAnswer()
    at: _Number | None = None
    instance: str | None = None
    pid: _Count | None = None
    addresses: dict[str, str] = {}
    version: str | None = None
    versions: dict[str, str] = {}
    """Of what it runs on."""
    uptime_seconds: _Number | None = None
    settings: ReloadAnswer = ReloadAnswer()
    buffer: BufferAnswer = BufferAnswer()
    delivery: DeliveryAnswer = DeliveryAnswer()
    holds: dict[str, Hold] = {}
    """By cause."""
    dead_letters: DeadLettersAnswer = DeadLettersAnswer()
    attribute_types: TypesAnswer = TypesAnswer()
    forecasts: Forecasts = Forecasts()
    history: HistoryAnswer = HistoryAnswer()
    recent: RecentAnswer = RecentAnswer()


def is_status(content: Mapping[str, object]) -> bool:
    """Return whether the content of an answer looks like a forwarder's status."""
    return isinstance(content.get("state"), str) and isinstance(content.get("ledger"), dict)


def read_status(content: Mapping[str, object]) -> StatusAnswer:
    """Return the content of an answer as a status. Raises StrangeStatusError."""
    try:
        given = content.items()
        known = {
            name: _harmless(each, _MAX_TEXTS.get(name, _MAX_CHARACTERS)) for name, each in given if each is not None
        }
        return msgspec.convert(known, StatusAnswer)
    except msgspec.ValidationError as error:
        raise StrangeStatusError(str(error)) from None


def _harmless(value: object, max_characters: int = _MAX_CHARACTERS) -> object:
    """Return a JSON value without nulls, cut, and with texts that are safe to print."""
    if isinstance(value, str):
        return printable(value, max_characters)
    if isinstance(value, dict):
        kept = [(name, each) for name, each in value.items() if each is not None][:MAX_ENTRIES]
        return {
            printable(name, _MAX_NAME_CHARACTERS): _harmless(each, _MAX_TEXTS.get(name, max_characters))
            for name, each in kept
        }
    if isinstance(value, list):
        if all(isinstance(each, int | float) for each in value):
            return value[-MAX_SAMPLES:]
        return [_harmless(each, max_characters) for each in value[:MAX_ENTRIES]]
    return value


# Posted events


class RejectedLine(msgspec.Struct):
    """One line that the daemon refused."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    errors: list[Any] = []


class EventsAnswer(msgspec.Struct):
    """What /v1/events answers to several lines."""

    accepted: Annotated[int, msgspec.Meta(ge=0)]
    duplicates: Annotated[int, msgspec.Meta(ge=0)]
    rejected: list[RejectedLine]
