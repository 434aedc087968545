"""What `run` and `check-config` read before all else: the settings, the file of types, and whether TLS can be used.

It is read whole, so that all problems are told at once. Nothing is printed here.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from forwarder.cli.options import (
    LoopMissingError,
    certificate_warnings,
    key_log_warnings,
    loop_factory,
    tls_fault,
)
from forwarder.settings import LogSettings, Problem, Settings, SettingsError, load


class Configuration(NamedTuple):
    """What was read."""

    settings: Settings | None
    """None if there are problems with them. If there are problems with other things, they are here."""
    problems: Sequence[Problem]
    warnings: Sequence[str]
    log: LogSettings
    """How to log the problems."""

    @property
    def heading(self) -> str:
        """What stands above the list of problems."""
        return f"configuration: {len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}:"

    @classmethod
    def read(cls, args: argparse.Namespace) -> "Configuration":
        """Read what the arguments and the environment name, and look for problems that need no more than that."""
        try:
            loaded = load(args.config, environ=os.environ, overrides=args.overrides, require_api_key=True)
        except SettingsError as error:
            return cls(None, error.problems, error.warnings, error.log)
        settings = loaded.settings
        problems = [*_types_problems(settings), *_loop_problems(settings)]
        warnings = [*loaded.warnings, *key_log_warnings(os.environ)]
        if fault := tls_fault():  # then the libraries do not even start
            problems.append(Problem("OPENSSL_CONF", fault))
        elif settings.growlytics.url.startswith("https:") and settings.growlytics.ca_file is None:
            warnings += certificate_warnings(os.environ)
        return cls(settings, problems, warnings, settings.log)


def _types_problems(settings: Settings) -> Iterator[Problem]:
    if settings.contract.types_file is not None:
        from forwarder.attribute_types import types_file

        try:
            types_file.read(settings.contract.types_file)
        except types_file.TypesFileError as error:
            yield from (Problem("contract.types_file", problem) for problem in error.problems)


def _loop_problems(settings: Settings) -> Iterator[Problem]:
    try:
        loop_factory(settings.loop)
    except LoopMissingError as error:
        yield Problem("loop", str(error).removeprefix("loop: "))
