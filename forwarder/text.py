"""Makes texts for people: strangers' text safe to show, numbers, durations. All may import it; it imports none of ours."""

from typing import Final

UNKNOWN: Final = "–"
"""Shown where a number is not known."""
_SECONDS_OF: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def printable(text: str, limit: int = 100) -> str:
    """Return a stranger's text, safe for a log line or a terminal.

    Control characters, lone surrogates and all else that is not printable are escaped. The text is cut at `limit` characters
    before that.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in cut)


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units, like `3 h 12 min`; below ten seconds with a decimal, below one in ms."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    left = round(seconds)
    parts: list[str] = []
    for unit, size in _SECONDS_OF:
        if left >= size or parts:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def roughly(seconds: float) -> str:
    """Return a time in one unit, such as `4 min`, for a forecast or for how long something has lasted."""
    left = max(0.0, seconds)
    for unit, size in _SECONDS_OF:
        if left >= 1.5 * size or size == 1:
            return f"{left / size:.0f} {unit}" if left >= 1 else "a moment"
    raise AssertionError("unreachable")


def rate(per_second: float) -> str:
    """Return how many a second, from a number with at most two decimals, which no more than 100 a second show."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:g}"


def percent(share: float) -> str:
    """Return a share as a whole percentage, as the page does it; a little is not called none."""
    return "<1 %" if 0 < share < 0.0095 else f"{100 * share:.0f} %"


def count(number: int | None) -> str:
    """Return a number with thousands separators."""
    return UNKNOWN if number is None else f"{number:,}"


def events(number: int) -> str:
    """Return a number of events, as in `1 event` and `2,000 events`."""
    return f"{number:,} event{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """Return the verb for so many things that are."""
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    """Return the verb for so many things that were."""
    return "was" if number == 1 else "were"
