"""Which Pythons the project runs on: said in several places, and tested on each by .ci/run."""

import os
import re
import subprocess
import sys
import tomllib
from typing import Final

from tests.docs import ROOT


def in_ci() -> list[str]:
    """Return the versions on which .ci/run runs the unit and contract tests."""
    found = re.search(r"^VERSIONS=\(([0-9. ]+)\)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].split()


PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_python_of_the_image_is_one_on_which_the_tests_run() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-", dockerfile, re.MULTILINE)
    assert len(images) == 1
    assert images[0] in in_ci()


def test_the_tests_run_on_each_python_that_the_package_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named == in_ci()
    assert PROJECT["requires-python"] == f">={named[0]}"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_each_python_has_an_environment_of_its_own() -> None:
    def environment(*arguments: str) -> str:
        tests = [line for line in run("make", "-n", "test", *arguments).stdout.splitlines() if "pytest" in line]
        (found,) = set(re.findall(r"[^ '\"]+(?=/bin/pytest)", " ".join(tests)))
        return str(found)

    version = "{}.{}{}".format(*sys.version_info[:2], sys.abiflags)
    assert environment() == ".venv"
    assert environment("PYTHON=python3") == ".venv"
    assert environment(f"PYTHON={sys.executable}") == f".venv-{version}"


def test_a_python_that_is_missing_is_named() -> None:
    for missing in ("python3.99", "/nowhere/python3"):
        done = run("make", "test", f"PYTHON={missing}")
        assert done.returncode != 0
        assert missing in done.stderr
    done = run(".ci/python", "3.99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3.99" in done.stderr


def test_of_what_runs_side_by_side_every_failure_counts_and_all_that_was_said_is_shown() -> None:
    for commands in (["echo one; exit 3", "echo two"], ["echo one", "echo two; exit 4"]):
        done = run(".ci/beside", *commands)
        assert done.returncode == 1
        assert "one" in done.stdout
        assert "two" in done.stdout
    assert run(".ci/beside", "true", "true").returncode == 0
