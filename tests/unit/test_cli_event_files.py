"""Files of events: JSON by lines, as an array or over several lines, plain or gzip, in pieces of any size, and damaged."""

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterable
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.event_files import TOO_LONG, Entry, UnreadableError, entries

BOM = b"\xef\xbb\xbf"


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def __init__(self, content: bytes, piece_bytes: int = 1) -> None:
        super().__init__(content)
        self._piece_bytes = piece_bytes

    def read1(self, _size: int | None = -1, /) -> bytes:
        return super().read1(self._piece_bytes)


class BrokenFile(io.BytesIO):
    """Fails as a disk does, after its content."""

    def read1(self, _size: int | None = -1, /) -> bytes:
        if piece := super().read1(5):
            return piece
        raise OSError(5, "Input/output error")


def split(content: bytes, *, max_event_bytes: int = 1000) -> list[Entry]:
    """Return the entries, which are the same however the content comes."""
    found = list(entries(io.BytesIO(content), name="f", max_event_bytes=max_event_bytes))
    assert list(entries(Pipe(content), name="f", max_event_bytes=max_event_bytes)) == found
    return found


def texts(found: Iterable[Entry]) -> list[tuple[int, bytes | None]]:
    return [(entry.number, entry.text) for entry in found]


def error(content: bytes, *, max_event_bytes: int = 1000) -> str:
    with pytest.raises(UnreadableError) as broken:
        list(entries(io.BytesIO(content), name="f", max_event_bytes=max_event_bytes))
    return str(broken.value)


# One event a line


def test_blank_lines_are_counted_and_hold_no_event() -> None:
    found = split(b"\n  \r\na\r\n\n b \n")
    assert texts(found) == [(3, b"a"), (5, b"b")]
    assert [entry.end_bytes for entry in found] == [8, 13]


def test_the_last_line_needs_no_newline() -> None:
    assert texts(split(b"a\nb")) == [(1, b"a"), (2, b"b")]


def test_a_byte_order_mark_is_no_part_of_an_event_nor_is_that_of_a_file_that_was_put_behind_another() -> None:
    assert texts(split(BOM + b"{}\n")) == [(1, b"{}")]
    assert split(BOM + b"\n") == []
    assert texts(split(BOM + b"{}\n " + BOM + b" \n" + BOM + b"1")) == [(1, b"{}"), (3, b"1")]
    assert texts(split(BOM + b"[{}]")) == [(1, b"{}")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\na"])
@pytest.mark.parametrize("length", [11, 19, 20, 21, 35])
def test_a_line_that_is_too_long_is_told_and_passed_over(length: int, end: bytes) -> None:
    first, *others = split(b"x" * length + end, max_event_bytes=10)
    assert (first.number, first.text, first.fault) == (1, None, TOO_LONG)
    assert texts(others) == ([(2, b"a")] if end == b"\na" else [])


def test_a_line_as_long_as_is_allowed_is_whole() -> None:
    assert texts(split(b"x" * 10 + b"\ny", max_event_bytes=10)) == [(1, b"x" * 10), (2, b"y")]
    assert texts(split(b"x" * 10, max_event_bytes=10)) == [(1, b"x" * 10)]


@pytest.mark.parametrize(
    "line", [b'{"a": "x', b'{"a": 1', b'{"a": 1}}', b'{"a": 1}{"b": 2}', b'{"a": 1},', b"garbage", b"}", b'{"a": "}"}']
)
def test_a_line_that_is_no_json_is_judged_for_itself(line: bytes) -> None:
    first, second, *others = split(b'{"z": 0}\n' + line + b'\n{"b": 2}\n{"c": 3}\n')
    assert (first.number, second.number, len(others)) == (1, 2, 2)
    assert texts(others) == [(3, b'{"b": 2}'), (4, b'{"c": 3}')]
    assert second.text == line or (second.fault is not None and "is broken at line 3" in second.fault.message)


# Over several lines, and in arrays

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(['{"', "}\\", "[", "]\n", ",:"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=5)


@given(OBJECTS, st.sampled_from([None, 0, 2, "\t"]), st.booleans(), st.booleans(), st.integers(1, 50), st.booleans())
def test_however_events_are_written_and_read_they_are_found_where_they_are(
    objects: list[dict[str, object]],
    indent: int | str | None,
    is_array: bool,
    is_gzip: bool,
    piece_bytes: int,
    has_returns: bool,
) -> None:
    if is_array:
        content = json.dumps(objects, indent=indent)
    else:
        content = "\n".join(json.dumps(each, indent=indent) for each in objects)
    raw = content.replace("\n", "\r\n" if has_returns else "\n").encode()
    found = list(entries(Pipe(gzip.compress(raw) if is_gzip else raw, piece_bytes), name="f"))
    assert [json.loads(entry.text or b"") for entry in found] == objects
    assert [json.loads(entry.on_one_line) for entry in found] == objects
    for entry in found:
        assert entry.text is not None
        line = raw.split(b"\n")[entry.number - 1]
        assert line[entry.column :].startswith(entry.text.partition(b"\n")[0].rstrip(b"\r"))


def test_events_on_one_line_are_counted() -> None:
    found = split(b'[{"a":1},{"b":2}]\n[{"c":3}]')
    assert [entry.where for entry in found] == ["line 1", "line 1, event 2", "line 2"]


@pytest.mark.parametrize("content", [b"[]", b"[ ]\n", b" [\n]", b"[][]", b""])
def test_an_empty_array_has_no_events(content: bytes) -> None:
    assert split(content) == []


def test_what_is_no_object_in_an_array_is_found_too() -> None:
    assert texts(split(b'[1, "a,]", [2], null,\n{}]')) == [
        (1, b"1"), (1, b'"a,]"'), (1, b"[2]"), (1, b"null"), (2, b"{}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"a":1},\n]', "cannot read f beyond line 2: an event is missing after a comma of the array"),
        (b'[{"a":1},,{}]', "cannot read f beyond line 1: an event is missing after a comma of the array"),
        (b'[{"a":1}\n{"b":2}]', "cannot read f beyond line 2: a comma is missing between two events of the array"),
        (
            b'[\n{"a":1}',
            "cannot read f beyond line 2: the array that begins at line 1 has no end: was the file cut off?",
        ),
        (
            b'[\n{"a":\n1',
            "cannot read f beyond line 3: the event that begins at line 2 is broken: the file ends within it",
        ),
        (b'[{"a":"x\n"}]', "beyond line 1: the event that begins at line 1 is broken: a string has no end on its line"),
        (b'[{"a":[1}]', "is broken: a bracket is closed that was not opened"),
        (b"[" * 200, "is broken: it is nested more than 100 levels deep"),
        (b'[{"a":"' + b"x" * 2000 + b'"}]', "is broken: it is longer than 0 MiB, which no daemon accepts"),
    ],
)
def test_an_array_that_is_broken_ends_the_reading_with_the_line_and_the_reason(content: bytes, why: str) -> None:
    assert why in error(content)


def test_an_object_that_is_broken_over_lines_is_told_once_and_the_next_one_is_found() -> None:
    first, second, third = split(b'{\n  "a": "x,\n  "b": {\n    "c": 1\n  }\n}\n{\n"d": 2}\n{"e": 3}')
    assert first.text is None
    assert first.fault is not None
    assert (first.number, first.fault.code) == (1, "malformed_json")
    assert (
        first.fault.message == "the JSON object that begins here is broken at line 2: a string has no end on its line"
    )
    assert texts([second, third]) == [(7, b'{\n"d": 2}'), (9, b'{"e": 3}')]


def test_commas_between_objects_without_an_array_are_told_and_the_objects_found() -> None:
    found = split(b'{\n"a": 1\n},\n{\n"b": 2\n}, {"c": 3}')
    assert [json.loads(entry.text) for entry in found if entry.text] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert [(entry.number, entry.fault.code) for entry in found if entry.fault] == [
        (3, "malformed_json"),
        (6, "malformed_json"),
    ]


# Files that cannot be read on


def test_a_file_that_cannot_be_read_on_is_told_by_its_name_and_the_line() -> None:
    with pytest.raises(UnreadableError, match=r"^cannot read f: Input/output error$"):
        list(entries(BrokenFile(), name="f"))
    with pytest.raises(UnreadableError, match=r"^cannot read f beyond line 3: Input/output error$"):
        list(entries(BrokenFile(b"a\nb\nc"), name="f"))


@pytest.mark.parametrize(
    ("magic", "fix"),
    [
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; inflate it first"),
        (b"BZh9", "compressed with bzip2"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\xff\xfe{\x00", "UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_is_something_else_is_told_what_to_do(magic: bytes, fix: str) -> None:
    assert fix in error(magic + b"rest")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_archive_is_told_what_to_do(mode: Literal["w", "w:gz"]) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode=mode) as archive:
        member = tarfile.TarInfo("events/today.ndjson")
        member.size = 8
        archive.addfile(member, io.BytesIO(b'{"a": 1}'))
    assert "it is a tar archive, of several files; name the one to read: `tar -xOf FILE NAME |" in error(
        whole.getvalue()
    )
    looks_like_one = b'{"a": "%b"}' % b"ustar".rjust(255)
    assert texts(split(looks_like_one)) == [(1, looks_like_one)]


def test_a_file_that_only_begins_like_something_else_is_read() -> None:
    assert texts(split(b"B")) == [(1, b"B")]
    assert texts(split(b"P\nBZ")) == [(1, b"P"), (2, b"BZ")]


# gzip

LINES = b"".join(b'{"number": %d}\n' % number for number in range(1000))


@pytest.mark.parametrize(
    "content",
    [gzip.compress(LINES), gzip.compress(LINES[:5000]) + gzip.compress(LINES[5000:]) + bytes(700)],
    ids=["one", "two and padding"],
)
@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
def test_gzip_is_inflated_wherever_it_comes_from(content: bytes, piece_bytes: int) -> None:
    found = list(entries(Pipe(content, piece_bytes), name="f"))
    assert [entry.text for entry in found] == LINES.splitlines()
    assert found[-1].end_bytes <= len(content)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_gzip_that_is_cut_off_is_told_with_the_last_line_and_no_half_event_is_found(share: float) -> None:
    content = gzip.compress(LINES)
    found: list[Entry] = []
    with pytest.raises(UnreadableError) as broken:
        found.extend(entries(io.BytesIO(content[: int(len(content) * share)]), name="f"))
    assert "its gzip data has no end: the file was cut off" in str(broken.value)
    assert [entry.text for entry in found] == LINES.splitlines()[: len(found)]
    assert (f"beyond line {len(found) + 1}:" in str(broken.value)) is bool(found)


@pytest.mark.parametrize("at", [20, 1000, -6])
def test_gzip_that_is_damaged_is_told(at: int) -> None:
    content = bytearray(gzip.compress(LINES))
    content[at] ^= 0xFF
    assert "its gzip data is " in error(bytes(content))


def test_gzip_that_is_followed_by_something_else_is_told() -> None:
    assert "beyond line 1001: its gzip data is followed by something else" in error(gzip.compress(LINES) + b"{}\n")


def bomb(pattern: bytes, times: int) -> bytes:
    """Return gzip that inflates to more than anybody has."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(compressor.compress(pattern) for _ in range(times)), compressor.flush()])


@pytest.mark.parametrize("pattern", [b"\0" * 2**20, b"\n" * 2**20, b" " * 2**20], ids=["zeros", "newlines", "spaces"])
@pytest.mark.parametrize("before", [b"", b'{\n"a"\n,{\n'], ids=["at once", "after a broken event"])
def test_gzip_that_inflates_to_very_much_without_an_event_is_not_read_to_its_end(before: bytes, pattern: bytes) -> None:
    file = io.BytesIO(bomb(before + pattern, 1) + 30 * bomb(pattern, 10))
    with pytest.raises(UnreadableError, match="more than 1 MiB of it are no event"):
        list(entries(file, name="f", max_event_bytes=2**20))
    assert file.tell() < len(file.getvalue()) * 0.9
