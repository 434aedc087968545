"""`run`: runs the daemon in the foreground. On a terminal it first says where to post, and where to look."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_BUG, EXIT_CANNOT_BIND, EXIT_CONFIGURATION
from forwarder.cli.options import add_config_arguments, loop_factory

if TYPE_CHECKING:
    from forwarder.cli.reporting import Report
    from forwarder.host.signals import Signals
    from forwarder.settings import Settings

_LAST_SECONDS: Final = 1.0
"""How long the process waits at its end for threads, which may hang in a file system for ever."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the daemon until a signal stops it."""
    from forwarder.cli.configuration import Configuration
    from forwarder.cli.reporting import Report
    from forwarder.observing.logs import logging_to_stdout

    read = Configuration.read(args)
    report = Report(read.log)
    warnings = [*args.warnings, *read.warnings]
    if read.problems or read.settings is None:
        with logging_to_stdout(read.log):
            code = report.die([*map(str, read.problems)], exit_code=EXIT_CONFIGURATION, heading=read.heading)
            for warning in warnings:  # it may explain a problem
                report.warn(warning)
    else:
        code = _serve(read.settings, warnings, args, report)
    report.show()
    return code


def _serve(settings: "Settings", warnings: Sequence[str], args: argparse.Namespace, report: "Report") -> int:
    import asyncio
    import logging

    from forwarder import process
    from forwarder.attribute_types.types_file import TypesFileError
    from forwarder.database.directory import DirectoryError, DirectoryInUseError
    from forwarder.host.open_files import too_few_files
    from forwarder.host.sockets import CannotBindError
    from forwarder.host.threads import end_threads
    from forwarder.observing.logs import is_for_people, logging_to_stdout
    from forwarder.places import typed_program
    from forwarder.settings import load

    def load_anew() -> "Settings":
        return load(args.config, environ=os.environ, overrides=args.overrides, require_api_key=True).settings

    signals: Signals = args.signals
    has_reader = is_for_people(settings.log)  # among lines of JSON a plain one would be malformed
    with logging_to_stdout(settings.log, held=has_reader) as say:

        def on_ready(addresses: Mapping[str, str]) -> None:
            if has_reader:
                from forwarder.cli.start_lines import start_lines

                say(start_lines(settings, addresses, program=typed_program(os.environ)))

        for warning in warnings:
            report.warn(warning)
        report.show()
        if why := too_few_files():
            return report.die([why], exit_code=EXIT_CONFIGURATION)
        os.umask(0o077)  # the buffer's files hold events
        signals.begin()
        try:
            with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
                daemon = process.run(
                    settings, load=load_anew, signals=signals, on_ready=on_ready, on_slow_start=lambda: say(())
                )
                return runner.run(daemon)
        except (CannotBindError, DirectoryInUseError) as error:
            return report.die([str(error)], exit_code=EXIT_CANNOT_BIND)
        except (DirectoryError, TypesFileError) as error:
            return report.die([str(error)], exit_code=EXIT_CONFIGURATION)
        except Exception:  # the outermost handler: say why the process ends
            logging.getLogger("forwarder").exception(
                "the daemon failed: a bug, please report it", extra={"fields": {"exit_code": EXIT_BUG}}
            )
            return EXIT_BUG
        finally:
            end_threads(within_seconds=_LAST_SECONDS)
