"""Where `healthcheck` asks: the same address as the settings have, read without them."""

import argparse
import os
from pathlib import Path

import pytest

from forwarder.cli.healthcheck import add_arguments, admin_http
from forwarder.settings import load


@pytest.mark.parametrize("override", [None, "admin.http=127.0.0.1:3", "admin.http="])
@pytest.mark.parametrize("variable", [None, "127.0.0.1:2", ""])
@pytest.mark.parametrize("file", [None, '[admin]\nhttp = "127.0.0.1:1"', "admin.http = ''", "[log]\nlevel = 'info'"])
def test_the_address_is_the_one_of_the_settings(
    file: str | None, variable: str | None, override: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("FORWARDER_")]:
        monkeypatch.delenv(name)
    arguments = []
    if file is not None:
        (tmp_path / "f.toml").write_text(file)
        arguments += ["--config", str(tmp_path / "f.toml")]
    if variable is not None:
        monkeypatch.setenv("FORWARDER_ADMIN__HTTP", variable)
    if override is not None:
        arguments += ["--set", "admin.http=127.0.0.1:9", "--set", override]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(arguments)

    settings = load(args.config, environ=os.environ, overrides=args.overrides).settings
    assert admin_http(args) == str(settings.admin.http or "")
