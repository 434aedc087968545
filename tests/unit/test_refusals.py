"""The answers that refuse a whole request, as a person reads them who asked with curl."""

from typing import get_args

import orjson
import pytest

from forwarder.intake.answers import refusal, too_slow_headers
from forwarder.words import RequestCode


@pytest.mark.parametrize("code", get_args(RequestCode))
def test_a_refusal_ends_with_a_newline_so_that_the_prompt_of_a_shell_stands_below_it(code: RequestCode) -> None:
    body = refusal(code).body
    assert body.endswith(b"}\n")
    assert orjson.loads(body)["code"] == code


def test_so_does_the_one_for_headers_that_come_too_slowly() -> None:
    assert too_slow_headers().body.endswith(b"}\n")
