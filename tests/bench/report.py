"""What a run of the benchmark found: as tables in markdown, and as JSON beside them."""

import statistics
import textwrap
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.bench import comparisons, growth, instructions, rows, through
from tests.bench.catalogue import Result
from tests.bench.comparisons import Figure
from tests.bench.growth import Curve
from tests.bench.machine import NOISY_SHARE, describe
from tests.bench.rows import Rows
from tests.bench.through import Through

_BEGIN, _END = "<!-- what make bench found -->", "<!-- end of what make bench found -->"


def _machine() -> dict[str, str]:
    return describe() | {"instruction counts": instructions.why_not() or "by perf stat"}


@dataclass
class Report:
    """Filled in as the run goes on."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    results: list[Result] = field(default_factory=list)
    others: dict[str, float] = field(default_factory=dict)
    """By what was measured: what other processes took of the machine meanwhile, as a share of one core."""
    failed: list[str] = field(default_factory=list)
    not_found: dict[str, str] = field(default_factory=dict)
    """By what was to be measured: the program that is not installed."""
    machine: dict[str, str] = field(default_factory=_machine)

    @property
    def noisy(self) -> dict[str, float]:
        return {name: share for name, share in self.others.items() if share > NOISY_SHARE}

    def markdown(self) -> str:
        machine = "; ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [_wrapped(f"Measured on {self.began:%Y-%m-%d at %H:%M} UTC. {machine}."), _wrapped(self._noise())]
        for kind, head in (
            (Figure, comparisons.HEAD),
            (Through, through.HEAD),
            (Curve, growth.HEAD),
            (Rows, rows.HEAD),
        ):
            if found := [str(one) for one in self.results if isinstance(one, kind)]:
                parts.append("\n".join([head, *found]))
        for program in sorted(set(self.not_found.values())):
            names = ", ".join(name for name, lacking in self.not_found.items() if lacking == program)
            parts.append(_wrapped(f"Not measured, as {program} was not found: {names}."))
        if self.failed:
            parts.append(f"**Failed**: {', '.join(self.failed)}.")
        return "\n\n".join(filter(None, parts))

    def _noise(self) -> str:
        if not self.noisy:
            return f"No other process took more than {NOISY_SHARE:.0%} of a core while anything was measured."
        most = max(self.noisy, key=self.noisy.__getitem__)
        return (
            f"**A noisy run**: while {len(self.noisy)} of {len(self.others)} things were measured, other processes took "
            f"more than {NOISY_SHARE:.0%} of a core: {statistics.median(self.noisy.values()):.0%} in the median, "
            f"{self.noisy[most]:.0%} with {most}. Ratios suffer less than absolute figures, but they do."
        )

    def as_json(self) -> dict[str, Any]:
        of = self.results
        return {
            "began": self.began.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine,
            "noisy": bool(self.noisy),
            "share_of_a_core_that_others_took": self.others,
            "figures": [one.as_json() for one in of if isinstance(one, Figure)],
            "systems": [asdict(one) for one in of if isinstance(one, Through)],
            "growth": [asdict(one) for one in of if isinstance(one, Curve)],
            "other_rows": [row for one in of if isinstance(one, Rows) for row in one.as_json()],
            "not_found": self.not_found,
            "failed": self.failed,
        }


def put_into(document: str, markdown: str) -> str:
    """Return a document with other tables between the two marks."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"the document has no {_BEGIN} and {_END}"
    return f"{before}{begin}\n{markdown}\n{end}{after}"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 124, break_long_words=False, break_on_hyphens=False))
