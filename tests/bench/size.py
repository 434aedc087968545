"""How long the code of the daemon is."""

from pathlib import Path

from tests.bench.comparisons import Figure, Goal

_PACKAGE = Path(__file__).parents[2] / "forwarder"


async def measure() -> list[Figure]:
    return count(_PACKAGE)


def count(package: Path) -> list[Figure]:
    """Return the lines and the files of Python in a directory."""
    files = list(package.rglob("*.py"))
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    return [
        Figure("lines of forwarder/", "lines", [lines], goal=Goal(17_000, 18_500)),
        Figure("files of forwarder/", "files", [len(files)], goal=Goal(105, 118)),
    ]
