"""What the lines of a file of events are, and what is wrong with them."""

import io

import pytest

from forwarder.cli.lint import Line, UnreadableError, check_line, numbered_lines

GOOD = b'{"name":"n","customerId":"c","time":1700000000000,"attributes":{}}'


class BrokenFile(io.BytesIO):
    """Fails as a disk does."""

    def readline(self, _size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def lines(text: bytes, *, max_line_bytes: int = 1000) -> list[Line]:
    return list(numbered_lines(io.BytesIO(text), name="f", max_line_bytes=max_line_bytes))


def test_blank_lines_are_counted_and_hold_no_event() -> None:
    assert lines(b"\n  \r\na\r\n\n b \n") == [Line(3, b"a", 8), Line(5, b"b", 13)]


def test_the_last_line_needs_no_newline() -> None:
    assert lines(b"a\nb") == [Line(1, b"a", 2), Line(2, b"b", 3)]


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    assert lines(b"\xef\xbb\xbf{}\n") == [Line(1, b"{}", 6)]
    assert lines(b"\xef\xbb\xbf\n") == []
    joined = b"\xef\xbb\xbf{}\n \xef\xbb\xbf \n\xef\xbb\xbf1"
    assert lines(joined) == [Line(1, b"{}", 6), Line(3, b"1", 16)], "nor of a file that was put behind another"


@pytest.mark.parametrize("end", [b"", b"\n", b"\na"])
@pytest.mark.parametrize("length", [11, 19, 20, 21, 35])
def test_a_line_that_is_too_long_is_told_and_passed_over(length: int, end: bytes) -> None:
    first, *others = lines(b"x" * length + end, max_line_bytes=10)
    assert first == Line(1, None, length + (end != b""))
    assert others == ([Line(2, b"a", length + 2)] if end == b"\na" else [])


def test_a_line_as_long_as_is_allowed_is_whole() -> None:
    assert lines(b"x" * 9 + b"\ny", max_line_bytes=10) == [Line(1, b"x" * 9, 10), Line(2, b"y", 11)]
    assert lines(b"x" * 10, max_line_bytes=10) == [Line(1, b"x" * 10, 10)]


def test_a_file_that_cannot_be_read_on_is_told_by_its_name() -> None:
    with pytest.raises(UnreadableError, match="cannot read f: Input/output error"):
        list(numbered_lines(BrokenFile(), name="f"))


def test_a_good_event_has_nothing_wrong() -> None:
    assert check_line(Line(1, GOOD, 0)) == []


def test_all_that_is_wrong_with_a_line_is_told_with_field_and_code() -> None:
    messages = check_line(Line(1, b'{"name":"","customerId":7,"time":1700000000000}', 0))
    assert [message.partition(":")[0] for message in messages] == ["customerId", "name", "attributes"]
    assert [message.rpartition(" ")[2] for message in messages] == ["(wrong_type)", "(empty)", "(missing_field)"]


@pytest.mark.parametrize("text", [b"[" + GOOD + b"]", b"[", b"[1,"])
def test_an_array_is_told_how_to_become_lines(text: bytes) -> None:
    (message,) = check_line(Line(1, text, 0))
    assert message.endswith("(not_an_object)")
    assert "jq -c '.[]'" in message


@pytest.mark.parametrize(
    ("text", "code"), [(b"{", "malformed_json"), (b"7", "not_an_object"), (None, "body_too_large")]
)
def test_what_is_no_event_at_all_is_told_without_a_field(text: bytes | None, code: str) -> None:
    (message,) = check_line(Line(1, text, 0))
    assert message.endswith(f"({code})")


def test_the_name_of_an_attribute_cannot_play_with_the_terminal() -> None:
    (message,) = check_line(Line(1, GOOD.replace(b"{}", b'{"\\u001b[2J":null}'), 0))
    assert message.isprintable()
    assert "\\x1b[2J" in message
