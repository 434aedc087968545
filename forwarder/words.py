"""The words that metrics, answers, settings, commands and documents share: each is chosen once, here.

Pure, and imports nothing of ours; everybody may import it. For each kind of word there is a `Literal` type, which the
parameters of functions have, and for most the tuple of its words, in the order in which people see them. A new word needs a
line here and something at the place that uses it; `tests/unit/test_words.py` fails if a third place lists words of one kind.
"""

import json
import re
from typing import Final, Literal, get_args

# Intake

Intake = Literal["http", "unix", "lines", "datagram", "replay"]
"""By which way an event came; `replay`: it was a dead letter."""
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
"""Why a request is refused before it is split, whether it is for events or for something else."""
_EventlessCode = Literal["malformed_http", "forbidden_user", "not_found", "method_not_allowed", "internal_error"]
"""Why a request is refused that is not known to be for events."""

RequestCode = Literal[_BufferCode, SharedCode, _EventlessCode]
"""Why a request is refused as a whole."""
REQUEST_CODES: Final[tuple[RequestCode, ...]] = get_args(RequestCode)

Code = Literal[EventCode, RequestCode]
"""All that an error of an answer may say."""
CODES: Final[tuple[Code, ...]] = get_args(Code)

RefusalReason = Literal[EventCode, _BufferCode, SharedCode]
"""Why events are refused, by the first error's code."""
REFUSAL_REASONS: Final[tuple[RefusalReason, ...]] = get_args(RefusalReason)

RequestRefusalReason = Literal[SharedCode, _EventlessCode]
"""Why requests are refused before anything of an event is known."""
REQUEST_REFUSAL_REASONS: Final[tuple[RequestRefusalReason, ...]] = get_args(RequestRefusalReason)

CloseReason = Literal["too_many", "header_timeout", "body_timeout", "answer_timeout"]
"""Why an intake closes a connection for the sake of others."""
CLOSE_REASONS: Final[tuple[CloseReason, ...]] = get_args(CloseReason)

# Types of attributes

AttributeType = Literal["string", "number", "boolean", "date"]
ATTRIBUTE_TYPES: Final[tuple[AttributeType, ...]] = get_args(AttributeType)

ConflictAction = Literal["observe", "coerce", "strip", "reject"]
"""What is done about an attribute of another type than before: see `contract.attribute_types`."""
CONFLICT_ACTIONS: Final[tuple[ConflictAction, ...]] = get_args(ConflictAction)

ConflictKind = Literal["hard", "date"]
"""`date`: the types differ only as a string and a date do."""
CONFLICT_KINDS: Final[tuple[ConflictKind, ...]] = get_args(ConflictKind)

# Buffer

EventKind = Literal["event", "customer"]
"""What is to be sent: an event, or an update of what Growlytics knows of a customer."""
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)

BufferState = Literal["ready", "parked", "in_flight"]
BUFFER_STATES: Final[tuple[BufferState, ...]] = get_args(BufferState)

BufferOperation = Literal["commit", "read", "count", "salvage", "directory"]
"""At what the buffer's disk fails."""
BUFFER_OPERATIONS: Final[tuple[BufferOperation, ...]] = get_args(BufferOperation)

WhenFull = Literal["reject", "drop_oldest"]
"""What becomes of new events when the buffer is full: see `buffer.when_full`."""

DeadReason = Literal["rejected", "expired", "ambiguous"]
"""`rejected`: Growlytics refuses the event for good. `expired`: it was retried past `delivery.max_age_seconds`. `ambiguous`:
it may have arrived, and `delivery.on_ambiguous` says that such an event is not sent again.
"""
DEAD_REASONS: Final[tuple[DeadReason, ...]] = get_args(DeadReason)

DropReason = Literal["drop_oldest", "corrupt", "shutdown"]
"""`drop_oldest`: to make room for newer ones. `corrupt`: the disk lost or altered it. `shutdown`: the process stopped before
it was delivered.
"""
DROP_REASONS: Final[tuple[DropReason, ...]] = get_args(DropReason)

EvictionReason = Literal["full", "purged", "shutdown"]
"""Why a dead letter is removed, other than by replaying it."""
EVICTION_REASONS: Final[tuple[EvictionReason, ...]] = get_args(EvictionReason)

ReceiptState = Literal["buffered", "parked", "delivered", "dead_letter", "dropped", "replaced"]
"""Where an event is, or what became of it; `replaced`: it goes on under another id."""
RECEIPT_STATES: Final[tuple[ReceiptState, ...]] = get_args(ReceiptState)

# Delivery

OutcomeName = Literal["delivered", "retryable", "rejected", "blocked"]
"""What an attempt came to."""
OUTCOMES: Final[tuple[OutcomeName, ...]] = get_args(OutcomeName)

RetryableReason = Literal["network", "timeout", "status_408", "status_413", "status_425", "status_429", "status_5xx"]
"""What may pass, so that an attempt is worth repeating."""

RetryReason = Literal[RetryableReason, "blocked", "suspect"]
"""Why an attempt is repeated; `blocked`: Growlytics refuses us; `suspect`: it refuses this event, and perhaps no other."""
RETRY_REASONS: Final[tuple[RetryReason, ...]] = get_args(RetryReason)

FailureKind = Literal[
    "dns", "connect", "tls", "proxy", "timeout_connect", "timeout_answer", "reset", "protocol", "status"
]
"""What went wrong with an attempt that did not deliver, for people."""
FAILURE_KINDS: Final[tuple[FailureKind, ...]] = get_args(FailureKind)

EventBlockedWhy = Literal["key", "refusal", "not_growlytics"]
"""Those of the next of which the event may be the reason: a forward proxy does not see it."""

BlockedWhy = Literal[EventBlockedWhy, "proxy"]
"""Who refuses us, or this event: see `growlytics.outcome.Blocked`."""

RefusalCause = Literal["auth", "systemic", "not_growlytics"]
"""Those of the next that mostly last until somebody does something: all is refused, or rejected."""
REFUSAL_CAUSES: Final[tuple[RefusalCause, ...]] = get_args(RefusalCause)

HoldCause = Literal["breaker", "retry_after", RefusalCause]
"""Why nothing is sent but one probe at a time."""
HOLD_CAUSES: Final[tuple[HoldCause, ...]] = get_args(HoldCause)

OnAmbiguous = Literal["retry", "dead_letter"]
"""What becomes of an event that may have arrived: see `delivery.on_ambiguous`."""

# The daemon

DaemonState = Literal["starting", "ready", "stopping", "draining", "stopped"]
DAEMON_STATES: Final[tuple[DaemonState, ...]] = get_args(DaemonState)

ReloadResult = Literal["changed", "unchanged", "failed"]
"""What came of reading settings, or a file that they name, again."""
RELOAD_RESULTS: Final[tuple[ReloadResult, ...]] = get_args(ReloadResult)

LoopName = Literal["auto", "uvloop", "asyncio"]
"""Which event loop to run on; `auto`: uvloop if it is installed."""
LOOP_NAMES: Final[tuple[LoopName, ...]] = get_args(LoopName)

_PLACEHOLDER: Final = re.compile(r'"\{\{([A-Z_]+)\}\}"')


def put_into(text: str) -> str:
    """Return a text in which each "{{TUPLE}}", quotes included, is that tuple's words as a JSON array.

    Raise KeyError if there is no tuple of that name here.
    """
    return _PLACEHOLDER.sub(lambda found: json.dumps(globals()[found[1]]), text)
