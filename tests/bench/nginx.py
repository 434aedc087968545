"""nginx as the far side: a process of its own that answers every POST alike, at once or after a while, plain or with TLS.

It costs a tenth of what any of the measured systems does for a request. How many requests came is what its `stub_status`
says, on a listener of its own.
"""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.bench.helpers import running_program, until_it_listens
from tests.bench.machine import OTHER_CORE

ANSWER = '{"success":true,"id":"0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"}'
_ECHO = "/usr/lib/nginx/modules/ngx_http_echo_module.so"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass
class Nginx:
    """The running far side."""

    url: str
    authority: Path | None
    """What to trust, with TLS."""
    latency_ms: int
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _asked: int = 0

    async def count(self) -> int:
        """Return how many requests came so far."""
        self._writer.write(b"GET / HTTP/1.1\r\nHost: status\r\n\r\n")
        async with asyncio.timeout(5):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(length)
        self._asked += 1
        return int(body.split()[9]) - self._asked


def found() -> bool:
    return shutil.which("nginx") is not None


def missing_to_wait() -> str:
    """Return what is not installed of what a far side with latency needs, or nothing."""
    if not found():
        return "nginx"
    return "" if Path(_ECHO).exists() else "libnginx-mod-http-echo"


@asynccontextmanager
async def running_nginx(*, latency_ms: int = 0, tls: bool = False, port: int = 0) -> AsyncIterator[Nginx]:
    """Run it on the core that is not measured; on a port of its own choice unless one is given."""
    port = port or free_port()
    status_port = free_port()
    with tempfile.TemporaryDirectory(prefix="forwarder-bench-nginx-") as name:
        directory = Path(name)
        authority = _make_certificate(directory) if tls else None
        config = directory / "nginx.conf"
        config.write_text(_config(directory, port, status_port, latency_ms=latency_ms, tls=tls), encoding="utf-8")
        async with running_program("nginx", "-p", name, "-c", str(config), core=OTHER_CORE) as process:
            await until_it_listens(process, status_port)
            reader, writer = await asyncio.open_connection("127.0.0.1", status_port)
            scheme = "https" if tls else "http"
            yield Nginx(f"{scheme}://127.0.0.1:{port}/track/event", authority, latency_ms, reader, writer)
            writer.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _make_certificate(directory: Path) -> Path:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    file = directory / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


def _config(directory: Path, port: int, status_port: int, *, latency_ms: int, tls: bool) -> str:
    pem = directory / "server.pem"
    certificate = f"ssl_certificate {pem}; ssl_certificate_key {pem};" if tls else ""
    # What `echo` itself says has no length, so another location answers.
    wait = f"location / {{ echo_sleep {latency_ms / 1000}; echo_exec @answer; }}"
    return f"""
        {f"load_module {_ECHO};" if latency_ms else ""}
        daemon off; master_process off;
        pid {directory}/nginx.pid; error_log stderr error;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; default_type application/json;
            keepalive_requests 1000000000; keepalive_timeout 3600s;
            client_body_buffer_size 1m; client_max_body_size 2m;
            {" ".join(f"{kind}_temp_path {directory}/{kind};" for kind in _TEMPORARY)}
            server {{
                listen 127.0.0.1:{port} {"ssl" if tls else ""} backlog=4096;
                {certificate}
                {wait if latency_ms else ""}
                location {"@answer" if latency_ms else "/"} {{ return 200 '{ANSWER}'; }}
            }}
            server {{
                listen 127.0.0.1:{status_port};
                location / {{ stub_status; }}
            }}
        }}
        """
