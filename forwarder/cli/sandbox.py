"""`sandbox`: runs the local stand-in for Growlytics in the foreground, until SIGINT or SIGTERM."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from forwarder.cli import EXIT_CANNOT_BIND, EXIT_OK
from forwarder.cli.daemon import HostPort
from forwarder.cli.options import LoopMissingError, loop_factory
from forwarder.sandbox.faults import FAULT_NAMES, Faults, what_is_wrong
from forwarder.sandbox.printing import EventPrinter
from forwarder.sandbox.server import Sandbox
from forwarder.words import LOOP_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    where = "where to listen; port 0 is any free one (default: 127.0.0.1:8930)"
    add("--http", type=_address, default=("127.0.0.1", 8930), metavar="HOST:PORT", help=where)
    add("--key", type=_key, default="sandbox-key", help="what x-growlytics-key must say (default: %(default)s)")
    for flag, name, metavar, summary in (
        ("--latency-ms", "latency_ms", "N", "delay each answer"),
        ("--jitter-ms", "jitter_ms", "N", "add a random delay up to this"),
        ("--fail-rate", "fail_rate", "P", "share of requests that fail, 0 to 1 (default: none)"),
        ("--fail-status", "fail_status", "S", "the status of their answers (default: 503)"),
        ("--retry-after-seconds", "retry_after_seconds", "N", "send Retry-After with 429 and 503 (default: do not)"),
        ("--rate-limit", "rate_limit_per_second", "N", "requests a second, above which the answer is 429"),
    ):
        add(flag, dest=name, type=_fault(name), metavar=metavar, help=summary)
    add("--seed", type=int, metavar="N", help="a number; the same one makes the same faults in the same order")
    add("--print", action="store_true", help="show each event that arrives, with the status that it was given")
    loop = "the event loop; auto: uvloop if installed (default: %(default)s)"
    add("--loop", type=_loop, default="auto", metavar="|".join(LOOP_NAMES), help=loop)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal arrives; return the exit code."""
    printer = EventPrinter(sys.stdout.fileno()) if args.print else None
    show = printer.show if printer else None
    sandbox = Sandbox(http=args.http, key=args.key, faults=_faults(args), seed=args.seed, show=show)
    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        code = runner.run(_serve(sandbox))
    if printer is not None:
        printer.close()
    return code


async def _serve(sandbox: Sandbox) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await sandbox.open()
    except OSError as error:
        host, port = sandbox.address
        # Event loops wrap the reason of a failed bind in a sentence of their own; a failed look-up has no errno.
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        print(f"sandbox: cannot listen on {host}:{port}: {reason or error}", file=sys.stderr)
        return EXIT_CANNOT_BIND
    try:
        print(f"sandbox ready on {sandbox.url} (key {sandbox.key})", flush=True)
        await stop.wait()
    finally:
        await sandbox.close()
    return EXIT_OK


def _faults(args: argparse.Namespace) -> Faults:
    given: dict[str, Any] = {
        name: each for name, each in vars(args).items() if name in FAULT_NAMES and each is not None
    }
    return Faults(**given, retry_after="none" if args.retry_after_seconds is None else "seconds")


def _address(text: str) -> HostPort:
    if (found := HostPort.parse(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return found


def _key(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("the key must be printable ASCII that is not empty, as it is sent in a header")
    return text


def _loop(text: str) -> str:
    if text not in LOOP_NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(LOOP_NAMES)}")
    try:
        loop_factory(text)
    except LoopMissingError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _fault(name: str) -> Callable[[str], float]:
    """Return a type for argparse: a value of the fault setting `name`."""

    def parse(text: str) -> float:
        for convert in (int, float):
            try:
                value = convert(text)
            except ValueError:
                continue
            if wrong := what_is_wrong(name, value):
                raise argparse.ArgumentTypeError(f"{text} {wrong}")
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")

    return parse
