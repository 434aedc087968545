"""Figures that have a goal: ratios of two systems that were measured in turn, and plain ones of ours."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.rows import progress, spread

PAIRS = 7


@dataclass(frozen=True)
class Goal:
    """What a figure should be, and what it must be."""

    goal: float
    limit: float | None = None
    more_is_better: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.more_is_better else "≤"
        bound = "at least" if self.more_is_better else "at most"
        return f"{sign} {self.goal:,.6g}" + (f", {bound} {self.limit:,.6g}" if self.limit is not None else "")

    def verdict(self, value: float) -> str:
        if value >= self.goal if self.more_is_better else value <= self.goal:
            return "met"
        if self.limit is not None and (value >= self.limit if self.more_is_better else value <= self.limit):
            return "missed; within the limit"
        return "**missed**"


@dataclass(frozen=True)
class Figure:
    """Values of one figure; with a second system's, taken in turn with them, it is their ratio that counts."""

    name: str
    unit: str
    values: list[float]
    second: str = ""
    """The name of what it is compared with."""
    second_values: list[float] | None = None
    goal: Goal | None = None

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.values, self.second_values or [], strict=True)]

    def as_json(self) -> dict[str, object]:
        counted = self.ratios if self.second_values else self.values
        found: dict[str, object] = {"figure": self.name, "unit": self.unit, "values": self.values}
        if self.second_values:
            found |= {"second": self.second, "second_values": self.second_values, "ratios": self.ratios}
        found["median"] = statistics.median(counted)
        if self.goal is not None:
            found |= {"goal": str(self.goal), "verdict": self.goal.verdict(statistics.median(counted)).strip("*")}
        return found

    def __str__(self) -> str:
        is_count = all(float(value).is_integer() for value in self.values)
        digits = 1 if self.unit == "MB" else 0 if is_count or statistics.median(self.values) >= 10 else 2
        counted = self.ratios if self.second_values else self.values
        cells = [
            f"{self.name}, {self.unit}",
            spread(self.values, digits),
            f"{self.second}: {spread(self.second_values, digits)}" if self.second_values else "–",
            f"**{statistics.median(counted):.2f}** ({min(counted):.2f}–{max(counted):.2f})"
            if self.second_values
            else "–",
            str(self.goal) if self.goal else "",
            self.goal.verdict(statistics.median(counted)) if self.goal else "",
        ]
        return f"| {' | '.join(cells)} |"


HEAD = "| figure | ours | against | ratio, median (spread) | goal | |\n| --- | --- | --- | --- | --- | --- |"


async def alternate(
    title: str, measures: Mapping[str, Callable[[], Awaitable[float]]], *, pairs: int = PAIRS
) -> dict[str, list[float]]:
    """Measure each in turn, again and again: backwards every other time, so that nothing that drifts favours one of them."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(pairs):
        for name in reversed(list(measures)) if number % 2 else measures:
            found[name].append(await measures[name]())
        progress(
            f"{title}, {number + 1} of {pairs}: " + "; ".join(f"{name} {one[-1]:.4g}" for name, one in found.items())
        )
    return found


def against(
    name: str, unit: str, found: Mapping[str, Sequence[float]], ours: str, *, goals: Mapping[str, Goal]
) -> list[Figure]:
    """Return what was found of ours against each of the others."""
    return [
        Figure(name, unit, list(found[ours]), other, list(values), goals.get(other))
        for other, values in found.items()
        if other != ours
    ]
