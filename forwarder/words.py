"""The words that metrics, answers, settings, commands and documents share. Each is chosen once, here.

Pure. All modules may import this one; it imports none of ours. Each kind of word is a `Literal` type, for the parameters of
functions. Most kinds also have a tuple of their words, in the order in which people see them. A new word needs a line here
and a change where it is used; `tests/unit/test_words.py` fails if a third place lists words of one kind.
"""

import json
import re
from typing import Final, Literal, get_args

# Intake

Intake = Literal["http", "unix", "lines", "datagram", "replay"]
"""How an event came in; `replay`: it was a dead letter."""
INTAKES: Final[tuple[Intake, ...]] = get_args(Intake)

EventCode = Literal[
    "malformed_json",
    "not_an_object",
    "missing_field",
    "wrong_type",
    "empty",
    "name_too_long",
    "too_many_attributes",
    "attribute_type_not_allowed",
    "time_not_milliseconds",
    "number_out_of_range",
    "attribute_type_conflict",
    "idempotency_key_reused",
]
"""What can be wrong with one event."""

_BufferCode = Literal["buffer_full", "buffer_unavailable"]
TransientCode = Literal[_BufferCode, "busy", "shutting_down"]
"""Why the daemon refuses what it may accept a little later, so that apps repeat it."""
TRANSIENT_CODES: Final[tuple[TransientCode, ...]] = get_args(TransientCode)
SharedCode = Literal[
    "body_too_large",
    "busy",
    "shutting_down",
    "unauthorized",
    "forbidden_origin",
    "forbidden_host",
    "unsupported_encoding",
    "unsupported_content_type",
    "unsupported_transfer_encoding",
    "malformed_body",
    "headers_too_large",
    "uri_too_long",
    "too_slow",
]
"""Why a request is refused before it is split into events; requests for other things may be refused so too."""
_EventlessCode = Literal[
    "malformed_http", "forbidden_user", "not_found", "method_not_allowed", "too_many_taps", "internal_error"
]
"""Why a request is refused that may not be for events at all."""

RequestCode = Literal[_BufferCode, SharedCode, _EventlessCode]
"""Why a whole request is refused."""
REQUEST_CODES: Final[tuple[RequestCode, ...]] = get_args(RequestCode)

Code = Literal[EventCode, RequestCode]
"""Every code that an error in an answer may have."""
CODES: Final[tuple[Code, ...]] = get_args(Code)

RefusalReason = Literal[EventCode, _BufferCode, SharedCode]
"""Why events are refused: the code of the first error."""
REFUSAL_REASONS: Final[tuple[RefusalReason, ...]] = get_args(RefusalReason)

RequestRefusalReason = Literal[SharedCode, _EventlessCode]
"""Why requests are refused before any of their events is known."""
REQUEST_REFUSAL_REASONS: Final[tuple[RequestRefusalReason, ...]] = get_args(RequestRefusalReason)

CloseReason = Literal["too_many", "header_timeout", "body_timeout", "answer_timeout"]
"""Why an intake closes a connection to protect the others."""
CLOSE_REASONS: Final[tuple[CloseReason, ...]] = get_args(CloseReason)

# Types of attributes

AttributeType = Literal["string", "number", "boolean", "date"]
ATTRIBUTE_TYPES: Final[tuple[AttributeType, ...]] = get_args(AttributeType)

ConflictAction = Literal["observe", "coerce", "strip", "reject"]
"""What to do about an attribute that comes with another type than before: see `contract.attribute_types`."""
CONFLICT_ACTIONS: Final[tuple[ConflictAction, ...]] = get_args(ConflictAction)

ConflictKind = Literal["hard", "date"]
"""`date`: one type is a string and the other a date; `hard`: all other differences."""
CONFLICT_KINDS: Final[tuple[ConflictKind, ...]] = get_args(ConflictKind)

# Buffer

EventKind = Literal["event", "customer"]
"""What is to be sent: an event, or an update of what Growlytics knows of a customer."""
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)

BufferState = Literal["ready", "parked", "in_flight"]
BUFFER_STATES: Final[tuple[BufferState, ...]] = get_args(BufferState)

BufferOperation = Literal["commit", "read", "count", "salvage", "directory"]
"""The operation in which the buffer's disk fails."""
BUFFER_OPERATIONS: Final[tuple[BufferOperation, ...]] = get_args(BufferOperation)

WhenFull = Literal["reject", "drop_oldest"]
"""What to do with new events when the buffer is full: see `buffer.when_full`."""

DeadReason = Literal["rejected", "expired", "ambiguous"]
"""`rejected`: Growlytics rejected the event. `expired`: an attempt failed after `delivery.max_age_seconds`. `ambiguous`: the
event may have arrived, and `delivery.on_ambiguous` says not to send such events again.
"""
DEAD_REASONS: Final[tuple[DeadReason, ...]] = get_args(DeadReason)

DropReason = Literal["drop_oldest", "corrupt", "shutdown", "erased"]
"""`drop_oldest`: the event made room for newer ones. `corrupt`: the disk lost or changed it. `shutdown`: the process stopped
before it was delivered. `erased`: an operator erased all events of its customer.
"""
DROP_REASONS: Final[tuple[DropReason, ...]] = get_args(DropReason)

EvictionReason = Literal["full", "purged", "shutdown", "erased"]
"""Why a dead letter is removed, other than by replaying it."""
EVICTION_REASONS: Final[tuple[EvictionReason, ...]] = get_args(EvictionReason)

ReceiptState = Literal["buffered", "parked", "delivered", "dead_letter", "dropped", "replaced"]
"""Where an event is, or what became of it; `replaced`: it continues under another id."""
RECEIPT_STATES: Final[tuple[ReceiptState, ...]] = get_args(ReceiptState)

# Delivery

OutcomeName = Literal["delivered", "retryable", "rejected", "blocked"]
"""The outcome of an attempt."""
OUTCOMES: Final[tuple[OutcomeName, ...]] = get_args(OutcomeName)

RetryableReason = Literal["network", "timeout", "status_408", "status_413", "status_425", "status_429", "status_5xx"]
"""Failures that may pass, so that a retry makes sense."""

RetryReason = Literal[RetryableReason, "blocked", "suspect"]
"""Why an attempt is repeated; `blocked`: Growlytics refuses us; `suspect`: it rejects this event, perhaps no other."""
RETRY_REASONS: Final[tuple[RetryReason, ...]] = get_args(RetryReason)

FailureKind = Literal[
    "dns", "connect", "tls", "proxy", "timeout_connect", "timeout_answer", "reset", "protocol", "status"
]
"""What went wrong with an attempt, for people."""
FAILURE_KINDS: Final[tuple[FailureKind, ...]] = get_args(FailureKind)

EventBlockedWhy = Literal["key", "refusal", "not_growlytics"]
"""Those of `BlockedWhy` that an event may cause; a forward proxy does not see events."""

BlockedWhy = Literal[EventBlockedWhy, "proxy"]
"""Who refuses us, or this event: see `growlytics.outcome.Blocked`."""

RefusalCause = Literal["auth", "systemic", "not_growlytics"]
"""Those of `HoldCause` that usually last until somebody acts: everything is refused or rejected."""
REFUSAL_CAUSES: Final[tuple[RefusalCause, ...]] = get_args(RefusalCause)

HoldCause = Literal["breaker", "retry_after", RefusalCause]
"""Why delivery is paused, and only one probe at a time is sent."""
HOLD_CAUSES: Final[tuple[HoldCause, ...]] = get_args(HoldCause)

DelayCause = Literal["rate_limit", "concurrency", "order", "retry", "commit"]
"""What the events that wait wait for while there is no hold. `concurrency`: as many attempts are under way as may be now.
`order`: other events of their customers are being sent. `retry`: the time of their next attempts. `commit`: the disk.
"""
DELAY_CAUSES: Final[tuple[DelayCause, ...]] = get_args(DelayCause)

Passing = OutcomeName | Literal["accepted", "dead_letter", "dropped"]
"""What a tap shows of an event: the outcome of an attempt, that it was accepted, or that it left without being delivered."""

TapEnd = Literal["closed", "unread", "stopping"]
"""Why a tap ended: its reader closed it, nobody read it for a while, or the daemon stops."""
TAP_ENDS: Final[tuple[TapEnd, ...]] = get_args(TapEnd)

OnAmbiguous = Literal["retry", "dead_letter"]
"""What to do with an event that may have arrived: see `delivery.on_ambiguous`."""

# The daemon

DaemonState = Literal["starting", "ready", "stopping", "draining", "stopped"]
DAEMON_STATES: Final[tuple[DaemonState, ...]] = get_args(DaemonState)

HeadlineState = Literal[
    "starting",
    "stopping",
    "refusing",
    "dropping",
    "not_delivering",
    "needs_attention",
    "falling_behind",
    "catching_up",
    "no_events",
    "delivering",
]
"""How the daemon is, in one word: see `forwarder/advice/headline.py`."""
HEADLINE_STATES: Final[tuple[HeadlineState, ...]] = get_args(HeadlineState)

Mood = Literal["bad", "warn", "note", "good"]
"""How urgent something is. `bad`: somebody should act now. `warn`: somebody should look. `note`: worth knowing."""
MOODS: Final[tuple[Mood, ...]] = get_args(Mood)

ReloadResult = Literal["changed", "unchanged", "failed"]
"""The result of reading settings again, or a file that they name."""
RELOAD_RESULTS: Final[tuple[ReloadResult, ...]] = get_args(ReloadResult)

DebugPart = Literal["process", "versions", "settings", "metrics", "tasks", "threads", "log"]
"""What an operator may see of the inside of a running daemon: see `GET /v1/debug`."""
DEBUG_PARTS: Final[tuple[DebugPart, ...]] = get_args(DebugPart)

WayStep = Literal["dns", "connect", "proxy", "tls", "answer", "clock"]
"""The checks of the way to Growlytics that `diagnose` makes, in this order."""
WAY_STEPS: Final[tuple[WayStep, ...]] = get_args(WayStep)

LoopName = Literal["auto", "uvloop", "asyncio"]
"""Which event loop to use; `auto`: uvloop if it is installed."""
LOOP_NAMES: Final[tuple[LoopName, ...]] = get_args(LoopName)

_PLACEHOLDER: Final = re.compile(r'"\{\{([A-Z_]+)\}\}"')


def put_into(text: str) -> str:
    """Return `text` with each "{{TUPLE}}", quotes included, replaced by the words of that tuple as a JSON array.

    Raise KeyError if this module has no tuple of that name.
    """
    return _PLACEHOLDER.sub(lambda found: json.dumps(globals()[found[1]]), text)
