"""The arguments of `top`."""

import pytest

from tests.fakes.commands import exit_code


@pytest.mark.parametrize("seconds", ["0", "3601", "-1", "nan", "soon"])
def test_an_interval_that_makes_no_sense_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("top", f"--interval={seconds}") == 64
    assert "a number from 0.1 to 3600" in capsys.readouterr().err
