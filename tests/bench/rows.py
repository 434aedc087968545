"""Figures that have no other system beside them, as rows of a table: one column for each event loop."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

LOOPS = ("asyncio", "uvloop")


@dataclass
class Row:
    """One figure: its text under each event loop; missing where it is measured under one only."""

    figure: str
    goal: str = ""
    by_loop: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"| {self.figure} | {self.goal} | {' | '.join(self.by_loop.get(loop, '–') for loop in LOOPS)} |"


HEAD = f"| figure | goal | {' | '.join(LOOPS)} |\n| --- | --- | {' | '.join('---' for _ in LOOPS)} |"


class Rows:
    """The rows of one group, in the order in which each was filled in first."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def put(self, loop: str, figure: str, value: str, *, goal: str = "") -> None:
        self._rows.setdefault(figure, Row(figure, goal)).by_loop[loop] = value

    def as_json(self) -> list[dict[str, object]]:
        return [asdict(row) for row in self._rows.values()]

    def __str__(self) -> str:
        return "\n".join(str(row) for row in self._rows.values())


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, and from where to where the values go."""
    median = f"{statistics.median(values):.{digits}f}"
    return f"{median} ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else median


def percentile(ordered: Sequence[float], share: int) -> float:
    return ordered[len(ordered) * share // 100]


def progress(text: str) -> None:
    """Say beside the table how it goes, for who waits."""
    print(text, file=sys.stderr, flush=True)
