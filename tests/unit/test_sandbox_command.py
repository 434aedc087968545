"""The flags of the `sandbox` command."""

import argparse

import pytest

from forwarder.cli import sandbox
from forwarder.sandbox.faults import NO_FAULTS, Faults


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sandbox.add_arguments(parser)
    return parser.parse_args(flags)


def test_without_flags_it_listens_on_loopback_without_faults() -> None:
    args = parse()
    assert (args.http, args.key, args.seed, args.loop) == (("127.0.0.1", 8930), "sandbox-key", None, "auto")
    assert sandbox._faults(args) == NO_FAULTS


def test_flags_become_faults() -> None:
    args = parse(
        *("--latency-ms", "20.5", "--jitter-ms", "3", "--fail-rate", "0.25", "--fail-status", "429"),
        *("--retry-after-seconds", "7", "--rate-limit", "50"),
    )
    assert sandbox._faults(args) == Faults(
        latency_ms=20.5,
        jitter_ms=3,
        fail_rate=0.25,
        fail_status=429,
        retry_after="seconds",
        retry_after_seconds=7,
        rate_limit_per_second=50,
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [("localhost:0", ("localhost", 0)), ("0.0.0.0:8930", ("0.0.0.0", 8930)), ("[::1]:65535", ("::1", 65535))],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse("--http", text).http == address


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--http", "8930"),
        ("--http", ":8930"),
        ("--http", "localhost:"),
        ("--http", "localhost:65536"),
        ("--http", "localhost:-1"),
        ("--key", ""),
        ("--key", "two\nlines"),
        ("--latency-ms", "-1"),
        ("--latency-ms", "soon"),
        ("--jitter-ms", "nan"),
        ("--fail-rate", "1.5"),
        ("--fail-status", "200"),
        ("--fail-status", "5xx"),
        ("--retry-after-seconds", "1.5"),
        ("--rate-limit", "-1"),
        ("--seed", "x"),
        ("--loop", "trio"),
    ],
)
def test_a_bad_value_is_refused_naming_the_flag(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(f"{flag}={value}")
    assert f"argument {flag}: " in capsys.readouterr().err
