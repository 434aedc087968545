"""The image, really built and run."""

import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.images import BASE, IMAGE, Buildah, read_only
from tests.deploy.tools import run
from tests.system.processes import KEY, Daemon, example_event, running_sandbox, starting_daemon, until

pytestmark = pytest.mark.timeout(400)

INSIDE = {
    "growlytics__api_key": KEY,
    "buffer__directory": "/var/lib/growlytics-forwarder",
    "intake__unix_socket": "/run/growlytics-forwarder/intake.sock",
}


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Directories for the buffer and the sockets, which belong to root and are open to all, as an emptyDir is."""
    tmp_path.chmod(0o755)
    made = {"BUFFER": tmp_path / "buffer", "SOCKETS": tmp_path / "sockets"}
    for name, path in made.items():
        path.mkdir()
        path.chmod(0o777)
        monkeypatch.setenv(name, str(path))
    return made


def environment_of(buildah: Buildah) -> list[str]:
    variables: list[str] = buildah.config()["Env"]
    return variables


def test_it_is_what_it_says(buildah: Buildah) -> None:
    config = buildah.config()
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["growlytics-forwarder"]
    assert config["Cmd"] == ["run"]
    assert config["Healthcheck"]["Test"] == ["CMD", "growlytics-forwarder", "healthcheck"]
    assert list(config["Volumes"]) == ["/var/lib/growlytics-forwarder"]
    assert config["Labels"]["org.opencontainers.image.title"] == "growlytics-forwarder"


def test_it_has_no_tools_to_install_with_and_all_its_byte_code(root: str) -> None:
    installed = Path(root) / "opt/forwarder"
    names = {path.name for path in installed.rglob("site-packages/*")}
    assert {"aiohttp", "forwarder", "uvloop", "rich"} <= names
    assert names.isdisjoint({"pip", "setuptools", "hatchling", "pytest"})
    modules = next(installed.rglob("site-packages/forwarder"))
    for source in modules.rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")), source
    assert not (Path(root) / "src").exists()
    size = sum(path.lstat().st_size for path in installed.rglob("*"))
    print(f"beyond the base: {size / 1e6:.1f} MB")
    assert size < 60e6


def test_its_owner_can_write_only_to_the_volumes(root: str) -> None:
    wrong = [
        path
        for path in Path(root).rglob("*")
        if not path.is_symlink()
        and path.lstat().st_uid == 65532
        and str(path.relative_to(root)) not in {"var/lib/growlytics-forwarder", "run/growlytics-forwarder"}
    ]
    assert wrong == []
    buffer = Path(root) / "var/lib/growlytics-forwarder"
    assert (buffer.stat().st_uid, buffer.stat().st_mode & 0o777) == (65532, 0o700)


def commands_find_the_daemon_by_themselves(begin: list[str]) -> None:
    """Run commands as deploy/README.md says, without a flag: of operators, too, as they find the control socket."""
    for arguments in (
        ("status",),
        ("top", "--once"),
        ("dead-letters", "list"),
        ("dead-letters", "export"),
        ("attribute-types", "list"),
    ):
        done = run(*begin, "growlytics-forwarder", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"


async def one_event_gets_through(daemon: Daemon) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(1)) as response:
        assert response.status == 200, await response.text()
    await until(daemon.drained, "the event is delivered")


async def test_with_a_read_only_root_an_event_gets_through(
    buildah: Buildah, root: str, volumes: dict[str, Path], tmp_path: Path
) -> None:
    begin = [*read_only(root), *environment_of(buildah)]
    refused = run(*begin, "touch", "/opt/forwarder/x", "/tmp/x")
    assert refused.stderr.count("Read-only file system") == 2, refused.stderr
    command = [*begin, *buildah.config()["Entrypoint"]]
    async with running_sandbox() as sandbox, starting_daemon(tmp_path, sandbox.url, command, **INSIDE) as daemon:
        assert await daemon.until_ready(), daemon.lines
        await one_event_gets_through(daemon)
        assert len(await sandbox.raw()) == 1

        connector = aiohttp.UnixConnector(str(volumes["SOCKETS"] / "intake.sock"))
        async with aiohttp.ClientSession(connector=connector) as app:
            response = await app.post("http://localhost/track/event", json=example_event(2))
            assert response.status == 200
        process = Path(  # noqa: ASYNC240 - of the kernel, at once
            f"/proc/{daemon.process.pid}/status"
        ).read_text(encoding="ascii")
        assert "\nUid:\t65532\t65532\t65532\t65532\n" in process
        assert "\nCapEff:\t0000000000000000\n" in process
        assert next(volumes["BUFFER"].glob("*.db")).stat().st_uid == 65532

        commands_find_the_daemon_by_themselves(begin)
        check = buildah.config()["Healthcheck"]["Test"][1:]
        healthcheck = [*begin, f"FORWARDER_ADMIN__HTTP={daemon.ready['admin']}", *check]
        assert run(*healthcheck).returncode == 0
        assert await daemon.stop() == 0
        assert run(*healthcheck).returncode == 1


async def test_in_a_container_an_event_gets_through(buildah: Buildah, volumes: dict[str, Path], tmp_path: Path) -> None:
    container = buildah("from", buildah.policy, IMAGE)
    mounts = [
        f"--volume={volumes['BUFFER']}:/var/lib/growlytics-forwarder",
        f"--volume={volumes['SOCKETS']}:/run/growlytics-forwarder",
    ]
    begin = buildah.command("run", "--isolation=chroot", "--user=65532:65532", *mounts, container, "--")
    command = [*begin, *buildah.config()["Entrypoint"]]
    async with running_sandbox() as sandbox, starting_daemon(tmp_path, sandbox.url, command, **INSIDE) as daemon:
        assert await daemon.until_ready(), daemon.lines
        await one_event_gets_through(daemon)
        assert len(await sandbox.raw()) == 1
        async with daemon.http.get(f"{daemon.base}/") as page:
            assert "<!doctype html>" in (await page.text()).lower(), "its files are in the wheel"
        top = [*begin, "growlytics-forwarder", "top", "--once", f"--url={daemon.base}"]
        assert "balances" in run(*top).stdout
        healthcheck = [*begin, "env", f"FORWARDER_ADMIN__HTTP={daemon.ready['admin']}", "growlytics-forwarder"]
        assert run(*healthcheck, "healthcheck").returncode == 0
        os.kill(int(daemon.ready["pid"]), signal.SIGTERM)
        assert await daemon.process.wait() == 0
        await until(lambda: daemon.lines[-1]["message"] == "stopped", "it says that it stopped")
    assert buildah("images", "--format={{.Name}}").split().count(BASE) == 1
