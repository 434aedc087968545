"""Where `healthcheck` asks: the same address as the settings have, read without them."""

import argparse
import os
from pathlib import Path

import pytest

from forwarder.cli.healthcheck import add_arguments, admin_http
from forwarder.settings import load


@pytest.mark.parametrize("named", ["--config", "FORWARDER_CONFIG"])
@pytest.mark.parametrize("override", [None, "admin.http=127.0.0.1:3", "admin.http="])
@pytest.mark.parametrize("variable", [None, "127.0.0.1:2", ""])
@pytest.mark.parametrize("file", [None, '[admin]\nhttp = "127.0.0.1:1"', "admin.http = ''", "[log]\nlevel = 'info'"])
def test_the_address_is_the_one_of_the_settings(
    file: str | None,
    variable: str | None,
    override: str | None,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("FORWARDER_")]:
        monkeypatch.delenv(name)
    arguments = []
    if file is not None:
        (tmp_path / "f.toml").write_text(file)
        if named == "--config":
            arguments += [named, str(tmp_path / "f.toml")]
        else:
            monkeypatch.setenv(named, str(tmp_path / "f.toml"))
    if variable is not None:
        monkeypatch.setenv("FORWARDER_ADMIN__HTTP", variable)
    if override is not None:
        arguments += ["--set", "admin.http=127.0.0.1:9", "--set", override]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(arguments)

    settings = load(args.config, environ=os.environ, overrides=args.overrides).settings
    assert admin_http(args) == str(settings.admin.http or "")


@pytest.mark.parametrize(
    ("content", "found"), [('[admin]\nhttp = "127.0.0.1:5"', "127.0.0.1:5"), (None, "127.0.0.1:9920")]
)
def test_without_arguments_the_usual_file_counts_if_it_can_be_read(
    content: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("FORWARDER_")]:
        monkeypatch.delenv(name)
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert admin_http(parser.parse_args([]), usual=tmp_path / "config.toml") == found
