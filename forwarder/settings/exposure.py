"""What lets strangers in, though it can be used: a token that can be guessed, and any name by which a page may call.

All is pure, and nothing shows a secret. Only `forwarder.settings` imports this module. It is short, as `mistakes` is about
single values, and these are about settings together.
"""

import re
from collections.abc import Iterator
from typing import Final

from forwarder.settings.sections import AdminSettings, IntakeSettings

_LEAST_CHARACTERS: Final = 16
_LEAST_DIFFERENT: Final = 6
"""A random token of 16 hexadecimal digits has ten on average, and fewer than these in less than one case of ten thousand."""
_REPEATED: Final = re.compile(rf"(.{{1,{_LEAST_CHARACTERS - 1}}}?)\1+")


def exposures(intake: IntakeSettings, admin: AdminSettings) -> Iterator[str]:
    """Yield a warning for each: the setting, why it is dangerous, and the fix."""
    is_remote = intake.http is not None and not intake.http.is_loopback
    if is_remote and intake.token is not None and (fault := _weakness(intake.token.reveal())):
        setting = "intake.token" if intake.token_file is None else "intake.token_file"
        yield (
            f"{setting}: the token {fault}, so others could guess it, as intake.http can be reached from other machines; "
            "use a random one, as `openssl rand -hex 32` makes it"
        )
    if "*" in intake.allowed_hosts and (intake.http or admin.http) is not None:
        yield (
            'intake.allowed_hosts has "*", so any web page in a browser that reaches the forwarder can call it, by a name '
            "of its own that leads here (DNS rebinding); list the names by which apps and Prometheus call it instead"
        )


def _weakness(token: str) -> str:
    """Return why a token can be guessed; empty if it cannot be, as far as that shows."""
    if len(token) < _LEAST_CHARACTERS:
        return f"has fewer than {_LEAST_CHARACTERS} characters"
    if len(set(token)) < _LEAST_DIFFERENT:
        return f"has fewer than {_LEAST_DIFFERENT} different characters"
    if _REPEATED.fullmatch(token):
        return "repeats a few characters again and again"
    return ""
