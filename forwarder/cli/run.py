"""`run`: runs the daemon in the foreground."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_BUG, EXIT_CANNOT_BIND, EXIT_CONFIGURATION
from forwarder.cli.options import LoopMissingError, add_config_arguments, load_settings, loop_factory

if TYPE_CHECKING:
    from forwarder.host.signals import Signals
    from forwarder.settings import Settings

_LAST_SECONDS: Final = 1.0
"""How long the process waits at its end for threads, which may hang in a file system for ever."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the daemon until a signal stops it."""
    signals: Signals = args.signals
    settings = load_settings(args, require_api_key=True)

    def load_anew() -> "Settings":
        return load(args.config, environ=os.environ, overrides=args.overrides, require_api_key=True).settings

    import asyncio
    import logging

    from forwarder import process
    from forwarder.attribute_types.types_file import TypesFileError
    from forwarder.database.directory import DirectoryError, DirectoryInUseError
    from forwarder.host.open_files import too_few_files
    from forwarder.host.sockets import CannotBindError
    from forwarder.host.threads import end_threads
    from forwarder.observing.logs import logging_to_stdout
    from forwarder.settings import load

    try:
        factory = loop_factory(settings.loop)
    except LoopMissingError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    if why := too_few_files():
        print(why, file=sys.stderr)
        return EXIT_CONFIGURATION
    os.umask(0o077)  # the buffer's files hold events
    signals.begin()
    with logging_to_stdout(settings.log):
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                return runner.run(process.run(settings, load=load_anew, signals=signals))
        except (CannotBindError, DirectoryInUseError) as error:
            print(error, file=sys.stderr)
            return EXIT_CANNOT_BIND
        except (DirectoryError, TypesFileError) as error:
            print(error, file=sys.stderr)
            return EXIT_CONFIGURATION
        except Exception:  # the outermost handler: say why the process ends
            logging.getLogger("forwarder").critical("the daemon failed: a bug, please report it", exc_info=True)
            return EXIT_BUG
        finally:
            end_threads(within_seconds=_LAST_SECONDS)
