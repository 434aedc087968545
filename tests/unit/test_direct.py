"""Which bytes are a post of one event and nothing else."""

import pytest

from forwarder.intake.direct import is_whole
from tests.fakes.http_intake_harness import request_bytes

PATH = "/track/event"
BODY = b'{"customerId":"c"}'
POST = request_bytes(PATH, BODY)


@pytest.mark.parametrize(
    "data",
    [
        POST,
        POST.replace(b"Content-Length", b"content-length"),
        request_bytes(PATH, b""),
        request_bytes(PATH, b"\r\n\r\n"),
    ],
)
def test_a_post_is_whole_if_its_body_is_as_long_as_it_says(data: bytes) -> None:
    assert is_whole(data)


@pytest.mark.parametrize("cut", range(1, len(POST)))
def test_no_part_of_a_post_is_whole(cut: int) -> None:
    assert not is_whole(POST[:cut])
    assert not is_whole(POST[cut:])


@pytest.mark.parametrize(
    "data",
    [
        POST + b"\r\n",
        POST + POST,
        POST + POST[:30],
        request_bytes(PATH, [BODY]),
        request_bytes(PATH, [BODY], X_Content_Length=str(len(BODY))),
        request_bytes(PATH, BODY).replace(b"Content-Length: ", b"Content-Length: 0"),
        request_bytes(PATH, BODY, method="PUT"),
        request_bytes(PATH + "?a=b", BODY),
        request_bytes("/v1/events", BODY),
        POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"\r\n" + POST,
        b"Content-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_whatever_else_comes_is_not(data: bytes) -> None:
    assert not is_whole(data)
