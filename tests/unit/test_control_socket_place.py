"""Where the control socket is: never where the app has a socket of its own. And how this program is typed."""

from pathlib import Path

import pytest

from forwarder.places import BUFFER_DIRECTORY, DEFAULT_CONTROL_SOCKETS, control_sockets, typed_program
from forwarder.settings import BufferSettings, ControlSettings, IntakeSettings, Settings
from forwarder.settings.control import control_socket

UNIT = "/run/unit"
UNITS = str(DEFAULT_CONTROL_SOCKETS[0])
BESIDE = str(DEFAULT_CONTROL_SOCKETS[2])


def settings(
    control: str | None = "auto",
    directory: str = "/buffer",
    *,
    unix_socket: str | None = None,
    lines_socket: str | None = None,
    datagram_socket: str | None = None,
) -> Settings:
    return Settings(
        control=ControlSettings(socket=control),
        buffer=BufferSettings(directory=directory),
        intake=IntakeSettings(unix_socket=unix_socket, lines_socket=lines_socket, datagram_socket=datagram_socket),
    )


@pytest.mark.parametrize(
    ("given", "runtime", "place"),
    [
        (settings(), None, "/buffer/control.sock"),
        (settings(), UNIT, "/run/unit/control.sock"),
        (settings(), "", "/buffer/control.sock"),
        (settings(unix_socket="/run/unit/intake.sock"), UNIT, "/buffer/control.sock"),
        (settings(lines_socket="/run/unit/lines.sock"), f"{UNIT}:/run/unit-control", "/run/unit-control/control.sock"),
        (settings(datagram_socket="/run/unit/d.sock"), f"{UNIT}:", "/buffer/control.sock"),
        (settings(unix_socket="/buffer/intake.sock"), None, None),
        (settings(None), UNIT, None),
        (settings("/elsewhere/c.sock"), UNIT, "/elsewhere/c.sock"),
    ],
)
def test_a_daemon_makes_it_in_a_directory_of_its_own(given: Settings, runtime: str | None, place: str | None) -> None:
    environ = {} if runtime is None else {"RUNTIME_DIRECTORY": runtime}
    assert control_socket(given, environ) == (None if place is None else Path(place))


@pytest.mark.parametrize(
    ("wanted", "directory", "app_sockets", "found"),
    [
        ("auto", BUFFER_DIRECTORY, [], ["/var/lib/growlytics-forwarder/control.sock", UNITS, BESIDE]),
        ("auto", BUFFER_DIRECTORY, [f"{BUFFER_DIRECTORY}/intake.sock"], [UNITS, BESIDE]),
        (
            "auto",
            BUFFER_DIRECTORY,
            ["/run/growlytics-forwarder/intake.sock"],
            [f"{BUFFER_DIRECTORY}/control.sock", UNITS],
        ),
        ("auto", "/buffer", [], ["/buffer/control.sock"]),
        ("/elsewhere/c.sock", BUFFER_DIRECTORY, [], ["/elsewhere/c.sock"]),
        ("", BUFFER_DIRECTORY, [], []),
    ],
)
def test_a_command_looks_where_the_daemon_or_its_unit_makes_it_and_never_where_another_daemon_does(
    wanted: str, directory: str, app_sockets: list[str], found: list[str]
) -> None:
    sockets = control_sockets(wanted, directory=directory, app_sockets=app_sockets, environ={})
    assert list(map(str, sockets)) == found


def test_links_that_go_in_a_circle_are_no_fault_of_the_control_socket(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    circle = str(tmp_path / "circle")
    assert control_socket(settings(directory=circle, unix_socket=f"{tmp_path}/i.sock"), {}) == Path(
        circle, "control.sock"
    )
    assert control_socket(settings(directory=circle, unix_socket=f"{circle}/i.sock"), {}) is None


def test_the_program_is_typed_by_its_name_only_where_the_path_has_it(tmp_path: Path) -> None:
    python, empty = tmp_path / "my env" / "bin" / "python3", tmp_path / "empty"
    empty.mkdir()
    python.parent.mkdir(parents=True)
    python.touch()
    missing = typed_program({"PATH": f"{empty}:"}, python=str(python))
    assert missing == f"'{python}' -m forwarder"
    program = python.with_name("growlytics-forwarder")
    program.touch(mode=0o700)
    assert typed_program({"PATH": f"{empty}:"}, python=str(python)) == f"'{program}'"
    assert typed_program({"PATH": f"{empty}:{program.parent}"}, python=str(python)) == "growlytics-forwarder"
