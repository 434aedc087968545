"""All that can be measured, by name; `make bench` measures what is marked as main, `make bench-all ONLY=name` any."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import product
from pathlib import Path

from tests.bench import (
    accepting,
    backlog,
    bounds,
    calls,
    compared,
    delivering,
    floors,
    fluent_bit,
    growth,
    in_process,
    low_rates,
    nginx,
    resting,
    single,
    size,
    syslog_ng,
    tapped,
    ways_in,
)
from tests.bench.bare import AIOHTTP, HTTPTOOLS
from tests.bench.comparisons import Figure
from tests.bench.growth import Curve
from tests.bench.ours import BEST_CONCURRENCY, KINDS, WAYS, ours
from tests.bench.rows import LOOPS, Rows
from tests.bench.systems import Conditions, System
from tests.bench.through import Through, measure_through
from tests.system import crowds

Result = Figure | Through | Curve | Rows
_ROW_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """One thing to measure."""

    measure: Callable[[], Awaitable[Sequence[Result]]]
    seconds: float
    """Within which it ends, or fails."""
    main: bool = False
    missing: str = ""
    """The program without which it is not measured."""


def catalogue(base: Path | None = None) -> dict[str, Entry]:
    """Return each by its name; `base` is another checkout to compare with, if there is one."""
    missing = "" if nginx.found() else "nginx"
    libraries = (AIOHTTP, HTTPTOOLS)
    return {
        "accepting/uvloop": Entry(lambda: accepting.measure("uvloop"), 240, main=True),
        "accepting/two-segments": Entry(partial(accepting.measure, "uvloop", accepting.TWO_SEGMENTS), 240, main=True),
        "accepting/asyncio": Entry(lambda: accepting.measure("asyncio"), 240),
        "accepting/kinds": Entry(lambda: accepting.measure("uvloop", kinds=list(KINDS)), 480),
        "batches": Entry(
            partial(accepting.measure_batches, base or Path()),
            240,
            main=True,
            missing="" if base else "another checkout (BASE)",
        ),
        "delivering/uvloop": Entry(lambda: delivering.measure("uvloop"), 300, main=True, missing=missing),
        "delivering/asyncio": Entry(lambda: delivering.measure("asyncio"), 300, missing=missing),
        "lines-to-delivered": Entry(compared.measure_cpu, 300, main=True, missing=missing),
        "throughput-at-50ms": Entry(compared.measure_throughput, 480, main=True, missing=missing),
        "low-rates": Entry(
            low_rates.measure,
            600,
            main=True,
            missing=nginx.missing_to_wait() or ("" if syslog_ng.found() else "syslog-ng"),
        ),
        "tap": Entry(
            tapped.measure,
            400,
            missing=nginx.missing_to_wait(),
        ),
        "p99-at-500": Entry(single.measure_p99, 120, main=True),
        "size": Entry(size.measure, 10, main=True),
        "calls": Entry(calls.measure, 60, main=True),
        "resting": Entry(resting.measure, 120, main=True),
        **{
            f"crowds/batches/{kind}": Entry(partial(bounds.measure_batches, kind), 240, main=kind != "chunked")
            for kind in crowds.KINDS
        },
        "crowds/bodies": Entry(bounds.measure_parts, 180, main=True),
        **{
            f"crowds/silent/{listener}": Entry(partial(bounds.measure_silence, listener), 180, main=True)
            for listener in ("admin", "intake")
        },
        **{
            f"bare-{what}/{library}/{loop}": Entry(
                partial(measure, library, loop), 60, main=loop == "uvloop", missing=lacking
            )
            for what, measure, lacking in (
                ("handler", floors.measure_handler, ""),
                ("client", floors.measure_client, missing),
            )
            for library, loop in product(libraries, LOOPS)
        },
        **_rows(),
        "growth/backlog": Entry(growth.measure_backlog, 600),
        "growth/customers": Entry(growth.measure_customers, 600),
        "growth/attributes": Entry(growth.measure_attributes, 600),
        "growth/connections": Entry(growth.measure_connections, 300),
        "latency": Entry(partial(_alone, single.measure_latency), 150),
        "sandbox": Entry(partial(_alone, single.measure_sandbox), 60),
        "ways-in": Entry(partial(_alone, ways_in.measure), 360),
        "backlog": Entry(partial(_alone, backlog.measure), 480),
    }


TABLE = (
    *("low-rates", "calls", "lines-to-delivered", "accepting/uvloop", "delivering/uvloop"),
    *("p99-at-500", "resting", "throughput-at-50ms", "size"),
)
"""What `ONLY=table` measures: all that the daemon is judged by, each figure with its goal and the most that it may be."""


def chosen(entries: dict[str, Entry], only: str) -> list[str]:
    """Return the names that a pattern (`*` and `?` are wild) matches, or that begin with it; `table` is several."""
    if only == "table":
        return list(TABLE)
    return [name for name in entries if fnmatch(name, only) or name.startswith(only.rstrip("/") + "/")]


async def _alone(measure: Callable[[], Awaitable[Rows]]) -> list[Rows]:
    return [await measure()]


async def _row(system: System, conditions: Conditions) -> list[Through]:
    return [await measure_through(system, conditions)]


MAIN_ROWS = {
    *("ours/disk/http/uvloop/0ms/plain", "ours/disk/http/uvloop/0ms/tls", "ours/disk/http/uvloop/50ms/plain"),
    *("ours/memory/http/uvloop/0ms/plain", "ours/fsync/http/uvloop/0ms/plain", "ours/disk/http/asyncio/0ms/plain"),
    *(f"ours/disk/{way}/uvloop/0ms/plain" for way in ("batches", "lines", "datagram")),
    *("ours/disk/lines/uvloop/50ms/plain", "ours/disk/lines/uvloop/best/50ms/plain"),
    *(
        f"{name}/{series}/{ms}ms/plain"
        for name in ("syslog-ng", "fluent-bit")
        for series in ("best", "64")
        for ms in (0, 50)
    ),
    *("syslog-ng/best/0ms/tls", "segment/1/0ms/plain", "segment/100/0ms/plain"),
    *("requests/0ms/plain", "requests/50ms/plain"),
}


def _rows() -> dict[str, Entry]:
    missing = "" if nginx.found() else "nginx"
    systems = [(ours(kind, way, loop), missing) for kind, way, loop in product(KINDS, WAYS, LOOPS)]
    systems += [(ours("disk", way, "uvloop", concurrency=BEST_CONCURRENCY), missing) for way in WAYS]
    systems += [
        (syslog_ng.syslog_ng(name), missing or ("" if syslog_ng.found() else "syslog-ng")) for name in ("best", "64")
    ]
    systems += [
        (fluent_bit.fluent_bit(name), missing or ("" if fluent_bit.found() else "fluent-bit"))
        for name in ("best", "64")
    ]
    systems += [(one, missing) for one in (in_process.segment(1), in_process.segment(100), in_process.plain_requests())]
    rows: dict[str, Entry] = {}
    for (system, lacking), latency_ms, tls in product(systems, (0, 50), (False, True)):
        conditions = Conditions(latency_ms, tls)
        name = f"{system.name}/{conditions}"
        rows[name] = Entry(partial(_row, system, conditions), _ROW_SECONDS, main=name in MAIN_ROWS, missing=lacking)
    return rows
