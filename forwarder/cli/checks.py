"""The result of one check, as `diagnose` and `check-config --connect` show it: a line for people, facts for programs."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

CheckResult = Literal["ok", "warn", "fail", "skip"]
"""`skip`: it could not be tried, and the text says why."""

_NONE: Final[Mapping[str, object]] = MappingProxyType({})
_INDENT: Final = " " * 6


class Checked(NamedTuple):
    """What one check found. No member shows a secret, and all texts are safe to print."""

    check: str
    """Which check, as a stable word; several results may have the same."""
    result: CheckResult
    text: str
    fix: str = ""
    """What to do; empty if there is nothing to do."""
    facts: Mapping[str, object] = _NONE
    """The same for programs."""

    def lines(self) -> list[str]:
        """Return one or two lines for people."""
        first = f"{self.result:<4}  {self.check}: {self.text}"
        return [first, f"{_INDENT}fix: {self.fix}"] if self.fix else [first]

    def described(self) -> dict[str, object]:
        """Return all of it as JSON."""
        return {
            "check": self.check,
            "result": self.result,
            "text": self.text,
            "fix": self.fix or None,
            "facts": dict(self.facts),
        }


def described(results: Iterable[Checked]) -> dict[str, object]:
    """Return the results as JSON: the checks, what could not be tried, and whether nothing failed."""
    found = list(results)
    return {
        "ok": not any(each.result == "fail" for each in found),
        "checks": [each.described() for each in found if each.result != "skip"],
        "untried": [{"check": each.check, "why": each.text} for each in found if each.result == "skip"],
    }


def together_if_skipped(results: Iterable[Checked], *, into: list[Checked]) -> Iterator[list[str]]:
    """Yield the lines of each result as soon as it is there, and add it to `into`.

    Checks in a row that were skipped for the same reason share a line.
    """
    skipped: list[Checked] = []
    for each in results:
        into.append(each)
        if skipped and (each.result, each.text) != ("skip", skipped[0].text):
            yield _shared(skipped).lines()
            skipped = []
        if each.result == "skip":
            skipped.append(each)
        else:
            yield each.lines()
    if skipped:
        yield _shared(skipped).lines()


def _shared(skipped: list[Checked]) -> Checked:
    return skipped[0]._replace(check=", ".join(each.check for each in skipped))


def milliseconds(seconds: float) -> str:
    """Return a short time for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its word, as in `1 address` and `2 addresses`."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
