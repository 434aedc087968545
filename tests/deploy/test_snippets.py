"""The snippets of deploy/clients/README.md, each run by its own language beside a real daemon and where there is none."""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.far_sides import far_side, hangs
from tests.deploy.tools import DEPLOY, output, run
from tests.system.processes import running_daemon, running_sandbox, until
from tests.system.tools import lacks, needs

README = (DEPLOY / "clients/README.md").read_text(encoding="utf-8")
EVENT = {"name": "Add To Cart", "customerId": "c-1", "time": 1_700_000_000_000, "attributes": {"Quantity": 3}}
MAX_LINES = 10
GOES_ON = "the app goes on"


@dataclass(frozen=True)
class Language:
    """How to make a program of a snippet: it tracks an event, says that it goes on, and stays until its input ends."""

    name: str
    tool: str
    file: str
    program: Callable[[str, str], str]
    """Of the snippet and of the event, as JSON."""
    arguments: tuple[str, ...] = ()


def python(snippet: str, event: str) -> str:
    return f"{snippet}\ntrack({json.loads(event)!r})\nprint('{GOES_ON}', flush=True)\n__import__('sys').stdin.read()\n"


def node(snippet: str, event: str) -> str:
    return f"{snippet}\ntrack({event});\nconsole.log('{GOES_ON}');\nprocess.stdin.resume();\n"


def go(snippet: str, event: str) -> str:
    imports = "\n".join(f'"{name}"' for name in ("bytes", "encoding/json", "io", "log", "net/http", "os", "time"))
    call = f"var event map[string]any\njson.Unmarshal([]byte(`{event}`), &event)\ngo track(event)"
    rest = f'os.Stdout.WriteString("{GOES_ON}\\n")\nio.ReadAll(os.Stdin)'
    return f"package main\nimport (\n{imports}\n)\n{snippet}\nfunc main() {{\n{call}\n{rest}\n}}\n"


def java(snippet: str, event: str) -> str:
    imports = "".join(f"import {name};\n" for name in ("java.net.URI", "java.net.http.*", "java.time.Duration"))
    main = f'track({json.dumps(event)});\nSystem.out.println("{GOES_ON}");\nSystem.in.readAllBytes();'
    return (
        f"{imports}class App {{\n{snippet}\npublic static void main(String[] a) throws Exception {{\n{main}\n}}\n}}\n"
    )


def php(snippet: str, event: str) -> str:
    return f"<?php\n{snippet}\ntrack(json_decode('{event}', true));\necho \"{GOES_ON}\\n\";\nfgets(STDIN);\n"


def ruby(snippet: str, event: str) -> str:
    return f"{snippet}\ntrack(JSON.parse('{event}'))\nputs '{GOES_ON}'\n$stdout.flush\nSTDIN.read\n"


LANGUAGES = [
    Language("python", sys.executable, "app.py", python, ("-W", "error")),
    Language("js", "node", "app.mjs", node),
    Language("go", "go", "app.go", go, ("run",)),
    Language("java", "java", "App.java", java, ("-XX:TieredStopAtLevel=1", "-Xshare:auto")),
    Language("php", "php", "app.php", php, ("-d", "display_errors=stderr", "-d", "error_reporting=-1")),
    Language("ruby", "ruby", "app.rb", ruby, ("-w",)),
]


def snippet_of(language: Language) -> str:
    found: list[str] = re.findall(rf"```{language.name}\n(.*?)```", README, re.DOTALL)
    return found[0]


@dataclass
class Running:
    """A program, and what it wrote so far."""

    process: asyncio.subprocess.Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    async def goes_on_and_ends_well(self) -> str:
        """Check that the app went on and ended as it should; return what it complained of."""
        await until(lambda: GOES_ON in "".join(self.out), f"{self.err}: it goes on", seconds=60)
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(60):
            assert await self.process.wait() == 0, self.err
        return "".join(self.err)

    def complained(self) -> bool:
        return "event not tracked: " in "".join(self.err)


@asynccontextmanager
async def running(language: Language, port: int, directory: Path, event: dict[str, Any]) -> AsyncIterator[Running]:
    snippet = snippet_of(language)
    assert snippet.count("8920") == 1
    directory.mkdir()  # noqa: ASYNC240 - at once
    (directory / language.file).write_text(
        language.program(snippet.replace("8920", str(port)), json.dumps(event)), encoding="utf-8"
    )
    process = await asyncio.create_subprocess_exec(
        language.tool, *language.arguments, language.file,
        cwd=directory, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "GO111MODULE": "off", "NODE_OPTIONS": "", "http_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    found = Running(process)
    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.gather(_read(process.stdout, found.out), _read(process.stderr, found.err))
    try:
        yield found
        await reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        reading.cancel()


async def _read(stream: asyncio.StreamReader, into: list[str]) -> None:
    async for line in stream:
        into.append(line.decode())  # noqa: PERF401 - line by line, as others read it meanwhile


@pytest.fixture(params=LANGUAGES, ids=lambda language: language.name)
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.param
    if not Path(found.tool).is_absolute():
        needs(found.tool)
    if found.name == "php" and run("php", "-r", 'exit(extension_loaded("curl") ? 0 : 1);').returncode:
        lacks("PHP's extension curl")
    return found


def test_each_snippet_is_short() -> None:
    for language in LANGUAGES:
        snippet = snippet_of(language)
        assert 0 < len(snippet.splitlines()) <= MAX_LINES, language.name
        assert max(map(len, snippet.splitlines())) <= 130, language.name


async def test_an_event_arrives_as_it_is_and_a_wrong_one_is_complained_of(language: Language, tmp_path: Path) -> None:
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        port = int(daemon.ready["http"].rpartition(":")[2])
        wrong = {**EVENT, "name": ""}
        async with (
            running(language, port, tmp_path / "right", EVENT) as right,
            running(language, port, tmp_path / "wrong", wrong) as other,
        ):
            await until(sandbox.raw, "the event arrived", seconds=60)
            assert await right.goes_on_and_ends_well() == ""
            await until(other.complained, "the wrong event is complained of", seconds=60)
            await other.goes_on_and_ends_well()
        assert [json.loads(event) for event in await sandbox.raw()] == [EVENT]
        assert (await daemon.ledger())["received"] == 2


async def test_the_app_goes_on_where_nobody_answers(language: Language, tmp_path: Path) -> None:
    with far_side(hangs) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
        closed.close()
        ports = (free, int(server.address.rpartition(":")[2]))
        async with (
            running(language, ports[0], tmp_path / "refused", EVENT) as refused,
            running(language, ports[1], tmp_path / "hangs", EVENT) as hanging,
        ):
            for app in (refused, hanging):
                await until(app.complained, "it is complained of", seconds=60)
                await app.goes_on_and_ends_well()


async def test_the_file_to_copy_is_used_as_it_is_shown(tmp_path: Path) -> None:
    (shown,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "growlytics_forwarder import" in block
    )
    async with running_sandbox() as sandbox, running_daemon(tmp_path, sandbox.url) as daemon:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", shown.replace("http://127.0.0.1:8920", daemon.base),
            cwd=DEPLOY / "clients", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"")
        await until(daemon.drained, "it is delivered")
        assert json.loads((await sandbox.raw())[0])["attributes"] == {"Quantity": 3}


def test_gofmt_has_nothing_against_the_go_snippet(tmp_path: Path) -> None:
    (snippet,) = (snippet_of(language) for language in LANGUAGES if language.name == "go")
    file = tmp_path / "app.go"
    file.write_text(f"package main\n\n{snippet}", encoding="utf-8")
    assert output(needs("gofmt"), "-d", str(file)) == ""
