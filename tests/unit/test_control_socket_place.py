"""Where the control socket is: never where the app has a socket of its own."""

from pathlib import Path

import pytest

from forwarder.settings import BufferSettings, ControlSettings, IntakeSettings, Settings
from forwarder.settings.control import DEFAULT_CONTROL_SOCKETS, control_socket, control_sockets

UNIT = "/run/unit"


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


def test_a_command_also_looks_where_the_unit_makes_it() -> None:
    assert control_sockets(settings(), {}) == (Path("/buffer/control.sock"), DEFAULT_CONTROL_SOCKETS[0])
    assert control_sockets(settings("/elsewhere/c.sock"), {}) == (Path("/elsewhere/c.sock"),)
    assert control_sockets(settings(None), {}) == ()


def test_it_looks_there_too_where_the_buffers_directory_is_the_apps() -> None:
    shared = settings(unix_socket="/buffer/intake.sock")
    assert control_sockets(shared, {}) == (DEFAULT_CONTROL_SOCKETS[0],)
