"""How a command finds its daemon: where it looks, in which order, and what it reads of settings for that."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest

from forwarder.cli.clients import add_daemon_arguments
from forwarder.cli.daemon import Daemon, HostPort, Place, UnreachableError
from forwarder.cli.finding import Defaults, UnusableError, find
from forwarder.places import BUFFER_DIRECTORY, DEFAULT_CONTROL_SOCKETS
from forwarder.settings import reference
from tests.fakes.other_users import not_root, open_directory

BUFFERS = f"the control socket {BUFFER_DIRECTORY}/control.sock"
UNITS = f"the control socket {DEFAULT_CONTROL_SOCKETS[0]}"
BESIDE = f"the control socket {DEFAULT_CONTROL_SOCKETS[2]}"
DEFAULT = "http://127.0.0.1:8920"
NO_ETC = Defaults(control_sockets=(Path("/default/control.sock"),), config=Path("/no/such/config.toml"))
USUAL = [
    "the control socket /default/control.sock",
    "/no/such/config.toml cannot be read: No such file or directory",
    DEFAULT,
]


def found(
    *arguments: str, environ: Mapping[str, str] | None = None, defaults: Defaults = NO_ETC, changes: bool = False
) -> list[Place | str]:
    parser = argparse.ArgumentParser()
    add_daemon_arguments(parser)
    return find(parser.parse_args(arguments), environ or {}, defaults, changes=changes)


def shown(
    *arguments: str, environ: Mapping[str, str] | None = None, defaults: Defaults = NO_ETC, changes: bool = False
) -> list[str]:
    return list(map(str, found(*arguments, environ=environ, defaults=defaults, changes=changes)))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        '[control]\nsocket = "/c"\n[intake]\nunix_socket = "/i"\nhttp = "[::]:1"\ntoken = "T"\n'
        '[growlytics]\napi_key_file = "/not/readable"\nno_such = 1\n[delivery]\nmax_concurrency = "many"\n'
    )
    return file


OF_CONFIG = ["the control socket /c", "the Unix socket /i", "http://[::1]:1"]


# In which order


def test_the_order_without_being_told_is_default_control_sockets_then_etc_then_the_default_address() -> None:
    assert shown() == USUAL


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("--url", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
        (("--unix-socket", "/b"), "the Unix socket /b"),
        (("--set", "no.such=setting", "--url", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
    ],
)
def test_an_address_in_the_arguments_is_the_only_place_and_no_settings_are_read(
    arguments: tuple[str, ...], place: str
) -> None:
    environ = {"FORWARDER_CONFIG": "/no", "FORWARDER_INTAKE__HTTP": "127.0.0.1:2"}
    assert shown(*arguments, environ=environ) == [place]


def test_a_url_and_a_unix_socket_together_are_a_usage_error() -> None:
    with pytest.raises(SystemExit):
        found("--url", "http://127.0.0.1:1", "--unix-socket", "/b")


def test_of_settings_the_control_socket_comes_first_then_the_unix_socket_then_tcp(config: Path) -> None:
    assert shown("--config", str(config)) == OF_CONFIG


def test_the_settings_in_the_arguments_are_the_only_ones_that_count(config: Path) -> None:
    assert shown("--set", "intake.http=127.0.0.1:3") == [BUFFERS, UNITS, BESIDE, "http://127.0.0.1:3"]
    assert shown("--config", str(config), "--set", "control.socket=/d")[0] == "the control socket /d"
    environ = {"FORWARDER_CONFIG": str(config)}
    assert shown("--set", "control.socket=/d", environ=environ) == ["the control socket /d", *OF_CONFIG[1:]]


def test_the_environment_overrides_the_file_as_it_does_for_the_daemon(config: Path) -> None:
    environ = {"FORWARDER_INTAKE__HTTP": "127.0.0.1:4", "FORWARDER_control__socket": ""}
    assert shown("--config", str(config), environ=environ) == ["the Unix socket /i", "http://127.0.0.1:4"]


def test_a_file_named_in_the_environment_comes_before_the_usual_places(config: Path) -> None:
    assert shown(environ={"FORWARDER_CONFIG": str(config)}) == OF_CONFIG + USUAL


def test_a_file_named_in_the_environment_that_cannot_be_used_is_passed_over_and_said() -> None:
    first, *others = shown(environ={"FORWARDER_CONFIG": "/no/such"})
    assert first == "FORWARDER_CONFIG: /no/such cannot be read: No such file or directory"
    assert others == USUAL


def test_the_settings_of_the_environment_come_before_the_usual_places() -> None:
    environ = {"FORWARDER_BUFFER__DIRECTORY": "/b", "FORWARDER_INTAKE__UNIX_SOCKET": "/i"}
    assert shown(environ=environ) == ["the control socket /b/control.sock", "the Unix socket /i", *USUAL]
    assert shown(environ={"STATE_DIRECTORY": "/s:/t"})[0] == "the control socket /s/control.sock"


def test_variables_that_are_not_settings_change_nothing() -> None:
    assert shown(environ={"FORWARDER_PORT": "tcp://1.2.3.4:5", "FORWARDER_SERVICE_HOST": "1.2.3.4"}) == USUAL


def test_the_file_in_etc_comes_before_the_default_address(config: Path) -> None:
    assert shown(defaults=NO_ETC._replace(config=config)) == [USUAL[0], *OF_CONFIG, DEFAULT]


def test_no_place_is_tried_twice() -> None:
    environ = {"FORWARDER_INTAKE__HTTP": "127.0.0.1:8920", "FORWARDER_CONTROL__SOCKET": "/default/control.sock"}
    assert shown(environ=environ) == [USUAL[0], DEFAULT, USUAL[1]]


def test_the_control_socket_is_not_looked_for_in_a_directory_of_the_app() -> None:
    arguments = (
        "--set",
        "buffer.directory=/b",
        "--set",
        "intake.lines_socket=/b/lines.sock",
        "--set",
        "intake.http=a:1",
    )
    assert shown(*arguments) == ["http://a:1"]


# Commands that change something

NO_FURTHER = "other places are not tried, as {} says which daemon is meant and this command changes something"


def test_a_change_is_made_at_the_daemon_of_the_file_that_the_environment_names_or_nowhere(config: Path) -> None:
    environ = {"FORWARDER_CONFIG": str(config)}
    assert shown(environ=environ, changes=True) == [*OF_CONFIG, NO_FURTHER.format("FORWARDER_CONFIG")]


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("FORWARDER_BUFFER__DIRECTORY", "/b", "the control socket /b/control.sock"),
        ("STATE_DIRECTORY", "/s", "the control socket /s/control.sock"),
        ("FORWARDER_CONTROL__SOCKET", "/c", "the control socket /c"),
    ],
)
def test_a_change_is_made_at_the_daemon_of_the_environment_or_nowhere(variable: str, value: str, place: str) -> None:
    assert shown(environ={variable: value}, changes=True) == [place, DEFAULT, NO_FURTHER.format("the environment")]


def test_a_change_is_made_where_daemons_usually_are_if_the_environment_does_not_say_where() -> None:
    assert shown(changes=True) == USUAL
    assert shown(environ={"FORWARDER_LOG__LEVEL": "debug", "FORWARDER_INTAKE__TOKEN": "T"}, changes=True)[-3:] == USUAL


@pytest.mark.parametrize("content", [None, "intake = 1", "[control]\nsocket = ''\n[intake]\nhttp = ''\n"])
def test_no_change_is_made_anywhere_if_the_file_that_the_environment_names_cannot_be_used(
    content: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "f.toml"
    if content is not None:
        file.write_text(content)
    environ = {"FORWARDER_CONFIG": str(file)}
    with pytest.raises(UnusableError, match=r"^FORWARDER_CONFIG: .*; correct or unset FORWARDER_CONFIG, or say where "):
        found(environ=environ, changes=True)
    assert shown("--url", "http://a:1", environ=environ, changes=True) == ["http://a:1"]


# What is read


@pytest.mark.parametrize("name", ["intake.http", "intake.token", "buffer.directory", "control.socket"])
def test_what_is_read_are_settings(name: str) -> None:
    assert name in {each.path for each in reference()}


def test_the_default_address_is_that_of_the_settings() -> None:
    assert next(each.default for each in reference() if each.path == "intake.http") == '"127.0.0.1:8920"'
    assert Defaults().http == HostPort("127.0.0.1", 8920)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff", "is not TOML; `check-config` says where"),
        (b"[intake", "is not TOML; `check-config` says where"),
        (b"intake = 1", "intake is not a section"),
        (b"x = '" + b"x" * (4 << 20) + b"'", "is larger than 4 MiB"),
    ],
)
def test_a_file_in_the_arguments_that_cannot_be_used_is_an_error(
    content: bytes | None, why: str, tmp_path: Path
) -> None:
    file = tmp_path / "f.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnusableError, match=why):
        found("--config", str(file))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("S3CRET", r"^--set \(number 1\) must be written section\.key=value$"),
        ("intake.htp=127.0.0.1:1", r"intake\.htp, which is not a setting; did you mean intake\.http\?"),
        ("intake.http=nonsense", r"intake\.http is not HOST:PORT \(in --set\)"),
    ],
)
def test_a_setting_in_the_arguments_that_cannot_be_used_is_an_error(override: str, why: str) -> None:
    with pytest.raises(UnusableError, match=why):
        found("--set", "control.socket=", "--set", override) if "=" in override else found("--set", override)


def test_a_known_setting_in_the_arguments_that_does_not_concern_the_place_is_fine() -> None:
    assert shown("--set", "log.level=debug", "--set", "intake.http=a:1")[-1] == "http://a:1"


@pytest.mark.parametrize("socket", ["lines_socket", "datagram_socket"])
def test_a_daemon_that_is_nowhere_is_an_error(socket: str) -> None:
    arguments = ("--set=control.socket=", "--set=intake.http=", f"--set=intake.{socket}=/run/events.sock")
    with pytest.raises(UnusableError, match=r"intake\.http is off .*set one of control\.socket"):
        found(*arguments)


@pytest.mark.parametrize("directory", ["relative", "with\0nul"])
def test_a_directory_that_leads_nowhere_is_out_of_reach_and_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    working = tmp_path / "gone"
    working.mkdir()
    monkeypatch.chdir(working)
    working.rmdir()
    places = found(f"--set=buffer.directory={directory}", "--set=intake.http=127.0.0.1:1")
    with Daemon(*places) as daemon, pytest.raises(UnreachableError):
        daemon.get("/v1/status")


def test_text_that_is_expected_and_missing_is_said_and_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[intake]\nhttp = 8920\n[control]\nsocket = ''\n")
    assert shown(environ={"FORWARDER_CONFIG": str(file)})[0] == (
        f"intake.http is not text (in {file}); `check-config` says more"
    )


# Tokens


def tokens(places: list[Place | str]) -> dict[str, str | None]:
    return {str(each): each.token for each in places if isinstance(each, Place)}


def test_the_token_of_settings_goes_to_their_places_alone(config: Path) -> None:
    assert tokens(found(environ={"FORWARDER_CONFIG": str(config)})) == {
        "the control socket /c": None,
        "the Unix socket /i": "T",
        "http://[::1]:1": "T",
        "the control socket /default/control.sock": None,
        DEFAULT: None,
    }


def test_the_token_of_a_given_file_is_used_for_a_given_address_and_that_of_the_environment_is_not(config: Path) -> None:
    address = ("--url", "http://127.0.0.1:1")
    assert tokens(found(*address, "--config", str(config))) == {"http://127.0.0.1:1": "T"}
    assert tokens(found(*address, environ={"FORWARDER_INTAKE__TOKEN": "T", "FORWARDER_CONFIG": str(config)})) == {
        "http://127.0.0.1:1": None
    }


def test_the_token_of_the_environment_is_for_the_default_address_too() -> None:
    assert tokens(found(environ={"FORWARDER_INTAKE__TOKEN": "E"}))[DEFAULT] == "E"


@pytest.mark.parametrize("elsewhere", [{"FORWARDER_INTAKE__HTTP": "127.0.0.1:1"}, {"FORWARDER_CONFIG": "CONFIG"}])
def test_the_token_of_the_environment_is_not_for_the_default_address_of_another_daemon(
    config: Path, elsewhere: dict[str, str]
) -> None:
    named = {name: value.replace("CONFIG", str(config)) for name, value in elsewhere.items()}
    places = found(environ={"FORWARDER_INTAKE__TOKEN": "E", **named})
    tokens = {str(each): each.token for each in places if isinstance(each, Place) and each.host_port is not None}
    assert tokens == {DEFAULT: None, "http://[::1]:1" if "FORWARDER_CONFIG" in named else "http://127.0.0.1:1": "E"}


def test_the_token_in_the_arguments_overrides_all(config: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("A\n")
    arguments = ("--config", str(config), "--token-file", str(tmp_path / "token"))
    assert {*tokens(found(*arguments)).values()} == {"A"}


def test_a_token_is_read_from_the_file_that_settings_name(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two words\n")
    arguments = ("--set", f"intake.token_file={tmp_path / 'token'}", "--set", "intake.http=a:1")
    assert tokens(found(*arguments))["http://a:1"] == "two words"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("file", "intake.token_file names a file that cannot be read: No such file or directory (in --set)"),
        ("=\x1b", "intake.token is no token (in --set)"),
    ],
)
def test_a_token_that_this_user_cannot_read_does_not_stop_the_command_and_is_said_where_it_is_missed(
    token: str, why: str
) -> None:
    path, _, value = token.partition("=")
    setting = f"intake.token_{path}=/no" if path else f"intake.token={value}"
    place = found("--set", setting, "--set", "intake.http=a:1")[-1]
    assert isinstance(place, Place)
    assert (place.token, place.token_fault) == (None, why)


def test_settings_that_this_user_may_not_read_are_passed_over() -> None:
    with open_directory() as directory:
        (directory / "config.toml").write_text("")
        (directory / "config.toml").chmod(0)
        with not_root():
            places = shown(defaults=NO_ETC._replace(config=directory / "config.toml"))
    assert places[1].endswith("cannot be read: Permission denied")


def test_no_token_is_shown_with_its_place() -> None:
    assert "S3CRET" not in repr(found("--set", "intake.token=S3CRET"))
