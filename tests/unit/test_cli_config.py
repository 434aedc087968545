"""`config init`: the file that it writes, and where that comes from."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from forwarder.cli import main
from forwarder.settings import Settings, load

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "config" / "reference.toml"


def test_it_writes_the_reference_and_says_what_to_do_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["config", "init"]) == 0
    assert (tmp_path / "growlytics-forwarder.toml").read_bytes() == REFERENCE.read_bytes()
    assert capsys.readouterr().out.endswith("growlytics-forwarder check-config --config growlytics-forwarder.toml\n")


def test_what_it_says_can_be_typed_whatever_the_file_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", str(tmp_path / "my settings.toml")]) == 0
    assert capsys.readouterr().out.endswith(f"--config '{tmp_path}/my settings.toml'\n")


def test_what_it_writes_has_the_defaults(tmp_path: Path) -> None:
    assert main(["config", "init", str(tmp_path / "c.toml")]) == 0
    assert load(tmp_path / "c.toml", environ={}).settings == Settings()


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init", "-"]) == 0
    assert capsys.readouterr() == (REFERENCE.read_text(encoding="utf-8"), "")


@pytest.mark.parametrize("kind", ["file", "directory", "link to nothing"])
def test_it_overwrites_nothing(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    match kind:
        case "file":
            path.write_text("mine")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "elsewhere")
    assert main(["config", "init", str(path)]) == 1
    assert capsys.readouterr().err == (f"{path} exists, and was left as it is; name another file, or remove it first\n")
    assert kind != "file" or path.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_cannot_be_made_is_said_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none" / "c.toml", f"{tmp_path}/a\0b"):
        assert main(["config", "init", str(path)]) == 1
        assert capsys.readouterr().err.endswith("; name another file, or - for standard output\n")


def test_of_a_file_that_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from forwarder.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "sys.exit(main(['config', 'init', sys.argv[1]]))"
    )
    path = tmp_path / "c.toml"
    done = subprocess.run([sys.executable, "-B", "-c", program, str(path)], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"cannot be written: File too large; name another file" in done.stderr
    assert not path.exists()


def test_wheel_and_source_archive_have_the_reference(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("forwarder/cli/reference.toml") == REFERENCE.read_bytes()
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive_of_source:
        names = archive_of_source.getnames()
    assert any(name.endswith("/config/reference.toml") for name in names)
