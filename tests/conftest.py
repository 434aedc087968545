"""How long property tests search: `make test` a little, `make soak` long; which signals the tests' processes heed; and
what is closed after each test.
"""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.fakes.databases import close_databases

settings.register_profile("test", max_examples=60, deadline=None)
settings.register_profile("soak", max_examples=3000, deadline=None)
settings.load_profile("test")

# A shell that starts the tests in the background has them ignore Ctrl-C, and all they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_database_stays_open() -> Iterator[None]:
    yield
    close_databases()
