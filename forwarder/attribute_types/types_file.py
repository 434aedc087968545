"""The file in which a team fixes the types of attributes: `contract.types_file`, as `attribute-types export` writes it.

It is TOML with one table for each event name, and in it `attribute = "string"`, or `"number"`, `"boolean"`, `"date"`. Names
need quotes unless they consist of ASCII letters, digits, `_` and `-`. What is written is sorted, so that version control
shows what changed, and is read as the same types.
"""

import codecs
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forwarder.attribute import MAX_ATTRIBUTE_BYTES, is_nameable
from forwarder.growlytics.contract import MAX_NAME_UNITS
from forwarder.text import printable
from forwarder.words import ATTRIBUTE_TYPES, AttributeType

if TYPE_CHECKING:  # what it imports takes long, and `lint` does without
    from forwarder.attribute import Place

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_PROBLEMS: Final = 100
"""Of more problems, only the first are listed."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_TYPES: Final[Mapping[str, "AttributeType"]] = {each: each for each in ATTRIBUTE_TYPES}
_WORDS: Final = ", ".join(f'"{each}"' for each in ATTRIBUTE_TYPES[:-1]) + f' or "{ATTRIBUTE_TYPES[-1]}"'
_OTHER_WORDS: Final = {
    "str": "string", "text": "string", "varchar": "string",
    "int": "number", "integer": "number", "bigint": "number", "float": "number", "double": "number", "decimal": "number",
    "bool": "boolean", "flag": "boolean",
    "datetime": "date", "time": "date", "timestamp": "date",
}  # fmt: skip


class TypesFileError(Exception):
    """The file cannot be used. Each of `problems` says where it is and how to fix it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems: Final = problems


def read(path: str | Path) -> "dict[Place, AttributeType]":
    """Read a file. Raise TypesFileError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise TypesFileError([f"{printable(str(path), 500)}: {problem}"]) from None
    return parse(content, name=str(path))


def parse(content: bytes, *, name: str) -> "dict[Place, AttributeType]":
    """Read the content of a file, which problems call `name`. Raise TypesFileError."""
    try:
        document = _toml(content)
    except ValueError as error:
        raise TypesFileError([f"{printable(name, 500)}: {error}"]) from None
    types: dict[Place, AttributeType] = {}
    problems = _problems(document, types)
    if told := list(islice(problems, MAX_PROBLEMS)):
        more = sum(1 for _ in problems)
        told += [f"and {more} more problems"] if more else []
        raise TypesFileError([f"{printable(name, 500)}: {each}" for each in told])
    return types


def text(types: "Mapping[Place, AttributeType]") -> tuple[str, int]:
    """Return the content of a file with these types, and how many types it leaves out.

    It leaves out names with lone surrogates, which JSON can contain and TOML cannot.
    """
    fit = {place: kind for place, kind in types.items() if _is_fit(place[0]) and _is_fit(place[1])}
    tables = []
    for name, places in groupby(sorted(fit), key=lambda place: place[0]):
        lines = [f'{_key(attribute)} = "{fit[name, attribute]}"\n' for _, attribute in places]
        tables.append(f"[{_key(name)}]\n{''.join(lines)}")
    return "\n".join(tables), len(types) - len(fit)


def _toml(content: bytes) -> Mapping[str, object]:
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("is larger than 16 MiB, too large for a file of types")
    try:
        return tomllib.loads(content.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8, as TOML must be; look at byte {error.start}") from None
    except RecursionError:
        raise ValueError("is nested too deeply to be a file of types") from None
    except ValueError as error:  # TOMLDecodeError, which tells line and column; or a number of thousands of digits
        raise ValueError(f"is not TOML: {printable(str(error), 500)}") from None


def _problems(document: Mapping[str, object], types: "dict[Place, AttributeType]") -> Iterator[str]:
    """Yield the problems, and add the good types to `types`."""
    for name, table in document.items():
        where = f"[{_key(name, 60)}]"
        if not isinstance(table, dict):
            yield f"{_key(name, 60)}: must be a table, with the name of events, such as [{_key('Add To Cart')}]"
        elif not name:
            yield f"{where}: an event's name is not empty"
        elif _utf16_units(name) > MAX_NAME_UNITS:
            yield f"{where}: an event's name has fewer than 50 characters (UTF-16 code units)"
        else:
            for attribute, kind in table.items():
                if problem := _problem(name, attribute, kind):
                    yield f"{where} {_key(attribute, 60)}: {problem}"
                else:
                    types[name, attribute] = _TYPES[kind]


def _problem(name: str, attribute: str, kind: object) -> str | None:
    if isinstance(kind, dict):
        both = f"[{_key(f'{name}.{attribute}', 60)}]"
        return f"must be {_WORDS}, not a table; a name with a dot needs quotes, such as {both}"
    if not isinstance(kind, str):
        return f"must be {_WORDS}, in quotes"
    if kind not in _TYPES:
        guess = _guess(kind)
        return f"must be {_WORDS}, not {_key(kind, 60, is_bare=False)}" + (f'; is "{guess}" meant?' if guess else "")
    if not is_nameable(attribute):
        return f"is longer than {MAX_ATTRIBUTE_BYTES} bytes, beyond which attributes are not guarded; leave it out"
    return None


def _guess(word: str) -> str | None:
    word = word.strip().lower()
    import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

    close = difflib.get_close_matches(word, ATTRIBUTE_TYPES, n=1) if len(word) < 20 else []
    return _OTHER_WORDS.get(word) or (close[0] if close else None)


def _key(name: str, limit: int = 0, *, is_bare: bool = True) -> str:
    """Return a name as a key in TOML, escaped where it is not printable. With a limit it is for people, and cut."""
    cut = name if not limit or len(name) <= limit else name[: limit - 1] + "…"
    if is_bare and _BARE_KEY.fullmatch(cut):
        return cut
    return '"' + "".join(map(_character, cut)) + '"'


def _character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _is_fit(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _utf16_units(name: str) -> int:
    return len(name) + sum(character > "\uffff" for character in name)
