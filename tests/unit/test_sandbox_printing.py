"""What `sandbox --print` shows of an event, and that an output that nobody reads holds up nobody."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from forwarder.sandbox.printing import MAX_WAITING_BYTES, Arrival, EventPrinter, described

PIPE_BYTES = 65536
OK = b'{"success":true}'


def arrival(body: bytes, status: str = "200", answer: bytes = OK) -> Arrival:
    return Arrival(1700000000.1239, status, body, answer)


def event(**fields: object) -> bytes:
    whole = {"customerId": "c-1", "name": "Add To Cart", "time": 1, "attributes": {"Price": 4531}}
    return json.dumps(whole | fields).encode()


def shown(body: bytes, status: str = "200", answer: bytes = OK) -> str:
    line = described(arrival(body, status, answer))
    assert line.isprintable()
    assert line.startswith("22:13:20.123Z  ")
    return line.removeprefix("22:13:20.123Z  ")


def test_a_line_has_status_customer_name_and_attributes_with_every_digit() -> None:
    head = b'{ "name": "Add To Cart",\n"customerId":"c-1","time":1,"attributes":'
    body = head + b'{\n "n": 1.10, "A b": "x  y\\" z",\r\n"i":123456789012345678901 } }'
    assert shown(body) == '200  c-1  Add To Cart  {"n":1.10,"A b":"x  y\\" z","i":123456789012345678901}'


def test_what_is_wrong_is_shown_behind_the_event() -> None:
    answer = (
        b'{"success":false,"errors":[{"code":"wrong_type","field":"time","message":"m"},{"code":"empty","field":null}]}'
    )
    assert shown(event(), "422", answer) == '422  c-1  Add To Cart  {"Price":4531}  (wrong_type: time, empty)'
    assert shown(event(), "hangs", b"") == 'hangs  c-1  Add To Cart  {"Price":4531}'


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"customerId": 12}, "12  Add To Cart"),
        ({"customerId": "12"}, '"12"  Add To Cart'),
        ({"customerId": ""}, '""  Add To Cart'),
        ({"customerId": None}, "null  Add To Cart"),
        ({"customerId": {"a": [1, 2]}}, '{"a":[1,2]}  Add To Cart'),
        ({"customerId": "a  b"}, '"a  b"  Add To Cart'),
        ({"customerId": "x\x1b[31m\u202e"}, "x\\x1b[31m\\u202e  Add To Cart"),
        ({"name": "商品 é"}, "c-1  商品 é"),
    ],
)
def test_a_value_of_any_kind_is_told_from_others_and_from_a_column(fields: dict[str, object], text: str) -> None:
    assert shown(event(**fields)) == f'200  {text}  {{"Price":4531}}'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "400"),
        (b"not \x1b json\n", "400  not \\x1b json\\n"),
        (b"[1, 2]", "400  [1, 2]"),
        (b"\xff\xfe", "400  \ufffd\ufffd"),
        (b"{}", "400  null  null"),
        (b'{"attributes":null}', "400  null  null  null"),
        (b"[" * 100_000, "400  " + "[" * 299 + "…"),
    ],
)
def test_a_body_that_is_no_event_is_shown_as_it_came(body: bytes, text: str) -> None:
    assert shown(body, "400", b"") == text


def test_a_large_or_deeply_nested_event_is_cut() -> None:
    for value in ("x" * 500_000, list(range(100_000))):
        assert len(shown(event(attributes={"a": value}))) < 400
    deep = b'{"customerId":"c","name":"n","attributes":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    assert len(shown(deep)) < 400


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test may have closed it
            os.close(end)


def test_events_are_written_in_order_and_all_before_it_is_closed(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    printer = EventPrinter(writing)
    for number in range(100):
        printer.show(arrival(event(customerId=f"c-{number}")))
    printer.close()
    printer.close()
    lines = os.read(reading, PIPE_BYTES).decode().splitlines()
    assert [line.split("  ")[2] for line in lines] == [f"c-{number}" for number in range(100)]


def test_an_output_that_nobody_reads_holds_up_nobody_and_what_is_left_out_is_counted(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    printer = EventPrinter(writing)
    body = event(attributes={"filler": "x" * 1000})
    most = 2 * MAX_WAITING_BYTES // len(body)
    for _ in range(most):
        printer.show(arrival(body))
    shown_lines = lost = 0
    with os.fdopen(os.dup(reading), encoding="utf-8") as output:
        for line in output:
            if line.startswith("... "):
                lost = int(line.split()[1])
                break
            shown_lines += 1
    assert lost > 0
    assert shown_lines + lost == most
    printer.close()


def test_an_output_whose_reader_has_left_ends_it_quietly(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    printer = EventPrinter(writing)
    before = threading.active_count()
    while threading.active_count() == before:
        printer.show(arrival(event()))
    printer.show(arrival(event()))
    printer.close()


def test_a_close_does_not_wait_for_an_output_that_nobody_reads(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    printer = EventPrinter(writing)
    for _ in range(1000):
        printer.show(arrival(event(attributes={"filler": "x" * 1000})))
    printer.close()


def test_an_output_that_another_process_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    printer = EventPrinter(writing)
    for _ in range(1000):
        printer.show(arrival(event(attributes={"filler": "x" * 1000})))
    with os.fdopen(os.dup(reading), encoding="utf-8") as output:
        assert sum(1 for _, _ in zip(range(1000), output, strict=False)) == 1000
    printer.close()
