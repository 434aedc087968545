"""Fluent Bit as a measured system, where its binary is found: lines over TCP in, one record per request out (`body_key`)."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.driver import Feed
from tests.bench.nginx import Nginx, free_port
from tests.bench.systems import Running, System, running_collector

WORKERS = {"best": 2, "64": 64}


def fluent_bit(series: str) -> System:
    """Return it with the number of workers that it has by default (`best`) or with 64, each of which sends by itself."""

    @asynccontextmanager
    async def start(far: Nginx, most_events: int, directory: Path) -> AsyncIterator[Running]:
        port = free_port()
        feed = Feed("tcp", f"127.0.0.1:{port}", most_events)
        config = directory / "fluent-bit.conf"
        text = _config(far, port, WORKERS[series])
        async with running_collector(
            config.name, text, directory, feed, "fluent-bit", "-q", "-c", str(config)
        ) as running:
            yield running

    return System(f"fluent-bit/{series}", start, WORKERS[series], per_second=20_000)


def found() -> bool:
    return shutil.which("fluent-bit") is not None


def _config(far: Nginx, port: int, workers: int) -> str:
    address, _, path = far.url.partition("//")[2].partition("/")
    host, _, far_port = address.partition(":")
    tls = f"tls On\n    tls.verify On\n    tls.ca_file {far.authority}" if far.authority else ""
    # `body_key` wants `headers_key` beside it: a map in the record, made by the two filters.
    return f"""
[SERVICE]
    flush 0.05
[INPUT]
    name tcp
    listen 127.0.0.1
    port {port}
    format none
    chunk_size 64
    buffer_size 256
[FILTER]
    name modify
    match *
    add header_Content-Type application/json
    add header_x-growlytics-key some-key
[FILTER]
    name nest
    match *
    operation nest
    wildcard header_*
    nest_under headers
    remove_prefix header_
[OUTPUT]
    name http
    match *
    host {host}
    port {far_port}
    uri /{path}
    body_key $log
    headers_key $headers
    workers {workers}
    net.keepalive On
    {tls}
"""
