"""The settings: where they come from, what they may be, and that no secret is ever shown."""

import base64
import grp
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import attrs
import pytest

from forwarder.settings import (
    Address,
    AdminSettings,
    BufferSettings,
    ContractSettings,
    DeadLettersSettings,
    DeliverySettings,
    Group,
    GrowlyticsSettings,
    IntakeSettings,
    LogSettings,
    Problem,
    ReceiptsSettings,
    Secret,
    Settings,
    SettingsError,
    ShutdownSettings,
    load,
    reference,
    secrets,
    to_toml,
    try_to_load,
)
from tests.fakes.certificates import Authority

CONFIG = Path(__file__).parents[2] / "config"
KEY = "sk-THE-KEY-ITSELF"
KIB, MIB = 1024, 1024 * 1024
GROUP = grp.getgrgid(0)


class Configuration:
    """Loads settings from a TOML text, an environment and overrides."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "forwarder.toml"

    def load(
        self,
        toml: str | bytes | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
        *,
        require_api_key: bool = False,
        warned_of: Sequence[str] = (),
    ) -> Settings:
        if toml is not None:
            self.path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        loaded = load(
            None if toml is None else self.path,
            environ=environ or {},
            overrides=overrides,
            require_api_key=require_api_key,
        )
        assert [warning.split()[0] for warning in loaded.warnings] == list(warned_of)
        return loaded.settings

    def problems(
        self,
        toml: str | bytes | None = None,
        environ: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
        *,
        require_api_key: bool = False,
    ) -> dict[str, str]:
        with pytest.raises(SettingsError) as caught:
            self.load(toml, environ, overrides, require_api_key=require_api_key)
        problems = caught.value.problems
        found = {problem.path: problem.message for problem in problems}
        assert len(found) == len(problems), "one setting is reported once"
        return found


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path)


def toml_of(path: str, value: str) -> str:
    """Return a TOML document that sets one setting."""
    section, _, key = path.rpartition(".")
    return f"[{section}]\n{key} = {value}\n" if section else f"{key} = {value}\n"


def value_of(settings: Settings, path: str) -> object:
    value: object = settings
    for part in path.split("."):
        value = getattr(value, part)
    return value


def variable_of(path: str) -> str:
    return "FORWARDER_" + path.upper().replace(".", "__")


# --- Sources and precedence ---


def test_without_any_source_every_setting_has_its_default(configuration: Configuration) -> None:
    assert configuration.load() == Settings()


def test_the_defaults_are_the_documented_ones() -> None:
    assert Settings() == Settings(
        growlytics=GrowlyticsSettings(
            url="https://dc.growlytics.in/track/event",
            api_key=None,
            api_key_file=None,
            timeout_seconds=10.0,
            ca_file=None,
            proxy=None,
            proxy_file=None,
        ),
        intake=IntakeSettings(
            http=Address("127.0.0.1", 8920),
            unix_socket=None,
            unix_socket_mode=0o660,
            allow_remote_without_token=False,
            max_body_bytes=MIB,
            max_parsing_bytes=8 * MIB,
            body_timeout_seconds=10.0,
            lines_socket=None,
            datagram_socket=None,
            token=None,
            token_file=None,
            allowed_hosts=("localhost", "127.0.0.1", "::1"),
            allowed_origins=(),
            max_line_bytes=256 * KIB,
            max_connections=1024,
            header_timeout_seconds=10.0,
            duplicate_window_seconds=3600.0,
            duplicate_max_keys=100_000,
        ),
        contract=ContractSettings(
            attribute_types="observe", types_file=None, max_attribute_types=10_000, fill_missing_time=False
        ),
        buffer=BufferSettings(
            kind="disk",
            directory="/var/lib/growlytics-forwarder",
            max_events=100_000,
            max_bytes=256 * MIB,
            when_full="reject",
            fsync=False,
        ),
        delivery=DeliverySettings(
            max_concurrency=64,
            order="customer",
            rate_limit_per_second=0.0,
            retry_initial_seconds=0.5,
            retry_max_seconds=60.0,
            max_age_seconds=86_400.0,
            on_ambiguous="retry",
            on_ambiguous_events={},
            breaker_failures=10,
            systemic_rejections=10,
            systemic_seconds=60.0,
            probe_initial_seconds=1.0,
            probe_max_seconds=60.0,
        ),
        dead_letters=DeadLettersSettings(max_events=100_000, max_bytes=64 * MIB),
        receipts=ReceiptsSettings(max_events=10_000),
        admin=AdminSettings(http=Address("127.0.0.1", 9920)),
        shutdown=ShutdownSettings(accept_seconds=0.0, drain_seconds=20.0),
        log=LogSettings(level="info", format="auto"),
        loop="auto",
    )


def test_the_environment_overrides_the_file_and_an_override_overrides_both(configuration: Configuration) -> None:
    toml = "loop = 'asyncio'\n[delivery]\nmax_concurrency = 1\nretry_max_seconds = 11\n[log]\nlevel = 'error'"
    environ = {
        "FORWARDER_DELIVERY__MAX_CONCURRENCY": "2",
        "FORWARDER_LOG__LEVEL": "warning",
        "FORWARDER_LOOP": "uvloop",
    }
    settings = configuration.load(toml, environ, ["log.level=debug", "log.level=info"])
    assert settings.delivery == DeliverySettings(max_concurrency=2, retry_max_seconds=11.0)
    assert settings.log.level == "info"
    assert settings.loop == "uvloop"
    assert configuration.load(toml, environ, ["loop=auto"]).loop == "auto"


def test_an_override_may_hold_equals_signs(configuration: Configuration) -> None:
    assert configuration.load(None, {}, ["intake.unix_socket=/run/a=b"]).intake.unix_socket == "/run/a=b"


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("growlytics.url", "https://example.com/x?y=1", "https://example.com/x?y=1"),
        ("growlytics.timeout_seconds", "2.5", 2.5),
        ("growlytics.timeout_seconds", "1e2", 100.0),
        ("intake.http", "[::1]:0", Address("::1", 0)),
        ("intake.unix_socket", "/run/ä b.sock", "/run/ä b.sock"),
        ("intake.unix_socket_mode", "0600", 0o600),
        ("intake.unix_socket_mode", "660", 0o660),
        ("intake.unix_socket_mode", "0o666", 0o666),
        ("intake.allow_remote_without_token", "TRUE", True),
        ("intake.allow_remote_without_token", "False", False),
        ("intake.max_body_bytes", "2048", 2048),
        ("intake.max_body_bytes", "64KiB", 64 * KIB),
        ("buffer.kind", "memory", "memory"),
        ("buffer.directory", "/srv/ä b:c", "/srv/ä b:c"),
        ("buffer.directory", ".", "."),
        ("buffer.max_bytes", "1 GiB", 1024 * MIB),
        ("buffer.when_full", "drop_oldest", "drop_oldest"),
        ("buffer.fsync", "true", True),
        ("delivery.max_concurrency", "7", 7),
        ("delivery.order", "none", "none"),
        ("delivery.rate_limit_per_second", "0", 0.0),
        ("delivery.rate_limit_per_second", "12.5", 12.5),
        ("delivery.max_age_seconds", "3600", 3600.0),
        ("delivery.on_ambiguous", "dead_letter", "dead_letter"),
        ("delivery.breaker_failures", "1000000", 1_000_000),
        ("delivery.systemic_rejections", "1", 1),
        ("delivery.systemic_seconds", "0.5", 0.5),
        ("delivery.probe_initial_seconds", "0.01", 0.01),
        ("delivery.probe_max_seconds", "1", 1.0),
        ("dead_letters.max_events", "5", 5),
        ("dead_letters.max_bytes", "2 KiB", 2 * KIB),
        ("receipts.max_events", "0", 0),
        ("admin.http", "", None),
        ("control.group", "", None),
        ("control.group", "54321", Group("54321", 54321)),
        ("control.group", GROUP.gr_name, Group(GROUP.gr_name, GROUP.gr_gid)),
        ("shutdown.accept_seconds", "2.5", 2.5),
        ("shutdown.drain_seconds", "0", 0.0),
        ("log.format", "json", "json"),
        ("loop", "asyncio", "asyncio"),
    ],
)
def test_text_is_parsed_as_the_type_demands(configuration: Configuration, path: str, text: str, value: object) -> None:
    for settings in (
        configuration.load(None, {variable_of(path): text}),
        configuration.load(None, {}, [f"{path}={text}"]),
    ):
        assert value_of(settings, path) == value
        assert type(value_of(settings, path)) is type(value), "the marker of text does not get out"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("intake.allow_remote_without_token", "yes"),
        ("intake.allow_remote_without_token", "1"),
        ("buffer.directory", ""),
        ("buffer.directory", "/srv/\x00"),
        ("buffer.directory", "/srv/\udc80"),
        ("buffer.fsync", "on"),
        ("delivery.max_concurrency", "0x10"),
        ("delivery.max_concurrency", "1_0"),
        ("delivery.max_concurrency", " 8"),
        ("delivery.max_concurrency", "8.0"),
        ("delivery.max_concurrency", "٣"),
        ("delivery.max_concurrency", "9" * 5000),
        ("delivery.order", ""),
        ("delivery.rate_limit_per_second", "none"),
        ("delivery.rate_limit_per_second", "inf"),
        ("delivery.rate_limit_per_second", "10/s"),
        ("growlytics.timeout_seconds", "nan"),
        ("growlytics.timeout_seconds", "1e999"),
        ("growlytics.timeout_seconds", "ten"),
        ("loop", ""),
    ],
)
def test_text_that_is_not_of_the_type_is_refused(configuration: Configuration, path: str, text: str) -> None:
    assert list(configuration.problems(None, {variable_of(path): text})) == [path]
    assert list(configuration.problems(None, {}, [f"{path}={text}"])) == [path]


def test_the_state_directory_of_systemd_is_the_default_directory_of_the_buffer(configuration: Configuration) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/private/forwarder"}
    assert configuration.load(None, environ) == Settings(buffer=BufferSettings(directory="/var/lib/private/forwarder"))
    assert type(configuration.load(None, environ).buffer.directory) is str
    also_set = configuration.load("[buffer]\nmax_events = 7", environ).buffer
    assert also_set == BufferSettings(directory="/var/lib/private/forwarder", max_events=7)


def test_of_several_state_directories_the_first_one_counts(configuration: Configuration) -> None:
    assert configuration.load(None, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}).buffer.directory == "/var/lib/a"


def test_an_empty_state_directory_is_as_good_as_none(configuration: Configuration) -> None:
    assert configuration.load(None, {"STATE_DIRECTORY": ""}) == Settings()


def test_whatever_sets_the_directory_of_the_buffer_wins_over_the_state_directory(configuration: Configuration) -> None:
    toml = "[buffer]\ndirectory = '/file'"
    environ = {"STATE_DIRECTORY": "/state"}
    variable = environ | {"FORWARDER_BUFFER__DIRECTORY": "/variable"}
    override = ["buffer.directory=/override"]
    assert configuration.load(toml, environ).buffer.directory == "/file"
    assert configuration.load(None, variable).buffer.directory == "/variable"
    assert configuration.load(toml, variable).buffer.directory == "/variable"
    assert configuration.load(None, environ, override).buffer.directory == "/override"
    assert configuration.load(toml, variable, override).buffer.directory == "/override"


def test_even_the_default_directory_wins_over_the_state_directory_if_it_is_set(configuration: Configuration) -> None:
    default = BufferSettings().directory
    assert configuration.load(toml_of("buffer.directory", f"'{default}'"), {"STATE_DIRECTORY": "/x"}) == Settings()


def test_a_state_directory_that_cannot_be_one_is_a_problem_unless_another_is_set(configuration: Configuration) -> None:
    environ = {"STATE_DIRECTORY": "/a\x1b[2J:/b"}
    assert configuration.problems(None, environ) == {
        "buffer.directory": 'must be the path of a directory, not "/a\\u001b[2J" (in STATE_DIRECTORY)'
    }
    assert configuration.load("[buffer]\ndirectory = '/c'", environ).buffer.directory == "/c"


def test_variables_that_name_no_setting_are_ignored_with_one_warning_that_shows_no_value() -> None:
    environ = {
        "FORWARDER_PORT": "tcp://10.0.0.1:8920",
        "FORWARDER_PORT_8920_TCP": "tcp://10.0.0.1:8920",
        "FORWARDER_SERVICE_HOST": "10.0.0.1",
        "FORWARDER_NOSECTION__KEY": "10.0.0.1",
        "FORWARDERLESS": "10.0.0.1",
        "HOME": "10.0.0.1",
    }
    loaded = load(None, environ=environ)
    assert loaded.settings == Settings()
    (warning,) = loaded.warnings
    names = warning.partition(": ")[2].split(", ")
    assert names == ["FORWARDER_NOSECTION__KEY", "FORWARDER_PORT", "FORWARDER_PORT_8920_TCP", "FORWARDER_SERVICE_HOST"]
    assert "10.0.0.1" not in warning


def test_an_error_brings_the_warnings_along_because_they_may_explain_it() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, environ={"FORWARDER_GROWLYTICS_API_KEY": KEY}, require_api_key=True)
    assert [problem.path for problem in caught.value.problems] == ["growlytics.api_key"]
    assert "FORWARDER_GROWLYTICS_API_KEY" in caught.value.warnings[0]
    assert KEY not in caught.value.warnings[0]


# --- The file itself ---


def test_a_file_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(SettingsError) as caught:
        load(missing, environ={})
    assert caught.value.problems == (Problem(str(missing), "cannot be read: No such file or directory"),)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        load(tmp_path, environ={})


def test_broken_toml_is_reported_with_line_and_column(configuration: Configuration) -> None:
    (message,) = configuration.problems("[log]\nlevel = loud\n").values()
    assert "line 2, column 9" in message


def test_a_file_that_is_not_utf_8_is_a_problem(configuration: Configuration) -> None:
    assert "UTF-8" in configuration.problems(b"# caf\xe9\n")[str(configuration.path)]


def test_a_file_that_is_nested_too_deeply_is_a_problem(configuration: Configuration) -> None:
    assert "nested too deeply" in configuration.problems("x = " + "[" * 100_000)[str(configuration.path)]


def test_an_unreadable_file_hides_no_other_error_and_causes_none(configuration: Configuration) -> None:
    problems = configuration.problems("[", {"FORWARDER_LOOP": "x"}, require_api_key=True)
    assert list(problems) == [str(configuration.path), "loop"], "the key may be in the file"


def test_nothing_is_interpolated(tmp_path: Path) -> None:
    file = tmp_path / "forwarder.toml"
    file.write_text("[intake]\nunix_socket = '/run/$X.sock'")
    loaded = load(file, environ={"X": "y"})
    assert loaded.settings.intake.unix_socket == "/run/$X.sock"
    (warning,) = loaded.warnings
    assert warning.startswith("intake.unix_socket seems to hold a variable")


# --- Unknown names ---


@pytest.mark.parametrize(
    ("toml", "path", "suggestion"),
    [
        ("[delivery]\nmax_concurency = 1", "delivery.max_concurency", "did you mean delivery.max_concurrency?"),
        ("[delivry]\nmax_concurrency = 1", "delivry", "did you mean delivery?"),
        ("[delivry]", "delivry", "did you mean delivery?"),
        ("lop = 'auto'", "lop", "did you mean loop?"),
        ("max_events = 1", "max_events", "did you mean buffer.max_events?"),
        ("[log]\nhttp = ''", "log.http", "did you mean intake.http or admin.http?"),
        ("[log]\nzzz = 1", "log.zzz", "the settings here are level, format"),
        ("zzz = 1", "zzz", "the settings here are loop, growlytics, intake,"),
        ("[delivery.lanes]\nx = 1", "delivery.lanes", "the settings here are max_concurrency,"),
        ("'\\u001b[2J' = 1".replace("'", '"'), "'\\x1b[2J'", "does not exist"),
    ],
)
def test_an_unknown_name_in_the_file_is_an_error_with_a_suggestion(
    configuration: Configuration, toml: str, path: str, suggestion: str
) -> None:
    problems = configuration.problems(toml)
    assert list(problems) == [path]
    assert suggestion in problems[path]


def test_an_unknown_key_of_a_known_section_in_the_environment_is_an_error(configuration: Configuration) -> None:
    problems = configuration.problems(None, {"FORWARDER_LOG__LEVLE": "info"})
    assert "did you mean log.level?" in problems["log.levle"]
    assert "FORWARDER_LOG__LEVLE" in problems["log.levle"]
    (problem,) = configuration.problems(None, {"FORWARDER_LOG__\x1b[2J": "info"}).items()
    assert "\x1b" not in "".join(problem)


@pytest.mark.parametrize(
    ("override", "path"),
    [("log.levle=info", "log.levle"), ("lgo.level=info", "lgo.level"), ("loop.x=auto", "loop.x"), ("log.=1", "log.")],
)
def test_an_unknown_override_is_an_error(configuration: Configuration, override: str, path: str) -> None:
    assert list(configuration.problems(None, {}, [override])) == [path]


@pytest.mark.parametrize("override", ["growlytics.api_key:" + KEY, "=" + KEY, ""])
def test_a_malformed_override_is_named_by_its_number_only(configuration: Configuration, override: str) -> None:
    assert configuration.problems(None, {}, ["loop=auto", override]) == {
        "--set (number 2)": "must be written section.key=value"
    }


@pytest.mark.parametrize(("toml", "overrides"), [("log = 5", []), (None, ["log=5"]), ("[[log]]", [])])
def test_a_section_is_not_a_setting(configuration: Configuration, toml: str | None, overrides: list[str]) -> None:
    assert "is a section" in configuration.problems(toml, {"FORWARDER_LOG__LEVEL": "info"}, overrides)["log"]


# --- Types and ranges ---


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("buffer.kind", "1"),
        ("buffer.kind", "'tape'"),
        ("buffer.directory", "5"),
        ("buffer.directory", "true"),
        ("buffer.directory", "['/srv']"),
        ("buffer.directory", "''"),
        ("buffer.directory", '"/srv/a\\u0000b"'),
        ("buffer.directory", '"/srv/a\\nb"'),
        ("buffer.when_full", "'drop_newest'"),
        ("buffer.when_full", "true"),
        ("buffer.fsync", "'true'"),
        ("buffer.fsync", "1"),
        ("delivery.max_concurrency", "'8'"),
        ("delivery.max_concurrency", "true"),
        ("delivery.max_concurrency", "8.0"),
        ("delivery.max_concurrency", "0"),
        ("delivery.max_concurrency", "4097"),
        ("delivery.max_concurrency", "0x" + "f" * 5000),
        ("delivery.order", "'customers'"),
        ("delivery.order", "true"),
        ("delivery.rate_limit_per_second", "-1"),
        ("delivery.rate_limit_per_second", "0.0009"),
        ("delivery.rate_limit_per_second", "1_000_001"),
        ("delivery.rate_limit_per_second", "nan"),
        ("delivery.rate_limit_per_second", "'10'"),
        ("delivery.rate_limit_per_second", "false"),
        ("delivery.max_age_seconds", "0"),
        ("delivery.max_age_seconds", "inf"),
        ("delivery.on_ambiguous", "'drop'"),
        ("delivery.on_ambiguous", "{ Purchase = 'retry' }"),
        ("delivery.on_ambiguous_events", "'dead_letter'"),
        ("delivery.on_ambiguous_events", "['Purchase']"),
        ("delivery.on_ambiguous_events", "{ Purchase = 'drop' }"),
        ("delivery.on_ambiguous_events", "{ Purchase = true }"),
        ("delivery.on_ambiguous_events", "{ Purchase = ['retry'] }"),
        ("delivery.breaker_failures", "0"),
        ("delivery.breaker_failures", "1.0"),
        ("delivery.systemic_rejections", "0"),
        ("delivery.systemic_seconds", "0"),
        ("delivery.probe_initial_seconds", "0"),
        ("delivery.probe_initial_seconds", "3601"),
        ("delivery.probe_max_seconds", "-60"),
        ("growlytics.url", "5"),
        ("growlytics.timeout_seconds", "true"),
        ("growlytics.timeout_seconds", "'10'"),
        ("growlytics.timeout_seconds", "nan"),
        ("growlytics.timeout_seconds", "inf"),
        ("growlytics.timeout_seconds", "1e400"),
        ("growlytics.timeout_seconds", "9" * 400),
        ("growlytics.timeout_seconds", "0"),
        ("growlytics.timeout_seconds", "600.5"),
        ("growlytics.timeout_seconds", "2026-01-01"),
        ("intake.allow_remote_without_token", "1"),
        ("intake.allow_remote_without_token", "'true'"),
        ("intake.body_timeout_seconds", "-1"),
        ("intake.http", "8920"),
        ("intake.unix_socket", "[]"),
        ("intake.unix_socket", '"/run/a\\u0000b"'),
        ("intake.unix_socket_mode", "660"),
        ("intake.unix_socket_mode", "true"),
        ("intake.unix_socket_mode", "'0o1777'"),
        ("intake.unix_socket_mode", "'rw-rw----'"),
        ("intake.unix_socket_mode", "'0888'"),
        ("intake.max_body_bytes", "1023"),
        ("intake.max_body_bytes", "'65 MiB'"),
        ("intake.max_parsing_bytes", "1023"),
        ("intake.max_parsing_bytes", "'1025 MiB'"),
        ("buffer.max_events", "0"),
        ("buffer.max_bytes", "1"),
        ("dead_letters.max_events", "0"),
        ("dead_letters.max_bytes", "1023"),
        ("receipts.max_events", "-1"),
        ("receipts.max_events", "1000001"),
        ("receipts.max_events", "false"),
        ("shutdown.accept_seconds", "-1"),
        ("shutdown.accept_seconds", "86401"),
        ("shutdown.drain_seconds", "-0.1"),
        ("shutdown.drain_seconds", "86401"),
        ("delivery.retry_initial_seconds", "0"),
        ("log.level", "'INFO'"),
        ("log.format", "false"),
        ("loop", "{ x = 1 }"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused(
    configuration: Configuration, path: str, value: str
) -> None:
    problems = configuration.problems(toml_of(path, value))
    assert list(problems) == [path]
    assert problems[path].startswith("must be ")
    assert str(configuration.path) in problems[path], "where it was given"


@pytest.mark.parametrize(
    ("path", "toml", "value"),
    [
        ("delivery.max_concurrency", "4096", 4096),
        ("delivery.rate_limit_per_second", "0.001", 0.001),
        ("delivery.rate_limit_per_second", "1_000_000", 1_000_000.0),
        ("delivery.max_age_seconds", "31_536_000", 31_536_000.0),
        ("delivery.breaker_failures", "1", 1),
        ("delivery.systemic_rejections", "1", 1),
        ("delivery.on_ambiguous_events", "{}", MappingProxyType({})),
        ("shutdown.accept_seconds", "86400", 86_400.0),
        ("growlytics.timeout_seconds", "600", 600.0),
        ("growlytics.timeout_seconds", "0.001", 0.001),
        ("shutdown.drain_seconds", "0", 0.0),
        ("intake.unix_socket_mode", "'0660'", 0o660),
        ("intake.unix_socket_mode", "0o600", 0o600),
        ("intake.unix_socket_mode", "'0777'", 0o777),
        ("intake.max_body_bytes", "1024", 1024),
        ("intake.max_body_bytes", "'8 MiB'", 8 * MIB),
        ("intake.max_parsing_bytes", "1048576", MIB),
        ("intake.max_parsing_bytes", "'1 GiB'", 1024 * MIB),
        ("buffer.max_events", "1", 1),
        ("buffer.max_bytes", "'1KiB'", KIB),
        ("buffer.kind", "'disk'", "disk"),
        ("buffer.directory", "'x'", "x"),
        ("dead_letters.max_events", "1", 1),
        ("dead_letters.max_bytes", "'1 KiB'", KIB),
        ("receipts.max_events", "0", 0),
        ("receipts.max_events", "1_000_000", 1_000_000),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_taken(
    configuration: Configuration, path: str, toml: str, value: object
) -> None:
    taken = value_of(configuration.load(toml_of(path, toml)), path)
    assert taken == value
    assert type(taken) is type(value), "an integer number of seconds becomes a float"


@pytest.mark.parametrize("size", ["256 MB", "256MB", "1 kib", "1.5 MiB", "1 TiB", "MiB", "-1 MiB", "1  MiB", "1048576"])
def test_a_size_in_another_unit_is_refused_with_the_mend(configuration: Configuration, size: str) -> None:
    message = configuration.problems(toml_of("buffer.max_bytes", f"'{size}'"))["buffer.max_bytes"]
    assert "the units are KiB, MiB and GiB" in message


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8920", Address("127.0.0.1", 8920)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("127.8.9.10:1", Address("127.8.9.10", 1)),
    ],
)
def test_an_address_is_read_and_written_back(configuration: Configuration, text: str, address: Address) -> None:
    assert configuration.load(toml_of("intake.http", f"'{text}'")).intake.http == address
    assert address.is_loopback
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "8920",
        "localhost",
        ":8920",
        "::1:8920",
        "[::1]",
        "[x]:1",
        "[127.0.0.1]:1",
        "a b:1",
        "h:65536",
        "h:-1",
        "h:",
        "*:1",
        "h:1/",
    ],
)
def test_a_malformed_address_is_refused(configuration: Configuration, text: str) -> None:
    for path in ("intake.http", "admin.http"):
        assert list(configuration.problems(toml_of(path, f"'{text}'"))) == [path]


def test_an_empty_address_or_socket_path_is_off(configuration: Configuration) -> None:
    assert configuration.load("[admin]\nhttp = ''").admin.http is None
    settings = configuration.load("[intake]\nhttp = ''\nunix_socket = '/run/x'")
    assert (settings.intake.http, settings.intake.unix_socket) == (None, "/run/x")
    off = configuration.load("[intake]\nunix_socket = '/run/x'", {"FORWARDER_INTAKE__UNIX_SOCKET": ""})
    assert off.intake.unix_socket is None


@pytest.mark.parametrize("path", ["/var/lib/x", "./growlytics-buffer", "..", "./~/x", "/srv/HOME/ä b/"])
def test_the_path_of_a_directory_is_taken_as_it_is(configuration: Configuration, path: str) -> None:
    assert configuration.load(toml_of("buffer.directory", f"'{path}'")).buffer.directory == path


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("buffer.kind", "'tape'", 'must be "disk" or "memory", not "tape"'),
        ("buffer.directory", "5", "must be the path of a directory, not 5"),
        ("buffer.directory", "''", 'must be the path of a directory, not ""; the working directory is "."'),
        ("buffer.directory", '"a\\u0000b"', 'must be the path of a directory, not "a\\u0000b"'),
        ("buffer.when_full", "'block'", 'must be "reject" or "drop_oldest", not "block"'),
        ("buffer.fsync", "'always'", 'must be true or false, not "always"'),
        (
            "delivery.on_ambiguous",
            "'dead-leter'",
            'must be "retry" or "dead_letter", not "dead-leter"; did you mean "dead_letter"?',
        ),
        ("delivery.on_ambiguous", "'drop'", 'must be "retry" or "dead_letter", not "drop"'),
        ("delivery.order", "'Customer'", 'must be "customer" or "none", not "Customer"; did you mean "customer"?'),
        (
            "delivery.rate_limit_per_second",
            "-1",
            "must be a number per second, from 0.001 to 1000000, or 0 for no limit, not -1",
        ),
        ("dead_letters.max_events", "0", "must be an integer from 1 up, not 0"),
        ("dead_letters.max_bytes", "9", 'must be a size from 1 KiB up, in bytes or like "256 MiB", not 9'),
        ("receipts.max_events", "-1", "must be an integer from 0 to 1000000, not -1"),
    ],
)
def test_what_is_wrong_reads_well_aloud(configuration: Configuration, path: str, value: str, message: str) -> None:
    assert configuration.problems(toml_of(path, value)) == {path: f"{message} (in {configuration.path})"}


def test_the_path_of_a_socket_is_measured_in_bytes_as_the_kernel_does(configuration: Configuration) -> None:
    assert configuration.load(toml_of("intake.unix_socket", f"'/{'x' * 106}'")).intake.unix_socket is not None
    for too_long in ("/" + "x" * 107, "/" + "ä" * 54):
        assert (
            "107 bytes" in configuration.problems(toml_of("intake.unix_socket", f"'{too_long}'"))["intake.unix_socket"]
        )


@pytest.mark.parametrize(
    "url",
    [
        "https://dc.growlytics.in/track/event",
        "https://example.com:8443/x?region=eu",
        "http://localhost:8930/track/event",
        "http://127.1.2.3/x",
        "http://[::1]:8930/x",
    ],
)
def test_https_or_http_to_this_machine_is_taken(configuration: Configuration, url: str) -> None:
    assert configuration.load(toml_of("growlytics.url", f"'{url}'")).growlytics.url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://dc.growlytics.in/track/event",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "http://10.0.0.1/",
        "http://127.0.0.1\\\\@example.com/",
        "ftp://example.com/",
        "dc.growlytics.in/track/event",
        "https://",
        "https:///track/event",
        "https://user:hunter2@example.com/",
        "https://user@example.com/",
        "https://example.com/#part",
        "https://example.com/#",
        "https://example.com:99999/",
        "https://[::1/",
        "https://[::1]]/",
        "https://[::1]x/",
        "https://[example.com]/",
        "https://exam\\\\ple.com/",
        "https://example.com/a b",
        "https://exam\\nple.com/",
        "",
    ],
)
def test_any_other_url_is_refused_without_being_shown(configuration: Configuration, url: str) -> None:
    problems = configuration.problems(toml_of("growlytics.url", f'"{url}"'))
    assert list(problems) == ["growlytics.url"]
    assert "hunter2" not in problems["growlytics.url"]


# --- The way to Growlytics ---


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority(tmp_path_factory.mktemp("authority")).file


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_of_certificates_is_taken(
    configuration: Configuration, ca_file: Path, tmp_path: Path, times: int
) -> None:
    bundle = tmp_path / "ä bundle.pem"
    bundle.write_bytes(b"# Unsere eigene, gepr\xc3\xbcft\n" + ca_file.read_bytes() * times)
    settings = configuration.load(toml_of("growlytics.ca_file", f"'{bundle}'"))
    assert settings.growlytics.ca_file == str(bundle)
    assert configuration.load(to_toml(settings)) == settings


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "does not hold certificates in PEM form"),
        (b"not a certificate", "does not hold certificates in PEM form"),
        (b"\x30\x82" * 50, "does not hold certificates in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "does not hold certificates in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "hold"),
    ],
)
def test_a_file_without_certificates_is_refused_when_the_settings_are_loaded(
    configuration: Configuration, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    problems = configuration.problems(None, {"FORWARDER_GROWLYTICS__CA_FILE": str(file)})
    assert list(problems) == ["growlytics.ca_file"]
    assert reason in problems["growlytics.ca_file"]
    assert "(in FORWARDER_GROWLYTICS__CA_FILE)" in problems["growlytics.ca_file"]


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/dev/null"])
def test_what_is_no_file_is_not_read_for_certificates(configuration: Configuration, path: str) -> None:
    problems = configuration.problems(toml_of("growlytics.ca_file", f"'{path}'"))
    assert problems["growlytics.ca_file"].startswith("names something that is no file")


@pytest.mark.parametrize("value", ["''", "5", '"a\\u0000b"', "true"])
def test_what_can_be_no_path_of_certificates_is_refused(configuration: Configuration, value: str) -> None:
    assert list(configuration.problems(toml_of("growlytics.ca_file", value))) == ["growlytics.ca_file"]


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.example:3128",
        "http://proxy.example:3128/",
        "https://proxy.example",
        "HTTP://Proxy_1.Example:8080",
        "http://10.0.0.1:1",
        "http://[fe80::1]:3128",
        "http://user@proxy.example:3128",
        "http://user:hunter2@proxy.example:3128",
        "http://us%3Fer:p%40ss%3A%2F:@proxy.example:3128",
        "http://user:$!&*hunter2@[::1]:3128",
    ],
)
def test_a_proxy_is_taken_and_never_shown(configuration: Configuration, url: str) -> None:
    settings = configuration.load(toml_of("growlytics.proxy", f"'{url}'"))
    assert settings.growlytics.proxy == Secret(url)
    assert tomllib.loads(to_toml(settings))["growlytics"]["proxy"] == "********"
    assert url not in f"{settings!r} {attrs.asdict(settings)}"


@pytest.mark.parametrize(
    "url",
    [
        "proxy.example:3128",
        "socks5://proxy.example:1080",
        "http://",
        "http://:3128",
        "http://user:hunter2@",
        "http://user:hunter2@:3128",
        "http://user:hunter2@proxy.example:99999",
        "http://user:hunter2@proxy.example:port",
        "http://user:hunter2@[::1",
        "http://user:hunter2@[x]",
        "http://user:hunter2@[::1]]:3128",
        "http://user:hunter2@proxy.example/path",
        "http://user:hunter2@proxy.example?query",
        "http://user:hunter2@proxy.example#part",
        "http://user:hunter2/more@proxy.example",
        "http://user:hunter2#more@proxy.example",
        "http://user:hunter2@more@proxy.example",
        "http://user:hunter2\\\\more@proxy.example",
        "http://us%3Aer:hunter2@proxy.example",
        "http://user:hunter2@proxy example",
        "http://user:hunter2ä@proxy.example",
        " http://user:hunter2@proxy.example",
        "********",
        "",
    ],
)
def test_any_other_proxy_is_refused_without_being_shown(configuration: Configuration, url: str) -> None:
    problems = configuration.problems(toml_of("growlytics.proxy", f"'{url}'"))
    assert list(problems) == ["growlytics.proxy"]
    assert "hunter2" not in problems["growlytics.proxy"]


def test_a_proxy_may_be_in_a_file_of_its_own(configuration: Configuration, tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.write_text("http://user:hunter2@proxy.example:3128\n")
    settings = configuration.load(toml_of("growlytics.proxy_file", f"'{file}'"))
    assert settings.growlytics.proxy == Secret("http://user:hunter2@proxy.example:3128")
    assert "hunter2" not in to_toml(settings)
    assert configuration.load(to_toml(settings)) == settings
    both = configuration.problems(
        toml_of("growlytics.proxy_file", f"'{file}'"), {"FORWARDER_GROWLYTICS__PROXY": "http://x"}
    )
    assert "given twice" in both["growlytics.proxy"]
    file.write_text("user:hunter2@proxy.example:3128")
    (message,) = configuration.problems(toml_of("growlytics.proxy_file", f"'{file}'")).values()
    assert "must be http://host:port" in message
    assert "hunter2" not in message


def test_a_proxy_does_not_go_with_plain_http_which_it_could_read(configuration: Configuration) -> None:
    toml = "[growlytics]\nproxy = 'http://proxy.example:3128'\nurl = '{}://localhost:8930/track/event'"
    for scheme in ("http", "HTTP"):
        assert list(configuration.problems(toml.format(scheme))) == ["growlytics.proxy"]
    configuration.load(toml.format("https"))


# --- Rules between settings ---


def test_there_must_be_one_intake(configuration: Configuration) -> None:
    assert list(configuration.problems("[intake]\nhttp = ''")) == ["intake.http"]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "forwarder.local", "127.1"])
def test_an_intake_that_others_can_reach_must_be_allowed_explicitly(configuration: Configuration, host: str) -> None:
    toml = f"[intake]\nhttp = '{host}:8920'\n"
    message = configuration.problems(toml)["intake.http"]
    assert "intake.allow_remote_without_token" in message
    assert "intake.token_file" in message
    assert configuration.load(toml + "allow_remote_without_token = true").intake.http is not None
    assert configuration.load(toml + "token = '0123456789abcdef'").intake.http is not None


@pytest.mark.parametrize("name", ["unix_socket", "lines_socket", "datagram_socket"])
def test_any_of_the_sockets_is_intake_enough(configuration: Configuration, name: str) -> None:
    assert configuration.load(f"[intake]\nhttp = ''\n{name} = '/run/x'").intake.http is None


def test_no_two_sockets_have_the_same_path(configuration: Configuration) -> None:
    toml = "[intake]\nunix_socket = '/run/x'\nlines_socket = '/run/y'\ndatagram_socket = '/run/x'"
    assert configuration.problems(toml) == {
        "intake.datagram_socket": f"is the path of intake.unix_socket too; choose another (in {configuration.path})"
    }


@pytest.mark.parametrize(
    ("toml", "text", "hosts"),
    [
        ('["Forwarder.Internal", "[::0:1]", "10.0.0.1"]', "Forwarder.Internal, ::0:1,10.0.0.1", 3),
        ('["*"]', "*", 1),
        ("[]", "", 0),
    ],
)
def test_hosts_are_read_in_their_normal_form(configuration: Configuration, toml: str, text: str, hosts: int) -> None:
    warned_of = ["intake.allowed_hosts"] if text == "*" else []
    read = configuration.load(f"[intake]\nallowed_hosts = {toml}", warned_of=warned_of).intake.allowed_hosts
    assert read == ("forwarder.internal", "::1", "10.0.0.1", "*")[3 if hosts == 1 else 0 :][:hosts]
    for given in (
        {"environ": {"FORWARDER_INTAKE__ALLOWED_HOSTS": text}},
        {"overrides": [f"intake.allowed_hosts={text}"]},
    ):
        assert configuration.load(**given, warned_of=warned_of).intake.allowed_hosts == read


@pytest.mark.parametrize(
    "value", ['["a:80"]', '["http://a"]', '[""]', "[1]", '"a"', '["a", "b c"]', '["[::1"]', "true"]
)
def test_what_is_no_list_of_hosts_is_refused(configuration: Configuration, value: str) -> None:
    assert list(configuration.problems(f"[intake]\nallowed_hosts = {value}")) == ["intake.allowed_hosts"]


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("HTTPS://Shop.Example:443", "https://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://a:443", "http://a:443"),
    ],
)
def test_origins_are_read_as_browsers_send_them(configuration: Configuration, text: str, origin: str) -> None:
    settings = configuration.load(f"[intake]\nallowed_origins = ['{text}']")
    assert settings.intake.allowed_origins == (origin,)
    assert configuration.load(to_toml(settings)) == settings


@pytest.mark.parametrize(
    "text", ["*", "null", "shop.example", "https://", "https://a/", "https://a/b", "ftp://a", "a://b"]
)
def test_what_is_no_origin_is_refused(configuration: Configuration, text: str) -> None:
    assert "intake.allowed_origins" in configuration.problems(f"[intake]\nallowed_origins = ['{text}']")
    assert "intake.allowed_origins" in configuration.problems(overrides=[f"intake.allowed_origins=http://b,{text}"])


def test_a_token_is_never_shown(configuration: Configuration, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the-token\n", encoding="utf-8")
    settings = configuration.load(f"[intake]\ntoken_file = '{file}'")
    assert settings.intake.token is not None
    assert settings.intake.token.reveal() == "the-token"
    assert "the-token" not in to_toml(settings) + repr(settings)


def test_the_admin_listener_may_be_reached_by_others(configuration: Configuration) -> None:
    assert configuration.load("[admin]\nhttp = '0.0.0.0:9920'").admin.http == Address("0.0.0.0", 9920)


def test_intake_and_admin_need_different_addresses_unless_any_port_will_do(configuration: Configuration) -> None:
    assert list(configuration.problems("[admin]\nhttp = '127.0.0.1:8920'")) == ["admin.http"]
    configuration.load("[admin]\nhttp = '127.0.0.1:0'\n[intake]\nhttp = '127.0.0.1:0'")


def test_the_longest_retry_wait_is_not_below_the_first(configuration: Configuration) -> None:
    toml = "[delivery]\nretry_initial_seconds = 5\nretry_max_seconds = {}"
    assert list(configuration.problems(toml.format(4.9))) == ["delivery.retry_max_seconds"]
    configuration.load(toml.format(5))


def test_the_longest_time_between_probes_is_not_below_the_first(configuration: Configuration) -> None:
    toml = "[delivery]\nprobe_initial_seconds = 5\nprobe_max_seconds = {}"
    problems = configuration.problems(toml.format(4.9))
    assert problems == {
        "delivery.probe_max_seconds": f"4.9 is below probe_initial_seconds, 5.0; raise it (in {configuration.path})"
    }
    configuration.load(toml.format(5))


def test_a_rule_about_a_refused_value_is_not_reported_on_top(configuration: Configuration) -> None:
    problems = configuration.problems("[delivery]\nretry_initial_seconds = 'x'\nretry_max_seconds = 0.1")
    assert list(problems) == ["delivery.retry_initial_seconds"]


def test_the_largest_body_must_fit_into_what_may_be_parsed(configuration: Configuration) -> None:
    toml = "[intake]\nmax_body_bytes = '16 MiB'\nmax_parsing_bytes = '{}'"
    assert configuration.problems(toml.format("10 MiB")) == {
        "intake.max_body_bytes": "16 MiB is above intake.max_parsing_bytes, 10 MiB: no body of that size could ever be "
        f"parsed; raise that, or lower this (in {configuration.path})"
    }
    assert configuration.load(toml.format("16 MiB")).intake.max_parsing_bytes == 16 * MIB
    assert list(configuration.problems("[intake]\nmax_body_bytes = '64 MiB'")) == ["intake.max_body_bytes"]


def test_every_problem_is_reported_at_once(configuration: Configuration) -> None:
    toml = """
        surplus = 1
        [growlytics]
        url = "ftp://x"
        [intake]
        http = "0.0.0.0:8920"
        max_body_bytes = "1 MB"
        [delivery]
        max_concurrency = 0
        max_concurency = 1
        retry_max_seconds = 0.1
    """
    environ = {"FORWARDER_LOG__LEVEL": "loud", "FORWARDER_BUFFER__MAX_EVENTS": "many"}
    problems = configuration.problems(toml, environ, ["loop=fast", "nonsense"], require_api_key=True)
    assert set(problems) == {
        "surplus", "growlytics.url", "intake.http", "intake.max_body_bytes", "delivery.max_concurrency",
        "delivery.max_concurency", "delivery.retry_max_seconds", "log.level", "buffer.max_events", "loop",
        "--set (number 2)", "growlytics.api_key",
    }  # fmt: skip
    assert "(in FORWARDER_LOG__LEVEL)" in problems["log.level"]
    assert "(in --set)" in problems["loop"]


def test_the_text_of_the_error_has_a_line_for_each_problem() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, environ={}, overrides=["loop=x", "log.level=x"])
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert str(Problem("a.b", "is wrong")) == "a.b: is wrong"


def test_what_is_constructed_directly_is_taken_as_it_is() -> None:
    settings = Settings(intake=IntakeSettings(http=Address("127.0.0.1", 0), max_body_bytes=1), loop="asyncio")
    assert settings.intake.max_body_bytes == 1


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().loop = "uvloop"  # type: ignore[misc]  # that it must not is what this shows


# --- The table of event names ---

TABLE = "delivery.on_ambiguous_events"
ODD_NAMES = ("Order Completed", "app.order.paid", "", "ä 😀", 'quote"d \\', "[x]\n\t\x7f\x1b[2J\u202e", "__proto__")


def test_a_policy_may_be_given_for_any_event_name(configuration: Configuration) -> None:
    toml = (
        "[delivery.on_ambiguous_events]\n'Order Completed' = 'dead_letter'\n'a.b' = 'retry'\nPurchase = 'dead_letter'"
    )
    events = configuration.load(toml).delivery.on_ambiguous_events
    assert events == {"Order Completed": "dead_letter", "a.b": "retry", "Purchase": "dead_letter"}
    assert {type(each) for each in (*events, *events.values())} == {str}


def test_the_table_of_policies_cannot_be_changed(configuration: Configuration) -> None:
    for settings in (Settings(), configuration.load(toml_of(TABLE, "{ Purchase = 'retry' }"))):
        with pytest.raises(TypeError, match="does not support item assignment"):
            settings.delivery.on_ambiguous_events["Purchase"] = "dead_letter"  # type: ignore[index]  # as this shows


def test_the_table_of_policies_is_written_so_that_it_loads_again(configuration: Configuration) -> None:
    policies: dict[str, Literal["retry", "dead_letter"]] = dict.fromkeys(ODD_NAMES, "dead_letter")
    settings = Settings(delivery=DeliverySettings(on_ambiguous_events=policies | {"kept": "retry"}))
    shown = to_toml(settings)
    assert configuration.load(shown) == settings
    assert all(line.isprintable() for line in shown.splitlines()), "it is shown in terminals"
    assert "\non_ambiguous_events = {}\n" in to_toml(Settings())


@pytest.mark.parametrize(
    ("environ", "overrides", "path", "source"),
    [
        ({"FORWARDER_DELIVERY__ON_AMBIGUOUS_EVENTS": "{}"}, [], TABLE, "in FORWARDER_DELIVERY__ON_AMBIGUOUS_EVENTS"),
        ({}, [f"{TABLE}={{ Purchase = 'retry' }}"], TABLE, "in --set"),
        ({}, [f"{TABLE}.Purchase=retry"], f"{TABLE}.Purchase", "in --set"),
        (
            {"FORWARDER_DELIVERY__ON_AMBIGUOUS_EVENTS__PURCHASE": "retry"},
            [],
            f"{TABLE}__purchase",
            "in FORWARDER_DELIVERY__ON_AMBIGUOUS_EVENTS__PURCHASE",
        ),
    ],
)
def test_the_table_of_policies_can_be_set_in_the_file_only(
    configuration: Configuration, environ: dict[str, str], overrides: list[str], path: str, source: str
) -> None:
    problems = configuration.problems(None, environ, overrides)
    assert list(problems) == [path]
    assert "can be set in the file only" in problems[path]
    assert '{ "Order Completed" = "dead_letter" }' in problems[path], "how to write it there"
    assert f"({source})" in problems[path]


@pytest.mark.parametrize(
    ("toml", "wrong"),
    [
        (
            "{ A = 'retry', 'B c' = 'dead letter', C = 5 }",
            'not "dead letter" for "B c" (did you mean "dead_letter"?), nor 5 for "C"',
        ),
        ("{ shop.paid = 'retry' }", 'not a table for "shop" (a name with dots belongs in quotes)'),
        ('{ "\\u001b[2J" = "x" }', 'not "x" for "\\u001b[2J"'),
    ],
)
def test_every_wrong_policy_of_the_table_is_named_with_its_event(
    configuration: Configuration, toml: str, wrong: str
) -> None:
    message = f'must be "retry" or "dead_letter" for each of its names, {wrong} (in {configuration.path})'
    assert configuration.problems(toml_of(TABLE, toml)) == {TABLE: message}


# --- Secrets ---


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert {str(secret), repr(secret), f"{secret}", f"{secret!r:>8}", "%s" % secret} == {"********"}  # noqa: UP031  shown too
    settings = Settings(growlytics=GrowlyticsSettings(api_key=secret))
    assert KEY not in f"{settings} {settings!r} {attrs.asdict(settings)}"


def test_secrets_are_equal_if_their_texts_are() -> None:
    assert Secret(KEY) == Secret(KEY)
    assert hash(Secret(KEY)) == hash(Secret(KEY))
    assert Secret(KEY) != Secret(KEY + "x")
    assert Secret(KEY) != KEY
    assert Secret("ä") != Secret("ö")


@pytest.mark.parametrize("content", [KEY, KEY + "\n", KEY + "\r\n"])
def test_a_key_is_read_from_a_file_without_the_newline_at_its_end(
    configuration: Configuration, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content.encode())
    settings = configuration.load(toml_of("growlytics.api_key_file", f"'{file}'"), require_api_key=True)
    assert settings.growlytics == GrowlyticsSettings(api_key=Secret(KEY), api_key_file=str(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (KEY.encode() + b"\nsecond line\n", "cannot be sent"),
        (KEY.encode() + b"\xff", "cannot be sent"),
        (KEY.encode() * 5000, "larger than 64 KiB"),
    ],
)
def test_a_file_without_a_usable_key_is_an_error_that_names_the_setting(
    configuration: Configuration, tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    problems = configuration.problems(None, {"GROWLYTICS_API_KEY_FILE": str(file)}, require_api_key=True)
    assert list(problems) == ["growlytics.api_key_file"]
    assert reason in problems["growlytics.api_key_file"]
    assert KEY not in problems["growlytics.api_key_file"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("", "is empty"), (".", "Is a directory"), (KEY, "No such file"), ("a\x00b", "must be the path")],
)
def test_a_key_file_that_cannot_be_read_is_an_error_that_does_not_show_its_path(
    configuration: Configuration, path: str, reason: str
) -> None:
    problems = configuration.problems(None, {"FORWARDER_GROWLYTICS__API_KEY_FILE": path})
    assert list(problems) == ["growlytics.api_key_file"]
    assert reason in problems["growlytics.api_key_file"]
    assert KEY not in problems["growlytics.api_key_file"], "people put the key where its path belongs"


def test_a_key_file_must_be_a_string(configuration: Configuration) -> None:
    assert list(configuration.problems("[growlytics]\napi_key_file = 5")) == ["growlytics.api_key_file"]


@pytest.mark.parametrize(
    "key", ["", KEY + "\n", KEY + "\x7f", KEY + "ä", KEY + "\udc80", " " + KEY, KEY + " ", "********"]
)
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(configuration: Configuration, key: str) -> None:
    for problems in (
        configuration.problems(None, {"FORWARDER_GROWLYTICS__API_KEY": key}, require_api_key=True),
        configuration.problems(None, {}, [f"growlytics.api_key={key}"], require_api_key=True),
    ):
        assert list(problems) == ["growlytics.api_key"]
        assert KEY not in problems["growlytics.api_key"]


@pytest.mark.parametrize(
    "toml",
    [
        f"[growlytics]\napi_key = ['{KEY}']",
        f"[growlytics.api_key]\nvalue = '{KEY}'",
        f"[growlytics]\napi_keyy = '{KEY}'",
        f"growlytics = '{KEY}'",
        f"api_key = '{KEY}'",
        f"[growlytics]\napi_key = {KEY}",
        f"[growlytics]\napi_key = '{KEY}",
        f"[growlytics]\napi_key = '{KEY}'\napi_key = '{KEY}'",
    ],
)
def test_a_misplaced_or_malformed_key_in_the_file_is_not_shown(configuration: Configuration, toml: str) -> None:
    with pytest.raises(SettingsError) as caught:
        configuration.load(toml, require_api_key=True)
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.problems!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_key_is_an_error_only_if_it_is_required(configuration: Configuration) -> None:
    assert configuration.load().growlytics.api_key is None
    problems = configuration.problems(require_api_key=True)
    assert list(problems) == ["growlytics.api_key"]
    assert "GROWLYTICS_API_KEY_FILE" in problems["growlytics.api_key"]


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text("from-the-file\n")
    return str(path)


def test_the_convenience_variables_override_the_file(configuration: Configuration, key_file: str) -> None:
    given = configuration.load("[growlytics]\napi_key = 'a'", {"GROWLYTICS_API_KEY": "b"}).growlytics.api_key
    assert given == Secret("b")
    environ = {"GROWLYTICS_API_KEY_FILE": key_file}
    read = configuration.load("[growlytics]\napi_key_file = '/missing'", environ).growlytics.api_key
    assert read == Secret("from-the-file")


@pytest.mark.parametrize("convenience", ["GROWLYTICS_API_KEY", "GROWLYTICS_API_KEY_FILE"])
@pytest.mark.parametrize("key", ["api_key", "api_key_file"])
def test_the_convenience_variables_give_way_to_the_settings_own_names(
    configuration: Configuration, key_file: str, convenience: str, key: str
) -> None:
    environ = {convenience: "for-the-app"}
    value, secret = (key_file, "from-the-file") if key == "api_key_file" else ("explicit", "explicit")
    for settings in (
        configuration.load(None, environ | {f"FORWARDER_GROWLYTICS__{key.upper()}": value}),
        configuration.load(None, environ, [f"growlytics.{key}={value}"]),
    ):
        assert settings.growlytics.api_key == Secret(secret)


def test_an_empty_convenience_variable_is_as_good_as_none(configuration: Configuration) -> None:
    environ = {"GROWLYTICS_API_KEY": "", "GROWLYTICS_API_KEY_FILE": ""}
    assert configuration.load(None, environ).growlytics.api_key is None
    assert configuration.load("[growlytics]\napi_key = 'a'", environ).growlytics.api_key == Secret("a")


@pytest.mark.parametrize(
    ("toml", "environ", "overrides"),
    [
        ("api_key = '{key}'\napi_key_file = '{file}'", {}, []),
        ("api_key_file = '{file}'", {"FORWARDER_GROWLYTICS__API_KEY": KEY}, []),
        ("api_key_file = '{file}'", {"GROWLYTICS_API_KEY": KEY}, []),
        ("api_key = '{key}'", {"GROWLYTICS_API_KEY_FILE": "/x"}, []),
        ("", {"GROWLYTICS_API_KEY": KEY, "GROWLYTICS_API_KEY_FILE": "/x"}, []),
        ("", {"FORWARDER_GROWLYTICS__API_KEY": KEY}, ["growlytics.api_key_file=/x"]),
        ("api_key_file = '{file}'", {}, [f"growlytics.api_key={KEY}"]),
    ],
)
def test_a_key_given_both_ways_is_an_error(
    configuration: Configuration, key_file: str, toml: str, environ: dict[str, str], overrides: list[str]
) -> None:
    toml = "[growlytics]\n" + toml.format(key=KEY, file=key_file)
    problems = configuration.problems(toml, environ, overrides, require_api_key=True)
    assert list(problems) == ["growlytics.api_key"]
    assert "given twice" in problems["growlytics.api_key"]
    assert KEY not in problems["growlytics.api_key"]


# --- Showing ---


def test_the_defaults_as_toml_load_to_the_defaults(configuration: Configuration) -> None:
    assert configuration.load(to_toml(Settings())) == Settings()


def test_settings_as_toml_load_to_the_same_settings(configuration: Configuration) -> None:
    settings = Settings(
        growlytics=GrowlyticsSettings(url="https://example.com/x?q=\\", timeout_seconds=1e-05),
        intake=IntakeSettings(
            http=None,
            unix_socket='/run/"a\\b" 😀ä.sock',
            unix_socket_mode=0o7,
            allow_remote_without_token=True,
            max_body_bytes=1025,
        ),
        buffer=BufferSettings(
            kind="memory",
            directory='./"a\\b" 😀ä',
            max_events=1,
            max_bytes=3 * 1024 * MIB,
            when_full="drop_oldest",
            fsync=True,
        ),
        delivery=DeliverySettings(
            max_concurrency=3,
            order="none",
            rate_limit_per_second=0.125,
            max_age_seconds=5e-324,
            on_ambiguous="dead_letter",
            on_ambiguous_events={"a.b c": "retry"},
            breaker_failures=10**18,
            systemic_rejections=2,
            systemic_seconds=3.0,
            probe_initial_seconds=0.25,
            probe_max_seconds=0.25,
        ),
        dead_letters=DeadLettersSettings(max_events=2, max_bytes=1025),
        receipts=ReceiptsSettings(max_events=0),
        admin=AdminSettings(http=Address("::1", 0)),
        shutdown=ShutdownSettings(accept_seconds=1.5, drain_seconds=0.0),
        log=LogSettings(level="debug", format="text"),
        loop="uvloop",
    )
    assert configuration.load(to_toml(settings)) == settings
    assert 'unix_socket_mode = "0007"' in to_toml(settings)
    assert 'max_bytes = "3 GiB"' in to_toml(settings)


def test_secrets_are_masked_and_the_mask_is_no_key(configuration: Configuration) -> None:
    shown = to_toml(Settings(growlytics=GrowlyticsSettings(api_key=Secret(KEY))))
    assert tomllib.loads(shown)["growlytics"]["api_key"] == "********"
    assert KEY not in shown
    assert list(configuration.problems(shown)) == ["growlytics.api_key"]


def test_a_key_from_a_file_is_shown_as_the_file(configuration: Configuration, key_file: str) -> None:
    settings = configuration.load(None, {"GROWLYTICS_API_KEY_FILE": key_file})
    shown = to_toml(settings)
    assert "from-the-file" not in shown
    assert configuration.load(shown) == settings


# --- The sample files ---


def test_reference_toml_loads_to_the_defaults() -> None:
    loaded = load(CONFIG / "reference.toml", environ={})
    assert (loaded.settings, loaded.warnings) == (Settings(), ())


def test_a_group_is_named_by_its_name_or_its_number(configuration: Configuration) -> None:
    by_name = configuration.load(f"[control]\ngroup = '{GROUP.gr_name}'").control.group
    assert by_name == Group(GROUP.gr_name, GROUP.gr_gid)
    for number in ("54321", "'54321'"):  # which need not be known here, as in a container
        assert configuration.load(f"[control]\ngroup = {number}").control.group == Group("54321", 54321)
    shown_as = to_toml(configuration.load(f"[control]\ngroup = '{GROUP.gr_name}'"))
    assert f'\ngroup = "{GROUP.gr_name}"\n' in shown_as
    assert "group = " not in to_toml(configuration.load(""))


@pytest.mark.parametrize(
    "group", ["'no-such-group'", "-1", "'-1'", "4294967295", "true", "1.5", "['a']", '"a\\u0000"', "' '"]
)
def test_a_group_that_there_is_not_is_refused_by_its_name(configuration: Configuration, group: str) -> None:
    (problem,) = configuration.problems(f"[control]\ngroup = {group}").values()
    assert "the name or the number of a group of this machine, not " in problem
    if group.startswith("'no"):
        assert '"no-such-group"; there is no such group: create it, or name another' in problem


def test_reference_toml_has_every_setting_in_order_and_nothing_stale() -> None:
    described: list[tuple[str, str | None, str]] = []
    section, comment = "", ""
    for line in (CONFIG / "reference.toml").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section, comment = heading[1] + ".", ""
        elif setting := re.fullmatch(r"(# )?([a-z_]+) = (\S.*)", line):
            described.append((section + setting[2], None if setting[1] else setting[3], comment.strip()))
            comment = ""
        elif line.startswith("#"):
            comment += line.removeprefix("#")
        else:
            assert line == ""
            comment = ""
    expected = [
        (
            each.path,
            each.default,
            f"{each.description}. Value: {each.type}." + (" Taken up on SIGHUP." if each.live else ""),
        )
        for each in sorted(reference(), key=lambda each: "." in each.path)
    ]
    assert described == expected


def test_the_reference_default_of_the_directory_does_not_depend_on_where_one_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/state")
    assert {each.path: each.default for each in reference()}["buffer.directory"] == '"/var/lib/growlytics-forwarder"'


def test_each_setting_is_described_with_its_type() -> None:
    for each in reference():
        assert each.description
        assert each.type
    by_path = {each.path: each for each in reference()}
    assert len(by_path) == len(reference())
    assert by_path["delivery.max_concurrency"].type == "an integer from 1 to 4096"
    assert by_path["buffer.max_bytes"].default == '"256 MiB"'
    assert by_path["buffer.directory"].default == '"/var/lib/growlytics-forwarder"'
    assert by_path["growlytics.api_key"].default is None


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.name)
def test_each_sample_file_loads(file: Path, key_file: str) -> None:
    names_a_key_file = re.search(r"^api_key_file", file.read_text(encoding="utf-8"), re.MULTILINE)
    overrides = [f"growlytics.api_key_file={key_file}"] if names_a_key_file else []
    loaded = load(file, environ={}, overrides=overrides, require_api_key=file.name != "reference.toml")
    assert loaded.warnings == ()


def test_the_samples_are_what_their_names_say(key_file: str) -> None:
    overrides = [f"growlytics.api_key_file={key_file}"]
    sidecar = load(CONFIG / "sidecar.toml", environ={}, overrides=overrides).settings
    assert sidecar.intake.unix_socket is not None
    assert sidecar.buffer == BufferSettings(kind="disk", directory="/var/lib/growlytics-forwarder")
    systemd = tomllib.loads((CONFIG / "systemd.toml").read_text(encoding="utf-8"))
    assert systemd["growlytics"]["api_key_file"] == "/run/credentials/growlytics-forwarder.service/api_key"
    assert systemd["intake"]["unix_socket"].startswith("/run/growlytics-forwarder/")
    assert "buffer" not in systemd, "STATE_DIRECTORY says where"
    development = load(CONFIG / "development.toml", environ={}).settings
    assert development.growlytics.url == "http://127.0.0.1:8930/track/event"
    assert development.growlytics.api_key == Secret("sandbox-key")
    assert development.log.format == "text"
    assert development.buffer == BufferSettings(kind="disk", directory="./growlytics-buffer")


def test_importing_the_settings_does_not_import_aiohttp() -> None:
    program = "import sys, forwarder.settings; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# For commands that look at what is wrong


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(SettingsError, match="larger than 4 MiB"):
        load(Path("/dev/zero"), environ={})


def test_what_is_right_can_be_used_beside_what_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[growlytics]\nurl = 'https://dc.example/t'\napi_key_file = '/nowhere/key'\n[buffer]\nmax_events = 0\n[x]\n"
    )
    tried = try_to_load(config, environ={"STATE_DIRECTORY": "/var/lib/x"}, overrides=["delivery.max_concurrency=2"])
    assert tried.settings.growlytics.url == "https://dc.example/t"
    assert tried.settings.growlytics.api_key is None
    assert tried.settings.buffer.directory == "/var/lib/x"
    assert tried.settings.delivery.max_concurrency == 2
    assert {problem.path for problem in tried.problems} == {"growlytics.api_key_file", "buffer.max_events", "x"}
    assert {"growlytics.url", "buffer.directory", "delivery.max_concurrency"} <= tried.given
    assert "growlytics.timeout_seconds" not in tried.given


def test_every_secret_can_be_hidden_and_each_spelling_of_a_proxys_login() -> None:
    settings = Settings(
        growlytics=GrowlyticsSettings(api_key=Secret("the-key"), proxy=Secret("http://us%40er:p%2Fw@proxy:3128")),
        intake=IntakeSettings(token=Secret("the-token")),
    )
    found = secrets(settings)
    assert {"the-key", "the-token", "us%40er:p%2Fw", "us@er:p/w", "p%2Fw", "p/w"} <= set(found)
    assert base64.b64encode(b"us@er:p/w").decode() in found
    assert secrets(Settings()) == []
