"""Which Pythons the project runs on: said in several places, and tested on each by .ci/run."""

import re
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
