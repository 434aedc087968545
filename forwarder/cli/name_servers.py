"""Asks each name server of this machine itself, to see which one is at fault when a name has no address.

The system's resolver says only that it found nothing: whether a server is silent, fails or refuses makes the difference to
who has to fix it. One question over UDP each, all at the same time. Answers are bounded, and only their codes are read. Used
by `probing` after the resolver has failed.
"""

import os
import re
import socket
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from forwarder.cli.streams import together
from forwarder.growlytics import causes
from forwarder.text import printable

RESOLVER_FILE: Final = Path("/etc/resolv.conf")

_MAX_SERVERS: Final = 3
"""As many as the system's resolver asks."""
_MAX_FILE_BYTES: Final = 64 * 1024
_PORT: Final = 53
_MAX_ANSWER_BYTES: Final = 4096
_HEADER: Final = struct.Struct("!HHHHHH")
_A_RECORD: Final = struct.pack("!HH", 1, 1)
_RECURSION_DESIRED: Final = 0x0100
_IS_ANSWER: Final = 0x8000
_CODES: Final = {
    0: "answers",
    1: "answers FORMERR (it does not understand the question)",
    2: "answers SERVFAIL (it fails, or those that it asks)",
    3: "answers NXDOMAIN (no such name)",
    5: "answers REFUSED (it does not serve this machine)",
}


class ServerAnswer(NamedTuple):
    """What one name server did."""

    server: str
    says: str


def name_servers(file: Path = RESOLVER_FILE) -> list[str]:
    """Return the addresses of this machine's name servers; none if the file cannot be read or names none."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError:
        return []
    return [printable(each) for each in re.findall(r"(?m)^\s*nameserver\s+(\S+)", text)[:_MAX_SERVERS]]


def ask_each(name: str, servers: Sequence[str], *, seconds: float, port: int = _PORT) -> list[ServerAnswer]:
    """Ask each server for the address of a name, and return what it says."""
    outcomes = together(
        seconds + 1, [partial(_ask, name, server, port, seconds) for server in servers], name="name server"
    )
    found = []
    for server, outcome in zip(servers, outcomes, strict=True):
        try:
            says = outcome()
        except TimeoutError:
            says = "does not answer"
        except (OSError, ValueError) as error:
            says = f"cannot be asked: {causes.of_errno(getattr(error, 'errno', None) or 22)}"
        found.append(ServerAnswer(server, says))
    return found


def _ask(name: str, server: str, port: int, seconds: float) -> str:
    question = _question(name)
    ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
        server, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    with socket.socket(family, kind, protocol) as asking:
        asking.settimeout(seconds)
        asking.connect(address)  # so that a port without a server is told
        asking.send(question)
        while True:
            answer = asking.recv(_MAX_ANSWER_BYTES)
            if len(answer) >= _HEADER.size and answer[:2] == question[:2]:
                _, flags, _, answers, _, _ = _HEADER.unpack_from(answer)
                if flags & _IS_ANSWER:
                    return _said(flags & 0xF, answers)


def _said(code: int, answers: int) -> str:
    if code == 0 and not answers:
        return "answers that the name has no IPv4 address"
    return _CODES.get(code, f"answers with code {code}")


def _question(name: str) -> bytes:
    """Return the question for the IPv4 address of a name. Raise ValueError if it cannot be one."""
    number = int.from_bytes(os.urandom(2))
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError
    encoded = b"".join(bytes([len(label)]) + label for label in labels)
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + encoded + b"\0" + _A_RECORD
