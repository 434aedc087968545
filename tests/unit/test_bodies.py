"""Which encodings of bodies are understood, and that what is inflated is whole and bounded."""

import asyncio
import gzip
import random
import zlib

import pytest

from forwarder.intake.bodies import ENCODINGS, RefusedBodyError, inflate, inflater_for

BODY = b'{"name":"n"}' * 1000


@pytest.mark.parametrize("value", [None, "", " ", "identity", "Identity", "identity, identity", ",", " , identity,\t"])
def test_what_says_nothing_or_identity_is_not_compressed(value: str | None) -> None:
    assert inflater_for(value) is None


@pytest.mark.parametrize(
    "value",
    ["gzip", "GZIP", "x-gzip", "X-GZip", "gzip, identity", "identity,gzip", " gzip ", ",gzip,", "identity, , x-gzip"],
)
async def test_gzip_is_understood_by_both_its_names_and_beside_identity(value: str) -> None:
    inflater = inflater_for(value)
    assert inflater is not None
    assert await inflate(gzip.compress(BODY), inflater, max_bytes=len(BODY)) == BODY


async def test_deflate_is_understood_with_its_header_and_without() -> None:
    inflater = inflater_for("deflate, identity")
    assert inflater is not None
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for compressed in (zlib.compress(BODY), bare.compress(BODY) + bare.flush()):
        assert await inflate(compressed, inflater, max_bytes=len(BODY)) == BODY


@pytest.mark.parametrize(
    "value",
    ["br", "compress", "x-compress", "gzip, gzip", "gzip, x-gzip", "gzip, deflate", "identity, br", "gzip;q=1", "gzip gzip",
     "x-deflate", "*", "\xe9", "gzip\x0b"],
)  # fmt: skip
def test_any_other_encoding_and_more_than_one_is_refused(value: str) -> None:
    with pytest.raises(RefusedBodyError, match="unsupported_encoding"):
        inflater_for(value)


def test_what_apps_are_told_to_send_are_names_without_doubles() -> None:
    assert ENCODINGS[:2] == ("gzip", "deflate")
    assert "x-gzip" not in ENCODINGS


async def test_one_byte_too_much_is_too_large_and_a_stream_cut_short_is_malformed() -> None:
    inflater = inflater_for("gzip")
    assert inflater is not None
    compressed = gzip.compress(BODY)
    with pytest.raises(RefusedBodyError, match="body_too_large"):
        await inflate(compressed, inflater, max_bytes=len(BODY) - 1)
    for broken in (compressed[:-1], compressed + b"x", b"", b"x", compressed + compressed[:-1]):
        with pytest.raises(RefusedBodyError, match="malformed_body"):
            await inflate(broken, inflater, max_bytes=2 * len(BODY))
    assert await inflate(compressed * 2, inflater, max_bytes=2 * len(BODY)) == BODY * 2


async def test_others_get_their_turn_while_a_body_is_inflated() -> None:
    inflater = inflater_for("gzip")
    assert inflater is not None
    body = random.Random(0).randbytes(4 << 20)
    inflating = asyncio.create_task(inflate(gzip.compress(body), inflater, max_bytes=len(body)))
    turns = 0
    while not inflating.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10
    assert inflating.result() == body
