"""What is said of each name server, whatever it sends."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forwarder.cli.name_servers import ask_each, name_servers

SECONDS = 20.0
SHORT_SECONDS = 1.0


class _Server(asyncio.DatagramProtocol):
    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        self.answers = answers
        self.questions: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.questions.append(data)
        for each in self.answers(data):
            self.transport.sendto(each, addr)


@asynccontextmanager
async def server(answers: Callable[[bytes], list[bytes]]) -> AsyncIterator[tuple[_Server, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Server(answers), local_addr=("127.0.0.1", 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def answer(question: bytes, *, code: int = 0, answers: int = 1, flags: int = 0x8180) -> bytes:
    return question[:2] + struct.pack("!HHHHH", flags | code, 1, answers, 0, 0) + question[12:]


async def said(
    answers: Callable[[bytes], list[bytes]], *, name: str = "dc.growlytics.in", seconds: float = SECONDS
) -> str:
    async with server(answers) as (_, port):
        found = await asyncio.to_thread(ask_each, name, ["127.0.0.1"], seconds=seconds, port=port)
    (one,) = found
    assert one.server == "127.0.0.1"
    return one.says


@pytest.mark.parametrize(
    ("code", "answers", "words"),
    [
        (0, 2, "answers"),
        (0, 0, "answers that the name has no IPv4 address"),
        (2, 0, "answers SERVFAIL (it fails, or those that it asks)"),
        (3, 0, "answers NXDOMAIN (no such name)"),
        (5, 0, "answers REFUSED (it does not serve this machine)"),
        (11, 0, "answers with code 11"),
    ],
)
async def test_an_answer_is_told_by_its_code(code: int, answers: int, words: str) -> None:
    assert await said(lambda question: [answer(question, code=code, answers=answers)]) == words


async def test_what_is_no_answer_to_the_question_is_ignored() -> None:
    def answers(question: bytes) -> list[bytes]:
        other = bytes([question[0] ^ 1]) + question[1:]
        strange = [b"", b"\x00", question[:11], question, b"\xff" * 4096, answer(other, code=3)]
        return [*strange, answer(question, code=2)]

    assert await said(answers) == "answers SERVFAIL (it fails, or those that it asks)"


async def test_a_silent_server_is_told_in_time() -> None:
    assert await said(lambda _: [], seconds=SHORT_SECONDS) == "does not answer"


async def test_a_port_without_a_server_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    (one,) = await asyncio.to_thread(ask_each, "x.example", ["127.0.0.1"], seconds=SECONDS, port=port)
    assert one.says == "cannot be asked: connection refused"


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "straße", ".", ""])
async def test_what_cannot_be_asked_for_is_told(name: str) -> None:
    assert (await said(lambda _: [], name=name)).startswith("cannot be asked")


@pytest.mark.parametrize("address", ["dc.growlytics.in", "\x1b[31m", "999.1.1.1", "fe80::1%nowhere"])
async def test_what_is_no_address_is_told(address: str) -> None:
    (one,) = await asyncio.to_thread(ask_each, "x.example", [address], seconds=SHORT_SECONDS, port=9)
    assert one.says.startswith(("cannot be asked", "does not answer"))


def test_name_servers_are_read_from_the_resolvers_file(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(
        b"# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\n  nameserver\tfe80::1%eth0 ; why\nnameserver\n"
        b"nameserver \x1b[31m\xff\nnameserver 10.0.0.9\n"
    )
    servers = name_servers(file)
    assert servers[:2] == ["10.0.0.1", "fe80::1%eth0"]
    assert len(servers) == 3
    assert all(each.isprintable() for each in servers)
    assert name_servers(tmp_path / "gone") == []
    assert name_servers(tmp_path) == []
