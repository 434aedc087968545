"""How a command names a daemon, and what it makes of answers."""

import argparse

import pytest

from forwarder.cli.daemon import Daemon, HostPort, Place, UnreachableError, described_errors, url_argument


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8920", HostPort("127.0.0.1", 8920)),
        ("[::1]:8920", HostPort("::1", 8920)),
        ("growlytics-forwarder.svc:65535", HostPort("growlytics-forwarder.svc", 65535)),
        ("127.0.0.1:65536", None),
        ("127.0.0.1", None),
        ("::1:8920", None),
        ("127.0.0.1:", None),
        ("user@host:1", None),
        ("host:1\n", None),
        ("[1.2]:1", None),
        ("a..b:1", None),
        (f"{'x' * 64}:1", None),
    ],
)
def test_an_address_is_read_as_a_whole_or_not_at_all(text: str, found: HostPort | None) -> None:
    assert HostPort.parse(text) == found


@pytest.mark.parametrize(
    ("listening", "reached"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("0:0:0:0:0:0:0:0", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0", "10.0.0.0"),
        ("a.example", "a.example"),
    ],
)
def test_what_listens_on_every_address_is_reached_through_loopback(listening: str, reached: str) -> None:
    assert HostPort(listening, 8920).reachable() == HostPort(reached, 8920)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8920", "http://127.0.0.1:8920/", "HTTP://127.0.0.1:8920"])
def test_a_url_names_a_host_and_a_port(url: str) -> None:
    assert url_argument(url) == HostPort("127.0.0.1", 8920)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:8920", "127.0.0.1:8920", "http://127.0.0.1", "http://a:1/v1/events"]
)
def test_a_url_that_no_daemon_can_have_is_refused(url: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="http://HOST:PORT"):
        url_argument(url)


def test_an_error_is_described_by_its_field_its_message_and_its_code() -> None:
    errors = [
        {"code": "empty", "field": "name", "message": "it is empty"},
        {"code": "x", "field": None, "message": "y"},
    ]
    assert described_errors({"errors": errors}) == ["name: it is empty (empty)", "y (x)"]


def test_an_answer_cannot_play_with_the_terminal() -> None:
    (line,) = described_errors({"errors": [{"code": "\x1b[31m", "field": "\r", "message": "a\nb"}]})
    assert line.isprintable()


@pytest.mark.parametrize("content", [{}, {"errors": None}, {"errors": "no"}, {"errors": ["no"]}])
def test_an_answer_of_another_shape_has_no_errors(content: dict[str, object]) -> None:
    assert described_errors(content) == []


TCP = HostPort("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("status", "place", "fix"),
    [
        (
            401,
            Place(TCP),
            "run it with sudo and without --url; or use --unix-socket, or --token-file if the daemon has a token",
        ),
        (401, Place(TCP, token="T"), "the token that was sent is not the daemon's: correct it, or use --unix-socket"),
        (
            401,
            Place(TCP, token_fault="it is gone"),
            "it is gone; run it with sudo and without --url; or use --unix-socket, or --token-file if",
        ),
        (403, Place(None, "/i"), "run it with sudo or as one of them, or use --token-file if the daemon has a token"),
        (403, Place(TCP), ""),
        (422, Place(TCP), ""),
    ],
)
def test_who_is_not_let_in_is_told_what_to_do(status: int, place: Place, fix: str) -> None:
    found = Daemon(place).fix_for(status)
    assert found.startswith(fix)
    assert bool(found) is bool(fix)


def test_where_no_daemon_is_all_places_are_on_one_line_while_it_asks_again_and_in_a_list_at_the_end() -> None:
    error = UnreachableError(["a: gone", "b: closed"], fix="start it")
    assert str(error) == "no daemon can be reached: a: gone; b: closed"
    assert error.explained == "no daemon can be reached; tried, in this order:\n  a: gone\n  b: closed\nstart it"
