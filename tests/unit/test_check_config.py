"""`check-config` and the options that commands share."""

import argparse
import os
import tomllib
from pathlib import Path

import pytest

from forwarder.cli import check_config
from forwarder.cli.options import add_config_arguments

KEY = "sk-THE-KEY-ITSELF"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("FORWARDER_", "GROWLYTICS_")) or name == "STATE_DIRECTORY":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def free_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is on the machine that runs the tests does not matter here."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "buffer"))
    monkeypatch.setenv("FORWARDER_INTAKE__HTTP", "127.0.0.1:0")
    monkeypatch.setenv("FORWARDER_ADMIN__HTTP", "127.0.0.1:0")


def check(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check_config.add_arguments(parser)
    return check_config.run(parser.parse_args(arguments))


def test_a_good_configuration_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "forwarder.toml"
    config.write_text(f"[growlytics]\napi_key = '{KEY}'\n")
    assert check("--config", str(config)) == 0
    assert capsys.readouterr() == ("configuration ok\n", "")


def test_without_the_argument_the_file_that_the_environment_names_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named.toml").write_text(f"[growlytics]\napi_key = '{KEY}'\n")
    (tmp_path / "given.toml").write_text("")
    monkeypatch.setenv("FORWARDER_CONFIG", str(tmp_path / "named.toml"))
    assert check() == 0
    assert capsys.readouterr() == ("configuration ok\n", "")
    assert check("--config", str(tmp_path / "given.toml")) == 78


def test_show_prints_the_effective_settings_on_standard_output_with_secrets_masked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "forwarder.toml"
    config.write_text(f"[growlytics]\napi_key = '{KEY}'\n[delivery]\nmax_concurrency = 1\nretry_max_seconds = 11\n")
    monkeypatch.setenv("FORWARDER_DELIVERY__MAX_CONCURRENCY", "2")
    assert check("--config", str(config), "--show", "--set", "log.level=debug", "--set", "loop=asyncio") == 0
    out, err = capsys.readouterr()
    shown = tomllib.loads(out)
    assert shown["growlytics"]["api_key"] == "********"
    assert shown["delivery"]["max_concurrency"] == 2
    assert shown["delivery"]["retry_max_seconds"] == 11
    assert (shown["log"]["level"], shown["loop"]) == ("debug", "asyncio")
    assert err == "configuration ok\n"
    assert KEY not in out


def test_what_show_prints_of_the_table_of_policies_is_a_configuration_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, again = tmp_path / "forwarder.toml", tmp_path / "again.toml"
    config.write_text("[delivery.on_ambiguous_events]\n'Order Completed' = 'dead_letter'\n'app.paid' = 'retry'\n")
    arguments = ("--show", "--set", f"growlytics.api_key={KEY}")
    assert check("--config", str(config), *arguments) == 0
    shown = capsys.readouterr().out
    policies = tomllib.loads(shown)["delivery"]["on_ambiguous_events"]
    assert policies == {"Order Completed": "dead_letter", "app.paid": "retry"}
    again.write_text(shown)
    assert check("--config", str(again), *arguments) == 0
    assert capsys.readouterr().out == shown


def test_show_tells_where_the_buffer_is_under_systemd(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/private/forwarder")
    assert check("--show", "--set", f"growlytics.api_key={KEY}") == 0
    assert tomllib.loads(capsys.readouterr().out)["buffer"]["directory"] == "/var/lib/private/forwarder"


def test_every_problem_goes_to_standard_error_and_the_exit_code_is_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "forwarder.toml"
    config.write_text("loop = 'fast'\n[log]\nlevel = 'loud'\n")
    assert check("--config", str(config), "--set", "log.format=pretty", "--show") == 78
    out, err = capsys.readouterr()
    assert out == ""
    first, *lines = err.splitlines()
    assert first == "configuration: 4 problems:"
    assert {line.partition(":")[0].strip() for line in lines} == {
        "loop",
        "log.level",
        "log.format",
        "growlytics.api_key",
    }


def test_a_missing_key_is_a_problem_as_it_is_for_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 78
    first, line = capsys.readouterr().err.splitlines()
    assert first == "configuration: 1 problem:"
    assert line.startswith("  growlytics.api_key: ")


def test_warnings_are_shown_whether_or_not_there_are_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDER_PORT", "tcp://10.0.0.1:8920")
    assert check("--set", f"growlytics.api_key={KEY}") == 0
    assert "FORWARDER_PORT" in capsys.readouterr().err
    assert check() == 78
    err = capsys.readouterr().err
    assert "FORWARDER_PORT" in err
    assert "10.0.0.1" not in err


def test_settings_that_let_strangers_in_are_warned_of_on_a_line_each_and_are_no_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["growlytics.api_key=k", "intake.http=0.0.0.0:0", "intake.token=q0q", "intake.allowed_hosts=*"]
    assert check(*(part for each in settings for part in ("--set", each))) == 0
    out, err = capsys.readouterr()
    assert out == "configuration ok\n"
    token, host = err.splitlines()
    assert token.startswith("configuration: warning: intake.token: the token has fewer than 16 characters")
    assert host.startswith('configuration: warning: intake.allowed_hosts has "*"')
    assert "q0q" not in err


def test_overrides_of_one_command_line_do_not_leak_into_the_next() -> None:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    parser.parse_args(["--set", "loop=asyncio"])
    assert parser.parse_args([]).overrides == []


def test_every_problem_of_the_file_of_types_is_one_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types = tmp_path / "types.toml"
    types.write_text('["Add To Cart"]\nPrice = "int"\nBrand = "string"\nQuantity = 3\n')
    arguments = ("--set", f"growlytics.api_key={KEY}", "--set", f"contract.types_file={types}")
    assert check(*arguments) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("configuration: 2 problems:\n  contract.types_file: ")
    assert "Price" in err
    assert '"number"' in err
    assert "Quantity" in err
    types.write_text('["Add To Cart"]\nPrice = "number"\n')
    assert check(*arguments) == 0
    types.unlink()
    assert check(*arguments) == 78
    assert "cannot be read" in capsys.readouterr().err
