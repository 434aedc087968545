"""Each word is chosen once: nothing but `words` lists those of one kind, and everything that must know all of them does."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

import orjson
import pytest
import yaml

import forwarder
from forwarder import words
from forwarder.growlytics.contract import Refused, Violation
from forwarder.growlytics.outcome import Outcome
from forwarder.intake import answers, status_page
from forwarder.observing.telemetry import Telemetry
from forwarder.words import (
    CLOSE_REASONS,
    CODES,
    DEAD_REASONS,
    DROP_REASONS,
    HOLD_CAUSES,
    OUTCOMES,
    REFUSAL_REASONS,
    REQUEST_CODES,
    REQUEST_REFUSAL_REASONS,
    EventCode,
    RequestCode,
)

PACKAGE: Final = Path(next(iter(forwarder.__path__)))
KINDS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(get_args(value)) for name, value in vars(words).items() if get_origin(value) is Literal
}
TUPLES: Final[Mapping[str, tuple[str, ...]]] = {
    name: value for name, value in vars(words).items() if isinstance(value, tuple)
}
MAX_LISTED: Final = 2
"""Of one kind, elsewhere: two that are treated alike are no list."""


def lists_in(source: str, suffix: str) -> Iterator[tuple[int, list[str]]]:
    """Give each list of words in Python, JavaScript or YAML, with its line."""
    if suffix == ".py":
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.MatchOr):
                inner = node.patterns if isinstance(node, ast.MatchOr) else node.elts
                parts = [each.value if isinstance(each, ast.MatchValue) else each for each in inner]
                found = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                yield node.lineno, found
    else:
        is_script = suffix == ".js"
        # `type: [string, number]` is JSON Schema's own.
        for listed in re.finditer(r"(?<!type: )\[[^\[\]]*\]|(?:^ *- [a-z_]+\n)+", source, re.MULTILINE):
            found = re.findall(r'"([a-z_0-9]+)"' if is_script else r"[a-z_0-9]+", listed[0])
            yield source.count("\n", 0, listed.start()) + 1, found


def listed_again(source: str, suffix: str) -> list[str]:
    """Return, for each list of which most are words of one kind, and more of them than may be, its line and the kind."""
    return [
        f"{line}: {kind}"
        for line, found in lists_in(source, suffix)
        for kind, its_words in KINDS.items()
        if len(its_words.intersection(found)) > max(MAX_LISTED, len(found) / 2)
    ]


OWN: Final = {PACKAGE / "words.py", PACKAGE / "http" / "messages.py"}
"""The server knows nothing of ours; where what it says becomes one of our words, mypy compares them."""
SOURCES: Final = [
    path
    for path in sorted(PACKAGE.rglob("*"))
    if path.suffix in {".py", ".js", ".yaml"} and path not in OWN and "__pycache__" not in path.parts
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_but_the_module_of_words_lists_words_of_one_kind(path: Path) -> None:
    assert listed_again(path.read_text(encoding="utf-8"), path.suffix) == []


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        ('REASONS = ("rejected", "expired", "ambiguous")', ".py"),
        ('REASONS = {*OTHERS, "ambiguous", "rejected", "expired"}', ".py"),
        ('add(choices=["rejected", "expired", "ambiguous"])', ".py"),
        ('Reason = Literal["rejected", "expired", "ambiguous"]', ".py"),
        ('match reason:\n    case "rejected" | "expired" | "ambiguous":\n        pass', ".py"),
        ('const REASONS = ["rejected", "expired", "ambiguous"];', ".js"),
        ("reason: { enum: [rejected, expired, ambiguous] }", ".yaml"),
        ("enum:\n  - rejected\n  - expired\n  - ambiguous\n", ".yaml"),
    ],
)
def test_a_list_of_words_is_found_wherever_it_is(source: str, suffix: str) -> None:
    assert any(each.endswith(": DeadReason") for each in listed_again(source, suffix))


def test_what_has_a_text_for_each_word_is_no_list_of_them() -> None:
    assert listed_again('TEXTS = {"rejected": "", "expired": "", "ambiguous": ""}', ".py") == []


def test_every_tuple_holds_all_words_of_one_kind_each_once() -> None:
    assert len(TUPLES) >= 20
    for name, its_words in TUPLES.items():
        assert len(set(its_words)) == len(its_words), name
        assert frozenset(its_words) in KINDS.values(), name


def test_a_text_gets_the_words_that_it_names_as_json() -> None:
    assert words.put_into('a "{{DEAD_REASONS}}".b') == 'a ["rejected", "expired", "ambiguous"].b'
    with pytest.raises(KeyError):
        words.put_into('"{{NO_SUCH}}"')


# Names of classes


def classes_in(source: str) -> Iterator[tuple[str, bool]]:
    """Give the name of each class at the top of a module, and whether it is a Protocol."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)


def doubled(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that several classes have, with their modules; a Protocol and one other class may share theirs."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for module, source in sources.items():
        for name, is_protocol in classes_in(source):
            found.setdefault(name, []).append((module, is_protocol))
    return {
        name: [module for module, _ in each]
        for name, each in found.items()
        if len(each) > 2 or (len(each) == 2 and each[0][1] == each[1][1])
    }


def test_no_two_classes_share_a_name() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert doubled(sources) == {}


def test_two_classes_of_one_name_are_found_but_a_protocol_may_share_it_with_one_other() -> None:
    one, protocol = "class A(B):\n    pass", "class A(Protocol[B]):\n    pass"
    assert doubled({"a": one, "b": protocol}) == {}
    assert doubled({"a": one, "b": one}) == {"A": ["a", "b"]}
    assert doubled({"a": protocol, "b": protocol}) == {"A": ["a", "b"]}
    assert doubled({"a": one, "b": protocol, "c": one}) == {"A": ["a", "b", "c"]}


# Answers


def test_every_code_of_a_request_that_is_refused_as_a_whole_has_a_status_and_a_message_of_its_own() -> None:
    messages = set()
    for code in REQUEST_CODES:
        response = answers.refusal(code)
        content = orjson.loads(response.body)
        assert content.keys() == {"success", "code", "message", "errors"}
        assert content["success"] is False
        assert (content["code"], content["message"]) == (code, content["errors"][0]["message"])
        assert content["errors"] == [{"code": code, "field": None, "message": content["message"]}]
        assert 400 <= response.status < 600
        messages.add(content["message"])
    assert len(messages) == len(REQUEST_CODES)


@pytest.mark.parametrize(
    ("code", "status"),
    [("headers_too_large", 431), ("uri_too_long", 414), ("unsupported_transfer_encoding", 501), ("busy", 429)],
)
def test_what_is_refused_for_its_head_or_for_want_of_room_has_its_status(code: RequestCode, status: int) -> None:
    response = answers.refusal(code)
    assert response.status == status
    assert response.headers.get("Retry-After") == ("1" if code == "busy" else None)
    assert response.closes == (code != "busy")


@pytest.mark.parametrize("code", get_args(EventCode))
def test_every_code_of_an_event_has_one_status(code: EventCode) -> None:
    found = Refused((Violation(code, "name", "first"), Violation("empty", None, "second")))
    response = answers.violations(found)
    assert response.status == (400 if code == "malformed_json" else 422)
    content = orjson.loads(response.body)
    assert (content["code"], content["message"]) == (code, "first")
    assert [error["code"] for error in content["errors"]] == [code, "empty"]


def test_every_code_of_an_answer_is_that_of_an_event_or_of_a_request() -> None:
    assert set(CODES) == {*get_args(EventCode), *REQUEST_CODES}
    assert {*REFUSAL_REASONS, *REQUEST_REFUSAL_REASONS} == set(CODES)


# Documents


def test_the_openapi_document_has_the_words_and_no_placeholder() -> None:
    text = answers.document().body.decode()
    assert "{{" not in text
    schemas = yaml.safe_load(text)["components"]["schemas"]
    assert schemas["Code"]["enum"] == list(CODES)
    assert schemas["DeadLetter"]["properties"]["reason"]["enum"] == list(DEAD_REASONS)


def test_the_status_page_has_the_words_and_no_placeholder() -> None:
    text = status_page.own_page(asks_for_token=False).body.decode()
    assert "{{" not in text
    assert '["ready", "parked", "in_flight"].map' in text


# Telemetry


def test_the_telemetry_knows_every_word() -> None:
    telemetry = Telemetry()
    for cause in HOLD_CAUSES:
        telemetry.hold_started(cause, probe_in_seconds=1.0)
    for dropped in DROP_REASONS:
        telemetry.events_dropped(1, reason=dropped)
    for dead in DEAD_REASONS:
        telemetry.event_dead_lettered(1, reason=dead, status=None, name="n")
    for closed in CLOSE_REASONS:
        telemetry.connection_closed(closed)
    for refused in REFUSAL_REASONS:
        telemetry.events_refused(1, intake="http", reason=refused)
    assert telemetry.tally.refused == len(REFUSAL_REASONS)


def test_the_outcomes_are_named_like_their_classes() -> None:
    assert set(OUTCOMES) == {kind.__name__.lower() for kind in get_args(Outcome)}
