"""The OpenAPI document is one, it names what there is, and the running daemon keeps to it."""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from openapi_spec_validator import validate

from tests.system.processes import Daemon, running_daemon, running_sandbox

TOKEN: Final = "the-token"
HERE: Final = Path(__file__).parent


async def served(daemon: Daemon) -> dict[str, Any]:
    async with daemon.http.get(f"{daemon.base}/openapi.yaml", headers={"x-growlytics-key": TOKEN}) as response:
        assert response.status == 200
        assert response.content_type == "application/yaml"
        content: dict[str, Any] = yaml.safe_load(await response.text())
        return content


async def test_the_daemon_serves_a_document_that_is_openapi_and_names_every_code(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, intake__token=TOKEN) as daemon:
        document = await served(daemon)
        metrics = await daemon.metrics()
    validate(document)
    assert document["openapi"].startswith("3.1")
    codes = set(document["components"]["schemas"]["Code"]["enum"])
    prefix = 'growlytics_forwarder_events_rejected_total{reason="'
    counted = {series.removeprefix(prefix).removesuffix('"}') for series in metrics if series.startswith(prefix)}
    assert counted <= codes


async def test_every_path_of_the_document_is_there_and_takes_its_methods_only(tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, intake__token=TOKEN) as daemon:
        over_unix = aiohttp.UnixConnector(daemon.ready["control"])
        async with aiohttp.ClientSession("http://localhost", connector=over_unix) as control:
            await check_methods(await served(daemon), daemon, control)


async def check_methods(document: dict[str, Any], daemon: Daemon, control: aiohttp.ClientSession) -> None:
    for path, operations in document["paths"].items():
        alone = operations.pop("x-control-only", False)
        for method in ("get", "head", "post", "put", "patch", "delete"):
            headers = {"x-growlytics-key": TOKEN, "Content-Type": "application/json"}
            url = path.replace("{id}", "1")
            if alone:
                async with daemon.http.request(method, daemon.base + url, headers=headers) as response:
                    assert response.status == 404, (method, path)
            where = (
                control.request(method, url)
                if alone
                else daemon.http.request(method, daemon.base + url, headers=headers)
            )
            async with where as response:
                if method in operations or (method == "head" and "get" in operations):
                    assert response.status in (200, 400, 422) or path.endswith("{id}"), (method, path)
                else:
                    assert response.status == 405, (method, path)
                    assert response.headers["Allow"] == ("GET, HEAD" if "get" in operations else "POST")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "examples",
    [pytest.param(15, id="short"), pytest.param(1000, id="long", marks=pytest.mark.soak)],
)
async def test_requests_made_from_the_document_break_no_promise_of_it(tmp_path: Path, examples: int) -> None:
    # It uses the same few keys for one event after the other, which is rightly refused where keys are remembered.
    settings = {"intake__token": TOKEN, "intake__duplicate_window_seconds": 0}
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url, **settings) as daemon:
        document = tmp_path / "openapi.yaml"
        content = await served(daemon)
        content["paths"] = {path: each for path, each in content["paths"].items() if "x-control-only" not in each}
        document.write_text(yaml.safe_dump(content), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={HERE / 'schemathesis.toml'}",
            "run",
            str(document),
            f"--url={daemon.base}",
            f"--header=x-growlytics-key: {TOKEN}",
            "--checks=all",
            f"--max-examples={examples}",
            "--generation-database=none",
            "--no-color",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        report = out.decode()
        assert process.returncode == 0, report[-8000:]
        async with daemon.http.get(f"{daemon.base}/v1/status", headers={"x-growlytics-key": TOKEN}) as response:
            ledger = (await response.json())["ledger"]["since_start"]
        assert ledger["accepted"] > examples / 4, "it reached what is behind the door"
        assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
        assert ledger["unaccounted"] == 0
    shutil.rmtree(tmp_path / "buffer")
