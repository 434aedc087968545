"""syslog-ng as a measured system: lines over TCP in, one event per request out."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.driver import Feed
from tests.bench.helpers import running_program, until_it_listens
from tests.bench.machine import MEASURED_CORE
from tests.bench.nginx import Nginx, free_port
from tests.bench.systems import Running, System, running_collector

BEST_WORKERS = {0: 2, 50: 512}
"""By latency in milliseconds: what delivered most of 1, 2, 4 and 8, and of 256, 512 and 1,000, tried in turn."""


def syslog_ng(series: str) -> System:
    """Return it at its best setting (`best`) or at 64 concurrent requests (`64`)."""

    @asynccontextmanager
    async def start(far: Nginx, most_events: int, directory: Path) -> AsyncIterator[Running]:
        workers = BEST_WORKERS[far.latency_ms] if series == "best" else 64
        port = free_port()
        feed = Feed("tcp", f"127.0.0.1:{port}", most_events)
        config = directory / "syslog-ng.conf"
        text = _config(far, port, workers, most_events)
        async with running_collector(config.name, text, directory, feed, *_command(config, directory)) as running:
            yield running

    return System(f"syslog-ng/{series}", start, 64 if series == "64" else max(BEST_WORKERS.values()))


def found() -> bool:
    return shutil.which("syslog-ng") is not None


@asynccontextmanager
async def running_with_disk_buffer(far: Nginx, directory: Path) -> AsyncIterator[tuple[int, int]]:
    """Run it with 64 workers and its reliable disk-buffer; yield its process id and the port that takes lines."""
    port = free_port()
    config = directory / "syslog-ng.conf"
    buffer = f'disk-buffer(reliable(yes) mem-buf-size({1 << 24}) disk-buf-size({1 << 28}) dir("{directory}"))'
    config.write_text(_config(far, port, 64, 10_000, buffer), encoding="utf-8")
    async with running_program(*_command(config, directory), core=MEASURED_CORE) as process:
        await until_it_listens(process, port)
        yield process.pid, port


def _command(config: Path, directory: Path) -> tuple[str, ...]:
    return (
        *("syslog-ng", "-F", "--no-caps", "-f", str(config), "-R", str(directory / "persist")),
        *("-c", str(directory / "control"), "-p", str(directory / "pid")),
    )


def _config(far: Nginx, port: int, workers: int, most_events: int, buffer: str = "") -> str:
    tls = f'tls(ca-file("{far.authority}") peer-verify(yes))' if far.authority else ""
    return f"""@version: 3.38
        options {{ stats-freq(0); time-reopen(1); log-fifo-size({2 * most_events}); }};
        source incoming {{
            network(transport("tcp") ip("127.0.0.1") port({port}) flags(no-parse)
                    max-connections(2) log-iw-size(200000) log-fetch-limit(1000));
        }};
        destination far {{
            http(
                url("{far.url}") method("POST") body("$MESSAGE") workers({workers}) batch-lines(1) timeout(10)
                headers("Content-Type: application/json", "Accept: application/json", "x-growlytics-key: some-key")
                {tls} {buffer}
            );
        }};
        log {{ source(incoming); destination(far); flags(flow-control); }};
        """
