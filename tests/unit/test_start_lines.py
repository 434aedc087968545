"""What `run` says first on a terminal: it is true whatever listens where, and shows no secret."""

from collections.abc import Mapping

import pytest

from forwarder.cli.start_lines import start_lines
from forwarder.settings import Settings, load

KEY = "sk-THE-KEY-ITSELF"


def settings(**overrides: object) -> Settings:
    texts = [f"{name.replace('__', '.', 1)}={value}" for name, value in overrides.items()]
    return load(None, environ={}, overrides=texts).settings


def three(addresses: Mapping[str, str], **overrides: object) -> list[str]:
    return [line.split("  ", 1)[1].strip() for line in start_lines(settings(**overrides), addresses)[:3]]


def test_with_default_settings_it_is_three_lines() -> None:
    addresses = {"http": "127.0.0.1:8920", "admin": "127.0.0.1:9920", "control": "/var/lib/x/control.sock"}
    assert start_lines(Settings(), addresses) == [
        "Post events to  http://127.0.0.1:8920/track/event",
        "Status page     http://127.0.0.1:8920/",
        "Metrics         http://127.0.0.1:9920/metrics",
        "",
    ]


@pytest.mark.parametrize(
    ("address", "url"),
    {
        "127.0.0.1:43317": "http://127.0.0.1:43317",
        "0.0.0.0:8920": "http://127.0.0.1:8920",
        "[::]:8920": "http://[::1]:8920",
        "[::1]:8920": "http://[::1]:8920",
        "10.0.0.7:80": "http://10.0.0.7:80",
    }.items(),
)
def test_the_addresses_are_those_that_were_opened_and_can_be_reached_from_here(address: str, url: str) -> None:
    lines = three({"http": address, "admin": address}, intake__http="127.0.0.1:0")
    assert lines == [f"{url}/track/event", f"{url}/", f"{url}/metrics"]


def test_the_command_that_it_names_is_as_it_is_typed_here() -> None:
    (_, page, *_) = start_lines(Settings(), {"unix": "/i.sock"}, program="/my/bin/growlytics-forwarder")
    assert page.endswith("see /my/bin/growlytics-forwarder top --unix-socket /i.sock")


@pytest.mark.parametrize(
    ("addresses", "where", "page"),
    [
        ({"unix": "/run/f/i.sock"}, "the Unix socket /run/f/i.sock, path /track/event", " --unix-socket /run/f/i.sock"),
        (
            {"lines": "/run/f/l.sock", "control": "/my dir/c.sock"},
            "the Unix socket /run/f/l.sock, one JSON object a line",
            " --unix-socket '/my dir/c.sock'",
        ),
        ({"datagram": "/run/f/d.sock"}, "the Unix socket /run/f/d.sock, one JSON object in each datagram", ""),
    ],
)
def test_without_tcp_it_says_so(addresses: Mapping[str, str], where: str, page: str) -> None:
    assert three(addresses) == [
        where,
        f"none for a browser, as intake.http is off; see growlytics-forwarder top{page}",
        "none, as admin.http is off",
    ]


def test_the_page_of_the_admin_listener_is_named_if_it_is_the_only_one() -> None:
    addresses = {"unix": "/run/f/i.sock", "admin": "0.0.0.0:9920"}
    assert three(addresses, admin__page="true")[1] == "http://127.0.0.1:9920/status (without names of events)"
    assert three({**addresses, "http": "127.0.0.1:1"}, admin__page="true")[1] == "http://127.0.0.1:1/"


def test_a_page_that_asks_for_the_token_says_so() -> None:
    assert three({"http": "127.0.0.1:1"}, intake__token="t" * 20)[1] == "http://127.0.0.1:1/ (asks for the token)"


def test_what_differs_from_the_defaults_follows_without_secrets() -> None:
    changed = settings(
        growlytics__api_key=KEY,
        growlytics__proxy=f"http://user:{KEY}@proxy.example:3128",
        intake__token=KEY,
        buffer__directory="/my dir",
        buffer__max_bytes="1GiB",
        admin__http="",
        log__level="info",
        loop="asyncio",
    )
    lines = start_lines(changed, {"http": "127.0.0.1:1"})[3:]
    assert lines == [
        "Not the default:",
        '  growlytics.api_key = "********"',
        '  growlytics.proxy = "********"',
        '  intake.token = "********"',
        '  buffer.directory = "/my dir"',
        '  buffer.max_bytes = "1 GiB"',
        '  admin.http = ""',
        '  loop = "asyncio"',
        "",
    ]
    assert KEY not in "\n".join(lines)


def test_a_setting_that_was_emptied_and_a_very_long_one_are_short() -> None:
    changed = settings(control__socket="", intake__allowed_hosts=",".join(f"host-{n}" for n in range(500)))
    hosts, control = start_lines(changed, {"http": "127.0.0.1:1"})[4:6]
    assert hosts.startswith('  intake.allowed_hosts = ["host-0", ')
    assert hosts.endswith("…")
    assert len(hosts) < 250
    assert control == '  control.socket = ""'
