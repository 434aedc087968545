"""Where the control socket of a daemon with given settings is; see `forwarder.places`."""

from collections.abc import Mapping
from pathlib import Path

from forwarder import places
from forwarder.settings.sections import Settings


def control_socket(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return where a daemon with these settings and this environment makes its control socket; None if nowhere."""
    intake = settings.intake
    return places.control_socket(
        settings.control.socket,
        directory=settings.buffer.directory,
        app_sockets=filter(None, (intake.unix_socket, intake.lines_socket, intake.datagram_socket)),
        environ=environ,
    )
