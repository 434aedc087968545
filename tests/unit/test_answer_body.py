"""What the body of a 2xx says, in every encoding that it may come in."""

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.growlytics.answer_body import MAX_ANSWER_BYTES, said

NO = '{"success":false,"message":"gefällt nicht 😀"}'
YES = '{"success":true,"message":"gefällt 😀"}'
PAGE = "\r\n <!DOCTYPE html><title>Anmelden für 😀</title>"


def deflated(data: bytes, window_bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=window_bits)
    return compressor.compress(data) + compressor.flush()


def raw(data: bytes) -> bytes:
    return deflated(data, -zlib.MAX_WBITS)


Compression = tuple[str | None, Callable[[bytes], bytes]]

CHARACTERS = {
    "UTF-8": "utf-8",
    "UTF-8 with a mark": "utf-8-sig",
    "UTF-16 with a mark": "utf-16",
    "UTF-16 LE": "utf-16-le",
    "UTF-16 BE": "utf-16-be",
    "UTF-32 with a mark": "utf-32",
    "UTF-32 LE": "utf-32-le",
    "UTF-32 BE": "utf-32-be",
}
COMPRESSIONS: dict[str, Compression] = {
    "none": (None, bytes),
    "identity": ("identity", bytes),
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without a frame": ("deflate", raw),
    "two": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "two without a frame": ("deflate,gzip", lambda data: gzip.compress(raw(data))),
    "gzip and identity": ("gzip, identity", gzip.compress),
    "gzip that is not named": (None, gzip.compress),
    "deflate that is not named": (None, zlib.compress),
    "gzip that is named and was undone": ("gzip", bytes),
    "deflate that is named and was undone": ("deflate", bytes),
    "gzip in two parts": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "gzip with something behind": ("gzip", lambda data: gzip.compress(data) + b"\0" * 9),
}


@pytest.mark.parametrize("characters", CHARACTERS.values(), ids=CHARACTERS)
@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_it_is_understood_in_any_encoding(characters: str, compression: Compression) -> None:
    encoding, compress = compression
    if encoding == "deflate" and compress is bytes and "32" in characters:
        return  # this happens to be sound without a frame, too
    for text, expected in ((NO, "failure"), (YES, "success"), (PAGE, "page"), ("\ufeff" + NO, "failure")):
        assert said(compress(text.encode(characters)), content_encoding=encoding) == expected


def test_a_mark_of_the_big_end_is_read() -> None:
    assert said(b"\xfe\xff" + NO.encode("utf-16-be")) == "failure"
    assert said(b"\xfe\xff" + PAGE.encode("utf-16-be")) == "page"
    assert said(b"\0\0\xfe\xff" + NO.encode("utf-32-be")) == "failure"


def test_characters_that_are_not_utf_8_hide_no_refusal() -> None:
    assert said('{"message":"gefällt nicht","success":false}'.encode("latin-1")) == "failure"
    assert said("<p>größer".encode("latin-1")) == "page"


# What is a refusal


@pytest.mark.parametrize(
    "value", ["false", "0", "0.0", "-0", "0e5", '"false"', '"False"', '" FALSE "', '"0"', '"no"', '"No"']
)
def test_a_success_that_is_no_is_a_refusal(value: str) -> None:
    for text in (f'{{"success":{value}}}', f'{{"a":[{{}}],\n"success" : {value} ,"b":1}}', f' {{"success":{value}}} x'):
        assert said(text.encode()) == "failure"
        assert said(text.encode("utf-16")) == "failure"


@pytest.mark.parametrize(
    "value",
    [
        "true",
        "1",
        "-1",
        "0.5",
        '"true"',
        '"yes"',
        '"1"',
        "null",
        '""',
        "[]",
        "{}",
        "[false]",
        '{"a":false}',
        '"nothing"',
    ],
)
def test_a_success_that_is_yes_or_says_neither_is_none(value: str) -> None:
    for text in (f'{{"success":{value}}}', f'{{"success":{value}}} x'):
        assert said(text.encode()) == "success"
        assert said(text.encode("utf-16")) == "success"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "OK",
        "200: OK",
        "{}",
        "null",
        '{"error":"no"}',
        '{"Success":false}',
        '{"data":{"success":false}}',
        '{"data":[{"success":false}],"success":true}',
        '[{"success":false}]',
        '"success"',
        "{'success':false}",
        '{"message":"\\"success\\":false"}',
        '{"success":true,"message":"{\\"success\\":false}"}',
        '{"success" false}',
        '{"success":fal',
        '{"success',
        '{"success":}',
        '{"success":false,"success":true}',
        '{"success":false,"success":true',
        'x{"success":false}',
        "ok <p>",
    ],
)
def test_anything_else_is_a_success(text: str) -> None:
    assert said(text.encode()) == "success"
    assert said(text.encode("utf-16")) == "success"


@pytest.mark.parametrize(
    "text",
    [
        '{"success":false',
        '{"success":false,',
        '{"success":false,"mess',
        '{"success":"false","message":"x',
        '{"success":0,"message":',
        '{"errors":[{"code":1}],"success":false,"x":[{',
        '{"success":true,"success":false',
        '{"\\u0073uccess":false}',
        '{"n":' + "9" * 5000 + ',"success":false}',
        '{"n":1e999,"success":false}',
        '{"n":NaN,"success":false}',
        '{"message":"a\nb","success":false}',
        '{"message":"\\ud83d","success":false}',
        '{"success":false}{"success":true}',
        '{"success":false}\n--\n',
        '{"success":false,"deep":' + "[" * 100_000,
    ],
)  # fmt: skip
def test_a_refusal_counts_as_far_as_it_came_and_whatever_is_behind_it(text: str) -> None:
    assert said(text.encode()) == "failure"


@pytest.mark.parametrize(
    "text", ['{"success":0', '{"success":"fal', '{"success":"false', '{"success":f', '{"success":']
)
def test_a_value_that_is_cut_says_nothing(text: str) -> None:
    assert said(text.encode()) == "success"


@pytest.mark.parametrize("characters", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("is_before", [True, False])
def test_a_refusal_in_a_large_answer_is_found(characters: str, compression: Compression, is_before: bool) -> None:
    encoding, compress = compression
    padding = f'"padding":"{"x" * 200_000}"'
    text = f'{{{padding},"success":false}}' if is_before else f'{{"success":false,{padding}}}'
    assert said(compress(text.encode(characters)), content_encoding=encoding) == "failure"


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_a_refusal_is_found_in_what_came_of_a_body_that_was_cut(compression: Compression) -> None:
    encoding, compress = compression
    noise = "".join(chr(33 + number * number % 89) for number in range(3000)).replace('"', "").replace("\\", "")
    whole = compress(f'{{"success":false,"noise":"{noise}"}}'.encode())
    assert said(whole[: len(whole) * 2 // 3], content_encoding=encoding) == "failure"


# What is a page


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "TEXT/Html",
        "text/html; charset=utf-8",
        "text/html;charset=UTF-16",
        " text/html ; a=b",
        "application/xhtml+xml",
        "text/html, application/json",
        "application/json, text/html",
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"OK", b"<html>", b'{"ok":true}', b'{"success":null}'])
@pytest.mark.parametrize("encoding", [None, "gzip", "br"])
def test_a_body_that_is_called_a_page_is_one(content_type: str, body: bytes, encoding: str | None) -> None:
    assert said(body, content_type=content_type, content_encoding=encoding) == "page"


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_an_answer_says_of_success_counts_more_than_what_type_it_claims_to_be(
    compress: Callable[[bytes], bytes],
) -> None:
    assert said(compress(YES.encode()), content_type="text/html") == "success"
    assert said(compress(NO.encode()), content_type="text/html") == "failure"


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", "text/html5", "x-text/html", "html"])
def test_a_body_that_is_called_something_else_is_judged_by_what_it_is(content_type: str) -> None:
    assert said(b"", content_type=content_type) == "success"
    assert said(YES.encode(), content_type=content_type) == "success"
    assert said(NO.encode(), content_type=content_type) == "failure"
    assert said(PAGE.encode(), content_type=content_type) == "page"


@pytest.mark.parametrize("text", ["<", "<html>", "\n\t <?xml", "\ufeff<p>", " \ufeff <p>", "<<<", "\f\v\0<a"])
def test_what_begins_like_a_page_is_one(text: str) -> None:
    for characters in CHARACTERS.values():
        if len(text) > 1 or "utf-8" in characters:  # of a few bytes nobody can tell the encoding
            assert said(text.encode(characters)) == "page", characters


# What cannot be read


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, br", "br, gzip", "whatever", ", ".join(["gzip"] * 5)]
)
def test_what_cannot_be_read_is_a_success(encoding: str) -> None:
    for body in (b"<not what it looks like", NO.encode(), gzip.compress(NO.encode())):
        assert said(body, content_encoding=encoding) == "success"


def bomb(layers: int) -> bytes:
    data = b" " * 50_000_000
    for _ in range(layers):
        data = gzip.compress(data)
    return data


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", None])
def test_no_more_is_inflated_than_is_read_of_any_answer(encoding: str | None) -> None:
    import tracemalloc  # noqa: PLC0415  # it slows down whatever runs

    data = bomb(2 if encoding == "gzip, gzip" else 1)
    tracemalloc.start()
    try:
        assert said(data, content_encoding=encoding) == "success"
        assert tracemalloc.get_traced_memory()[1] < 12 * MAX_ANSWER_BYTES
    finally:
        tracemalloc.stop()


def test_very_many_parts_that_hold_nothing_are_not_all_read() -> None:
    parts = gzip.compress(b"") * 50_000
    assert said(parts + gzip.compress(NO.encode()), content_encoding="gzip") == "success"


@given(st.binary(max_size=80), st.sampled_from([None, "gzip", "deflate", "br", "", ",", "gzip, deflate"]))
def test_any_body_at_all_is_judged(body: bytes, encoding: str | None) -> None:
    assert said(body, content_encoding=encoding) in {"success", "failure", "page"}


@given(st.dictionaries(st.sampled_from(["success", "a"]), st.one_of(st.booleans(), st.text())), st.integers(0, 60))
def test_a_part_of_an_object_never_says_no_where_the_whole_says_yes(answer: dict[str, object], end: int) -> None:
    text = json.dumps(answer)
    if said(text.encode()) == "success":
        assert said(text[:end].encode()) == "success"


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
)
SUCCESSES = st.one_of(SCALARS, st.sampled_from(["false", " No ", "0", "yes", 0.0, -0.0, [], {}, [False]]))


@given(
    st.dictionaries(st.sampled_from(["success", "Success", "message", "\ud83d"]), SUCCESSES),
    st.sampled_from([None, "application/json", "text/html", "text/html; charset=utf-8, x"]),
    st.booleans(),
)
def test_an_object_says_the_same_whether_it_is_parsed_at_once_or_looked_through(
    members: dict[str, object], content_type: str | None, is_ascii: bool
) -> None:
    body = json.dumps(members, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    at_once = said(body, content_type=content_type)
    assert at_once == said(b" " + body, content_type=content_type) == said(body + b" x", content_type=content_type)
