"""The file of fixed types: what is written is read as the same, and all that is wrong is told at once."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.attribute import Place, is_nameable
from forwarder.attribute_types.types_file import MAX_FILE_BYTES, MAX_PROBLEMS, TypesFileError, parse, read, text
from forwarder.words import AttributeType

CONFIG = Path(__file__).parents[2] / "config"
SHOP: dict[Place, AttributeType] = {("Add To Cart", "Price"): "number", ("Add To Cart", "Product Id"): "string"}

TRICKY = st.text('"\\[]{}=.#\n\r\t\x00\x1b\x7f\x9b\u2028\u202e é😀a', max_size=8)
NAMES = (TRICKY | st.text(max_size=20)).filter(lambda name: 0 < len(name.encode("utf-16-le", "surrogatepass")) <= 98)
ATTRIBUTES = (TRICKY | st.text(max_size=40)).filter(is_nameable)
KINDS = st.sampled_from(["string", "number", "boolean", "date"])
TYPES = st.dictionaries(st.tuples(NAMES, ATTRIBUTES), KINDS, max_size=8)
SURROGATES = st.characters(categories=["Cs"])


def problems(content: str | bytes) -> list[str]:
    with pytest.raises(TypesFileError) as raised:
        parse(content.encode() if isinstance(content, str) else content, name="types.toml")
    assert all(problem.startswith("types.toml: ") for problem in raised.value.problems)
    assert all(problem.isprintable() for problem in raised.value.problems)
    return [problem.removeprefix("types.toml: ") for problem in raised.value.problems]


@given(TYPES)
def test_what_is_written_is_read_as_the_same_whatever_the_names(types: dict[Place, AttributeType]) -> None:
    written, left_out = text(types)
    assert left_out == 0
    assert parse(written.encode(), name="f") == types
    assert all(line.isprintable() for line in written.splitlines())


@given(TYPES, st.lists(st.tuples(NAMES, SURROGATES, st.booleans()), max_size=4))
def test_names_that_toml_cannot_hold_are_left_out_and_counted(
    types: dict[Place, AttributeType], bad: list[tuple[str, str, bool]]
) -> None:
    unfit = {(name + bad, "a") if first else (name, "a" + bad) for name, bad, first in bad}
    written, left_out = text(types | dict.fromkeys(unfit, "number"))
    assert left_out == len(unfit)
    assert parse(written.encode(), name="f") == types


def test_the_order_is_that_of_the_names_so_that_a_change_is_seen_alone() -> None:
    one = text(SHOP)[0]
    assert one == '["Add To Cart"]\nPrice = "number"\n"Product Id" = "string"\n'
    assert text(dict(reversed(SHOP.items())))[0] == one
    assert text(SHOP | {("A", "x"): "date"})[0] == '[A]\nx = "date"\n\n' + one
    assert text({}) == ("", 0)


def test_a_byte_order_mark_is_no_part_of_the_file() -> None:
    assert parse(b"\xef\xbb\xbf[A]\nx = 'date'\n", name="f") == {("A", "x"): "date"}


def test_an_empty_file_fixes_nothing() -> None:
    assert parse(b"# nothing yet\n[A]\n", name="f") == {}


def test_case_is_kept() -> None:
    assert parse(b"[A]\nx = 'date'\nX = 'number'\n[a]\nx = 'string'", name="f") == {
        ("A", "x"): "date",
        ("A", "X"): "number",
        ("a", "x"): "string",
    }


def test_every_problem_is_told_at_once_each_with_its_place() -> None:
    found = problems(
        f"""
        top = "number"
        [ok]
        a = "number"
        b = "Number"
        c = "int"
        d = "boolaen"
        e = "quux"
        f = 3
        "{"g" * 257}" = "string"
        [{"n" * 50}]
        a = "number"
        [""]
        a = "number"
        [two.three]
        x = "string"
        """
    )
    words = 'must be "string", "number", "boolean" or "date"'
    assert found == [
        'top: must be a table, with the name of events, such as ["Add To Cart"]',
        f'[ok] b: {words}, not "Number"; is "number" meant?',
        f'[ok] c: {words}, not "int"; is "number" meant?',
        f'[ok] d: {words}, not "boolaen"; is "boolean" meant?',
        f'[ok] e: {words}, not "quux"',
        f"[ok] f: {words}, in quotes",
        f'[ok] "{"g" * 59}…": is longer than 256 bytes, beyond which attributes are not guarded; leave it out',
        f'["{"n" * 50}"]: an event\'s name has fewer than 50 characters (UTF-16 code units)'.replace('"', ""),
        '[""]: an event\'s name is not empty',
        f'[two] three: {words}, not a table; a name with a dot needs quotes, such as ["two.three"]',
    ]


def test_of_very_many_problems_the_first_are_told_and_the_others_counted() -> None:
    found = problems("[A]\n" + "".join(f"a{number} = 1\n" for number in range(MAX_PROBLEMS + 5)))
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == "and 5 more problems"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[A]\nx = number\n", "is not TOML: "),
        ("[A]\nx = 'date'\nx = 'date'\n", "is not TOML: "),
        ("[A]\n[A]\n", "is not TOML: "),
        ("[A]\nx = " + "9" * 5000, "is not TOML: "),
        ("[A]\nx = '\x1b[2J'\n", "is not TOML: "),
        ("x = " + "[" * 100_000, "is nested too deeply"),
        (b"# caf\xe9\n", "is not UTF-8, as TOML must be; look at byte 5"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than 16 MiB"),
    ],
)
def test_a_file_that_is_no_toml_is_told_as_a_whole(content: str | bytes, part: str) -> None:
    (problem,) = problems(content)
    assert part in problem


@pytest.mark.parametrize("name", ["absent", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TypesFileError, match="cannot be read") as raised:
        read(tmp_path / name)
    assert raised.value.problems[0].isprintable()


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "types.toml"
    head = b"[A]\nx = 'date'\n"
    file.write_bytes(head + b"#" * (MAX_FILE_BYTES - len(head)))
    assert read(file) == {("A", "x"): "date"}
    with file.open("ab") as more:
        more.write(b"#")
    with pytest.raises(TypesFileError, match="16 MiB"):
        read(file)


def test_the_sample_file_is_read_and_knows_the_documented_example() -> None:
    types = read(CONFIG / "types" / "shop.toml")
    assert types["Add To Cart", "Price"] == "number"
    assert set(tomllib.loads((CONFIG / "types" / "shop.toml").read_text())) == {"Add To Cart", "Order Placed"}
