"""Which dead letters an action of `dead-letters` is for: the arguments, and what they ask the daemon for."""

import argparse
import re
import time
from dataclasses import dataclass
from typing import Final

from forwarder.words import DEAD_REASONS

_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw])")
_END_OF_CALENDARS: Final = 253_402_300_799


@dataclass(frozen=True)
class WantedLetters:
    """Those that have all of this. None stands for any."""

    reason: str | None = None
    customer: str | None = None
    name: str | None = None
    since: float | None = None
    """Of the last attempt, in seconds since 1970."""

    @property
    def is_all(self) -> bool:
        """Whether all dead letters are meant."""
        return self == ALL

    def query(self) -> dict[str, str]:
        """Return the fields of the daemon's query. A long customer id is named by its digest, as a path must be short."""
        fields = {"reason": self.reason, "name": self.name}
        if self.customer is not None:
            from forwarder.growlytics.contract import lane_of_customer

            fields["customer"] = lane_of_customer(self.customer)
        if self.since is not None:
            fields["since"] = str(int(self.since))
        return {name: value for name, value in fields.items() if value is not None}


ALL: Final = WantedLetters()


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--reason`, `--customer`, `--name` and `--since`."""
    add = parser.add_argument
    add("--reason", metavar="R", choices=DEAD_REASONS, help=f"only those with this reason: {', '.join(DEAD_REASONS)}")
    add("--customer", metavar="ID", type=not_empty, help="only those of this customer (operators only)")
    add("--name", metavar="NAME", type=not_empty, help="only events with this name")
    add(
        "--since",
        metavar="TIME",
        type=since,
        help="only those that died since then: an age such as 90s, 2h or 3d, or a time such as 2026-11-29T10:00:00Z",
    )


def filter_of(args: argparse.Namespace) -> WantedLetters:
    """Return what the arguments ask for."""
    return WantedLetters(args.reason, args.customer, args.name, args.since)


def not_empty(text: str) -> str:
    """Read a value that must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def since(text: str) -> float:
    """Read a time or an age; return it in seconds since 1970. A time without a zone is UTC, as all times are shown."""
    from datetime import UTC, datetime

    if age := _AGE.fullmatch(text.strip().lower()):
        return max(0.0, time.time() - float(age[1]) * _SECONDS_OF[age[2]])
    try:
        at = datetime.fromisoformat(text.strip())
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an age such as 90s, 15m, 2h or 3d, nor a time such as 2026-11-29 or 2026-11-29T10:00:00Z"
        ) from None
    if not 0 <= seconds <= _END_OF_CALENDARS:
        raise argparse.ArgumentTypeError(f"{text!r} is not after 1970")
    return seconds
