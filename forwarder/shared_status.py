"""What of /v1/status everybody who may scrape may see: nothing names an event, a customer or an attribute. Pure.

This is a list of what is seen, so a new field of the status is hidden until somebody lists it here. Almost all of it is
numbers and words of `words`; other texts come from the operator's settings and the operating system, never from an app. A
value of another kind is left out. The page on the admin listener shows this.
"""

from collections.abc import Callable, Mapping
from typing import Final

from forwarder import words
from forwarder.settings import reference

_Kind = Callable[[object], object]
"""Returns what may be seen of a value, or _NOTHING."""
_NOTHING: Final = object()
_MAX_CHARACTERS: Final = 300
_MAX_ENTRIES: Final = 100


def without_names(status: Mapping[str, object]) -> dict[str, object]:
    """Return what may be seen of the content of /v1/status."""
    seen: dict[str, object] = _STATUS(status)  # type: ignore[assignment]  # of a mapping it is one
    return seen


def _number(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else _NOTHING


def _text(value: object) -> object:
    return value[:_MAX_CHARACTERS] if isinstance(value, str) else value if value is None else _NOTHING


def _hidden(value: object) -> object:  # noqa: ARG001 - a kind has it
    return None


def _word(*known: tuple[str, ...]) -> _Kind:
    all_known = frozenset(word for each in known for word in each)
    return lambda value: value if value is None or (isinstance(value, str) and value in all_known) else _NOTHING


def _present(text: str) -> _Kind:
    """See a fixed text in place of another, and None if there is none."""
    return lambda value: text if value else None


def _table(of: _Kind, *keys: tuple[str, ...]) -> _Kind:
    return _object({key: of for each in keys for key in each})


def _list(of: _Kind) -> _Kind:
    def seen(value: object) -> object:
        if not isinstance(value, list | tuple):
            return _NOTHING
        return [each for each in map(of, value[:_MAX_ENTRIES]) if each is not _NOTHING]

    return seen


def _object(members: Mapping[str, _Kind]) -> _Kind:
    def seen(value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            return _NOTHING
        shown = {name: kind(value[name]) for name, kind in members.items() if name in value}
        return {name: each for name, each in shown.items() if each is not _NOTHING}

    return seen


def _nameless(*numbers: str, **others: _Kind) -> _Kind:
    """See something that has a name, without that: what names it is None."""
    return _object({**dict.fromkeys(("id", "name", "attribute", "field"), _hidden), **_numbers(*numbers), **others})


def _numbers(*names: str) -> dict[str, _Kind]:
    return dict.fromkeys(names, _number)


_LEDGER: Final = _object(
    {
        **_numbers("received", "accepted", "duplicates", "rejected", "skipped", "delivered", "buffered", "unaccounted"),
        "dead_lettered": _table(_number, words.DEAD_REASONS),
        "dropped": _table(_number, words.DROP_REASONS),
    }
)
_QUANTILES: Final = _object(_numbers("p50", "p99"))
_STATUS: Final = _object(
    {
        "version": _text,
        "versions": _table(_text, ("python", "sqlite", "loop")),
        "instance": _text,
        "command": _text,
        "state": _word(words.DAEMON_STATES),
        **_numbers("at", "pid", "uptime_seconds"),
        "addresses": _table(_text, words.INTAKES, ("admin", "control")),
        "ledger": _object({"since_start": _LEDGER, "for_ever": _LEDGER}),
        "settings": _object(
            {
                "loaded_at": _number,
                "restart_needed": _list(_word(tuple(each.path for each in reference()))),
                "error": _present("the log says what is wrong"),
                "key_file": _text,
                "token_file": _text,
                "needs_token": _number,
                "file_faults": _table(_text, ("growlytics.api_key_file", "intake.token_file", "growlytics.ca_file")),
            }
        ),
        "buffer": _object(
            {
                "kind": _text,
                "directory": _text,
                "when_full": _text,
                "last_error": _object({"at": _number, "operation": _word(words.BUFFER_OPERATIONS), "error": _text}),
                "last_dropped_at": _table(_number, words.DROP_REASONS),
                "events": _table(_number, words.BUFFER_STATES),
                **_numbers("available", "bytes", "max_events", "max_bytes", "oldest_event_age_seconds"),
            }
        ),
        "delivery": _object(
            {
                "destination": _text,
                "order": _text,
                "waits_for": _text,
                **_numbers(
                    "in_flight",
                    "concurrency_limit",
                    "max_concurrency",
                    "rate_limit_per_second",
                    "last_delivery_at",
                    "failures_in_a_row",
                ),
                "attempts": _table(_number, words.OUTCOMES),
                "attempt_seconds": _QUANTILES,
                "latency_seconds": _QUANTILES,
                "last_failure": _object(
                    {"kind": _word(words.FAILURE_KINDS), "error": _text, "host": _text, **_numbers("at", "status")}
                ),
                "suspects": _object({"events": _number, "first": _nameless("status", "refusals")}),
            }
        ),
        "holds": _table(_object(_numbers("seconds", "probe_in_seconds")), words.HOLD_CAUSES),
        "dead_letters": _object(
            {
                **_numbers("events", "bytes", "max_events", "max_bytes"),
                "by_reason": _table(_number, words.DEAD_REASONS),
                "evicted": _table(_number, words.EVICTION_REASONS),
            }
        ),
        "attribute_types": _object(
            {
                "policy": _word(words.CONFLICT_ACTIONS),
                **_numbers("learned", "fixed", "max", "full", "not_remembered"),
                "conflicts": _list(
                    _nameless(
                        "conflicts",
                        "last_at",
                        "learned",
                        expected=_word(words.ATTRIBUTE_TYPES),
                        found=_word(words.ATTRIBUTE_TYPES),
                        action=_word(words.CONFLICT_ACTIONS),
                    )
                ),
            }
        ),
        "forecasts": _object(
            _numbers("accepted_per_second", "done_with_per_second", "full_in_seconds", "drained_in_seconds")
        ),
        "rates": _object(_numbers("accepted_per_second", "delivered_per_second", "refused_per_second", "over_seconds")),
        "history": _object(
            {
                "interval_seconds": _number,
                **dict.fromkeys(("accepted", "delivered", "refused", "buffered"), _list(_number)),
            }
        ),
        "recent": _object(
            {
                "refusals": _list(
                    _nameless("at", "events", intake=_word(words.INTAKES), code=_word(words.REFUSAL_REASONS))
                ),
                "dead_letters": _list(_nameless("at", "status", reason=_word(words.DEAD_REASONS))),
            }
        ),
    }
)
