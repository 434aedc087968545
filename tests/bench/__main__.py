"""`make bench` and `make bench-all`: speed of real processes on this machine, ours and others'. Not a test.

Tables go to standard output; progress, and what went wrong, to standard error.
"""

import argparse
import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.bench.accepting import DAEMON
from tests.bench.catalogue import Entry, catalogue, chosen
from tests.bench.machine import OTHER_CORE, Others
from tests.bench.ours import warm_up
from tests.bench.report import Report, put_into
from tests.bench.rows import progress


async def run(entries: dict[str, Entry], names: Sequence[str]) -> Report:
    """Measure one thing after the other."""
    report = Report()
    await warm_up()
    for number, name in enumerate(names, 1):
        entry = entries[name]
        if entry.missing:
            report.not_found[name] = entry.missing
            continue
        started, others = time.perf_counter(), Others()
        try:
            async with asyncio.timeout(entry.seconds):
                report.results += await entry.measure()
        except Exception:  # noqa: BLE001 - the rest is worth having
            traceback.print_exc()
            report.failed.append(name)
        report.others[name] = others.share()
        taken = time.perf_counter() - started
        progress(f"[{number}/{len(names)}] {name}: {taken:.0f} s; others took {report.others[name]:.0%} of a core")
    return report


def main(arguments: argparse.Namespace) -> int:
    entries = catalogue(arguments.base)
    if arguments.list:
        print("\n".join(f"{name}{' (main)' if entry.main else ''}" for name, entry in entries.items()))
        return 0
    names = (
        chosen(entries, arguments.only)
        if arguments.only
        else [n for n, e in entries.items() if e.main or arguments.all]
    )
    if not names:
        print(f"nothing is called {arguments.only}: see --list", file=sys.stderr)
        return 64
    os.sched_setaffinity(0, {OTHER_CORE})
    report = asyncio.run(run(entries, names))
    print(report.markdown())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.into:
        document = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(put_into(document, report.markdown()), encoding="utf-8")
    return 1 if report.failed else 0


def _checkout(name: str) -> Path:
    path = Path(name).absolute()
    if not (path / DAEMON).exists():
        raise argparse.ArgumentTypeError(f"{path} has no {DAEMON}: run make .venv/dev there")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--all", action="store_true", help="not the main rows alone")
    parser.add_argument("--only", metavar="NAME", help="what has this name or begins with it; * and ? are wild")
    parser.add_argument("--list", action="store_true", help="name all that can be measured")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was found there, too")
    parser.add_argument(
        "--into", metavar="FILE", type=Path, help="put the tables into this document, between its marks"
    )
    parser.add_argument("--base", metavar="CHECKOUT", type=_checkout, help="another one, to compare with")
    sys.exit(main(parser.parse_args()))
