"""`sandbox`: runs the local stand-in for Growlytics in the foreground, until SIGINT or SIGTERM."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable

from forwarder.cli import EXIT_CANNOT_BIND, EXIT_OK
from forwarder.cli.options import LoopMissingError, loop_factory
from forwarder.sandbox.faults import Faults, what_is_wrong
from forwarder.sandbox.server import Sandbox
from forwarder.words import LOOP_NAMES, LoopName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--http",
        type=_address,
        default=("127.0.0.1", 8930),
        metavar="HOST:PORT",
        help="where to listen; port 0 is any free one (default: 127.0.0.1:8930)",
    )
    parser.add_argument(
        "--key", type=_key, default="sandbox-key", help="what x-growlytics-key must say (default: %(default)s)"
    )
    parser.add_argument(
        "--latency-ms", type=_fault("latency_ms", float), default=0, metavar="N", help="delay each answer"
    )
    parser.add_argument(
        "--jitter-ms", type=_fault("jitter_ms", float), default=0, metavar="N", help="add a random delay up to this"
    )
    parser.add_argument(
        "--fail-rate",
        type=_fault("fail_rate", float),
        default=0,
        metavar="P",
        help="share of requests that fail, 0 to 1",
    )
    parser.add_argument(
        "--fail-status",
        type=_fault("fail_status", int),
        default=503,
        metavar="S",
        help="the status they get (default: %(default)s)",
    )
    parser.add_argument(
        "--retry-after-seconds",
        type=_fault("retry_after_seconds", int),
        metavar="N",
        help="say Retry-After on injected 429 and 503 and on rate-limited answers (default: do not)",
    )
    parser.add_argument(
        "--rate-limit",
        type=_fault("rate_limit_per_second", float),
        default=0,
        metavar="N",
        help="requests a second, above which the answer is 429 (default: no limit)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="a number; the same one makes the same faults in the same order"
    )
    parser.add_argument(
        "--loop",
        type=_loop,
        default="auto",
        metavar="auto|uvloop|asyncio",
        help="the event loop; auto: uvloop if installed (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal arrives; return the exit code."""
    sandbox = Sandbox(http=args.http, key=args.key, faults=_faults(args), seed=args.seed)
    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        return runner.run(_serve(sandbox))


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
    retry_after_seconds: int | None = args.retry_after_seconds
    return Faults(
        latency_ms=args.latency_ms,
        jitter_ms=args.jitter_ms,
        fail_rate=args.fail_rate,
        fail_status=args.fail_status,
        retry_after="none" if retry_after_seconds is None else "seconds",
        retry_after_seconds=1 if retry_after_seconds is None else retry_after_seconds,
        rate_limit_per_second=args.rate_limit,
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def _key(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("the key must be printable ASCII that is not empty, as it is sent in a header")
    return text


def _loop(text: str) -> LoopName:
    for name in LOOP_NAMES:
        if text == name:
            try:
                loop_factory(name)
            except LoopMissingError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
            return name
    raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(LOOP_NAMES)}")


def _fault(name: str, convert: Callable[[str], float]) -> Callable[[str], float]:
    """Return a type for argparse: a value of the fault setting `name`."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if wrong := what_is_wrong(name, value):
            raise argparse.ArgumentTypeError(f"{text!r}: {wrong}")
        return value

    return parse
