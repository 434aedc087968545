"""`attribute-types` and `lint --types`: the real commands, against the real endpoints."""

import asyncio
import json
import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from forwarder.attribute import Place
from forwarder.attribute_types import types_file
from forwarder.cli import main
from tests.fakes.attribute_events import event
from tests.fakes.attribute_type_daemon import AttributeTypeDaemon, attribute_type_daemon
from tests.fakes.commands import exit_code, finish, run, start

Capture = pytest.CaptureFixture[str]
FIXED = ("Buy", "Total")
CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("FORWARDER_", "GROWLYTICS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
async def daemon() -> AsyncIterator[AttributeTypeDaemon]:
    async with attribute_type_daemon(fixed={FIXED: "number"}) as running:
        yield running


async def attribute_types(daemon: AttributeTypeDaemon, *arguments: str) -> int:
    action, *others = arguments
    return await asyncio.to_thread(main, ["attribute-types", action, "--url", daemon.url, *others])


# list


async def test_list_shows_a_sorted_table_and_how_many_there_are(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.accept({"Price": 1, "Brand": "x"})
    daemon.accept({"Placed At": "2020-01-20"}, name="Add To Cart")
    daemon.accept({"Price": "x", "Total": "x"})
    daemon.accept({"Price": "x"})
    assert await attribute_types(daemon, "list") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "NAME         ATTRIBUTE  TYPE    FIRST SEEN            CONFLICTS\n"
        "Add To Cart  Placed At  date    2023-11-14T22:13:20Z          0\n"
        "Buy          Brand      string  2023-11-14T22:13:20Z          0\n"
        "Buy          Price      number  2023-11-14T22:13:20Z          2\n"
        "Buy          Total      number  fixed                         1\n"
        "1 fixed, 3 learned of at most 10000\n"
    )


async def test_list_says_when_no_more_are_learned(capsys: Capture) -> None:
    async with attribute_type_daemon(max_types=1) as daemon:
        assert await attribute_types(daemon, "list") == 0
        assert capsys.readouterr().out == "0 fixed, 0 learned of at most 1\n"
        daemon.accept({"Price": 1})
        assert await attribute_types(daemon, "list") == 0
        assert capsys.readouterr().out.endswith(
            "0 fixed, 1 learned of at most 1, so new types replace those seen once; raise contract.max_attribute_types\n"
        )


async def test_list_as_json_gives_nothing_but_one_object_a_line(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.accept({"\x9b31m\ud83d": 1})
    assert await attribute_types(daemon, "list", "--json") == 0
    out, err = capsys.readouterr()
    assert out.isascii()
    assert [json.loads(line)["attribute"] for line in out.splitlines()] == ["Total", "\x9b31m\ud83d"]
    assert err == "1 fixed, 1 learned of at most 10000\n"


async def test_a_name_cannot_play_with_the_terminal(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.accept({"\x1b[2J\n\u202e\ud83d": 1}, name="\x9b\r")
    assert await attribute_types(daemon, "list") == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert await attribute_types(daemon, "forget", "\x9b\r") == 0
    assert await attribute_types(daemon, "forget", "\x9b\r", "\x1b[2J") == 1
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())


async def test_list_and_export_follow_the_pages(tmp_path: Path, capsys: Capture) -> None:
    places: list[Place] = [(name, f"a{number:03}") for name in ("Buy", "View") for number in range(600)]
    file = tmp_path / "types.toml"
    async with attribute_type_daemon() as daemon:
        daemon.types.imported(dict.fromkeys(places, "number"))
        assert await attribute_types(daemon, "list", "--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(each["name"], each["attribute"]) for each in lines] == places
        assert len(daemon.asked) == 3
        assert await attribute_types(daemon, "export", str(file)) == 0
    assert types_file.read(file) == dict.fromkeys(places, "number")


async def test_what_comes_twice_is_listed_once(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    def entry(attribute: str, conflicts: int) -> dict[str, object]:
        return {"name": "n", "attribute": attribute, "type": "date", "conflicts": conflicts, "first_seen": 1}

    pages = iter(
        [
            {"max": 9, "next": "x", "types": [entry("a", 0), entry("b", 0)]},
            {"max": 9, "next": "y", "types": [entry("a", 1)]},
            {"max": 9, "next": None, "types": [entry("c", 0)]},
        ]
    )
    daemon.step = lambda _: web.json_response(next(pages))
    assert await attribute_types(daemon, "list", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["attribute"], each["conflicts"]) for each in lines] == [("a", 1), ("b", 0), ("c", 0)]
    assert daemon.asked[1:] == [f"GET /v1/attribute-types?after={each}" for each in ("x", "y")]


async def test_pages_without_an_end_are_told(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    entry = {"name": "n", "attribute": "a", "type": "date", "conflicts": 0, "first_seen": 1}
    daemon.step = lambda _: web.json_response({"max": 1, "next": "x", "types": [entry]})
    assert await attribute_types(daemon, "list") == 1
    assert "not like a growlytics-forwarder" in capsys.readouterr().err
    assert len(daemon.asked) == 2


# forget


async def test_forget_forgets_one_attribute_or_all_of_a_name(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.accept({"a": 1, "b": 1, "c": 1})
    assert await attribute_types(daemon, "forget", "Buy", "a") == 0
    assert capsys.readouterr() == ("forgot 1 type\n", "")
    assert set(daemon.learned()) == {("Buy", "b"), ("Buy", "c")}
    assert await attribute_types(daemon, "forget", "Buy") == 0
    out = capsys.readouterr().out
    assert "Buy: types in contract.types_file stay" in out
    assert out.endswith("forgot 2 types\n")
    assert daemon.learned() == {}


async def test_forget_of_what_was_not_learned_is_its_no(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.accept({"a": 1})
    assert await attribute_types(daemon, "forget", "buy", "a") == 1
    assert capsys.readouterr() == ("", "a of buy: no learned type was found (names are case-sensitive)\n")
    assert await attribute_types(daemon, "forget", "Buy", "Total") == 1
    out, err = capsys.readouterr()
    assert "types in contract.types_file stay" in out
    assert "no learned type was found" in err
    assert daemon.learned() == {("Buy", "a"): "number"}


# export and import


async def test_what_is_exported_is_what_types_file_and_import_read(
    daemon: AttributeTypeDaemon, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "types.toml"
    daemon.accept({"Price": 1, 'é"\\\n😀': "x", "At": "2020-01-20", "B.C": True})
    before = daemon.learned()
    assert await attribute_types(daemon, "export", str(file)) == 0
    assert capsys.readouterr() == ("", "exported 5 types\n")
    assert types_file.read(file) == before | {FIXED: "number"}
    daemon.types.forget("Buy", None)
    daemon.accept({"other": 1})
    assert await attribute_types(daemon, "import", str(file)) == 0
    assert capsys.readouterr().out == (
        "skipped 1 type that contract.types_file fixes\nimported 4 types, which replace all learned types\n"
    )
    assert daemon.learned() == before


async def test_export_to_standard_output_can_be_piped_to_import(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"Größe": 1})
    process = await start("attribute-types", "export", "--url", daemon.url)
    code, out, err = await finish(process)
    assert (code, err) == (0, "exported 2 types\n")
    assert out == '[Buy]\n"Größe" = "number"\nTotal = "number"\n'
    daemon.types.forget("Buy", None)
    code, said, err = await finish(await start("attribute-types", "import", "-", "--url", daemon.url), out.encode())
    assert (code, err) == (0, "")
    assert "imported 1 type," in said
    assert daemon.learned() == {("Buy", "Größe"): "number"}


async def test_export_leaves_out_what_toml_cannot_hold_and_says_so(
    daemon: AttributeTypeDaemon, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    daemon.accept({"a\ud800": 1, "b": 1})
    assert await attribute_types(daemon, "export") == 0
    out, err = capsysbinary.readouterr()
    assert types_file.parse(out, name="out") == {("Buy", "b"): "number", FIXED: "number"}
    assert err.decode() == (
        "left out 1 type: a name with lone surrogates cannot be written in TOML\nexported 2 types\n"
    )


async def test_an_export_that_cannot_be_written_is_its_no(
    daemon: AttributeTypeDaemon, tmp_path: Path, capsys: Capture
) -> None:
    assert await attribute_types(daemon, "export", str(tmp_path / "no" / "types.toml")) == 1
    assert "types.toml cannot be written: No such file or directory" in capsys.readouterr().err


async def test_a_bad_file_is_told_with_all_its_problems_and_nothing_is_asked(
    daemon: AttributeTypeDaemon, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "types.toml"
    file.write_text("[Buy]\na = 'int'\nb = 1\n")
    assert await attribute_types(daemon, "import", str(file)) == 78
    first, second = capsys.readouterr().err.splitlines()
    assert first == f'{file}: [Buy] a: must be "string", "number", "boolean" or "date", not "int"; is "number" meant?'
    assert second.endswith("in quotes")
    assert await attribute_types(daemon, "import", str(tmp_path / "absent")) == 78
    assert "cannot be read" in capsys.readouterr().err
    assert daemon.asked == []


# Daemons that answer otherwise


async def test_a_refusal_is_told_with_its_mend(daemon: AttributeTypeDaemon, capsys: Capture) -> None:
    daemon.allowed = False
    assert await attribute_types(daemon, "forget", "Buy") == 1
    err = capsys.readouterr().err
    assert "answered 401" in err
    assert "--token-file" in err
    daemon.allowed, daemon.disk_fails = True, True
    daemon.accept({"a": 1})
    assert await attribute_types(daemon, "forget", "Buy") == 1
    assert "buffer_unavailable" in capsys.readouterr().err


async def test_too_many_types_are_refused_with_the_setting_to_raise(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "types.toml"
    file.write_text("[Buy]\na = 'number'\nb = 'number'\n")
    async with attribute_type_daemon(max_types=1) as daemon:
        assert await attribute_types(daemon, "import", str(file)) == 1
    assert "contract.max_attribute_types" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"types": [7], "max": 1},
        {"types": [{}], "max": 1},
        {"types": [], "max": "1"},
        {"types": [], "max": 1, "next": "x"},
        {"types": [], "max": 1, "next": 7},
        *(
            {"max": 1, "types": [{"name": "n", "attribute": "a", "type": "date", "conflicts": 0, "first_seen": 1} | wrong]}
            for wrong in (
                {"name": 1}, {"attribute": None}, {"type": "Date"}, {"type": ["date"]}, {"conflicts": "0"},
                {"first_seen": None}, {"first_seen": 1e300}, {"first_seen": -1}, {"first_seen": "1"},
            )
        ),
    ],
)  # fmt: skip
async def test_what_no_forwarder_answers_is_told(daemon: AttributeTypeDaemon, content: object, capsys: Capture) -> None:
    daemon.step = lambda _: web.json_response(content)
    for arguments in (["list"], ["export"]):
        assert await attribute_types(daemon, *arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "not like a growlytics-forwarder" in err
    if content == {}:
        assert await attribute_types(daemon, "forget", "Buy") == 1
        assert "not like a growlytics-forwarder" in capsys.readouterr().err


def test_where_no_daemon_is_the_mend_is_told(capsys: Capture) -> None:
    assert main(["attribute-types", "list", "--url", "http://127.0.0.1:1"]) == 1
    assert "growlytics-forwarder run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["quux"], ["forget"], ["import"], ["list", "x"], ["forget", "a", "b", "c"]])
def test_wrong_usage_ends_with_64(arguments: list[str]) -> None:
    assert exit_code("attribute-types", *arguments) == 64


async def test_the_daemon_is_found_on_a_unix_socket(tmp_path: Path, capsys: Capture) -> None:
    path = str(tmp_path / "intake.sock")
    async with attribute_type_daemon(path) as daemon:
        daemon.accept({"a": 1})
        assert await asyncio.to_thread(main, ["attribute-types", "list", "--unix-socket", path]) == 0
    assert "1 learned" in capsys.readouterr().out


async def test_an_export_on_a_terminal_cannot_play_with_it(daemon: AttributeTypeDaemon) -> None:
    daemon.accept({"\x1b[2J\x9b\u202e": 1})
    ours, theirs = pty.openpty()
    process = await start("attribute-types", "export", "--url", daemon.url, stdout=theirs)
    code, _, _ = await finish(process)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert code == 0
    assert all(line.isprintable() for line in shown.splitlines())
    assert '"\\U0000001b[2J\\U0000009b\\U0000202e" = "number"' in shown


# lint --types


def test_lint_with_types_tells_every_attribute_of_another_type(tmp_path: Path) -> None:
    file = tmp_path / "events"
    lines = [
        event({"Price": "3", "Quantity": True, "New": 1}, name="Add To Cart"),
        event({"Price": 3, "Product Id": "x"}, name="Add To Cart"),
        event({"Price": "3"}, name="add to cart"),
        event({"Placed At": 3}, name="Order Placed"),
        b"{",
    ]
    file.write_bytes(b"\n".join(lines))
    code, out, err = run("lint", str(file), "--types", str(CONFIG / "types" / "shop.toml"))
    code_text = "(attribute_type_conflict)"
    shop, orders = ("but in Add To Cart events it must be", "but in Order Placed events it must be")
    *conflicts, malformed = out.splitlines()
    assert conflicts == [
        f"{file}:1: attributes.Price: the attribute is a string, {shop} a number {code_text}",
        f"{file}:1: attributes.Quantity: the attribute is a boolean, {shop} a number {code_text}",
        f"{file}:4: attributes.Placed At: the attribute is a number, {orders} a date {code_text}",
    ]
    assert malformed.startswith(f"{file}:5: ")
    assert malformed.endswith("(malformed_json)")
    assert code == 1
    assert err == f"{file}: 5 events, 3 violate the contract\n"


def test_lint_only_notes_a_date_for_another_string_once_for_each_attribute() -> None:
    lines = b"\n".join(
        [
            event({"Placed At": "soon", "Order Id": "2020-01-20"}, name="Order Placed"),
            event({"Placed At": "later"}, name="Order Placed"),
        ]
    )
    code, out, err = run("lint", "-", "--types", str(CONFIG / "types" / "shop.toml"), stdin=lines)
    assert (code, out) == (0, "")
    first, second, summary = err.splitlines()
    assert first.startswith("<stdin>:1: note: attributes.Placed At: the attribute is a string, but in")
    assert second.startswith("<stdin>:1: note: attributes.Order Id: the attribute is a date, but in")
    assert summary == "<stdin>: 2 events, 0 violate the contract"


def test_lint_without_types_compares_nothing() -> None:
    lines = event({"a": 1}) + b"\n" + event({"a": "x"})
    assert run("lint", "-", stdin=lines) == (0, "", "<stdin>: 2 events, 0 violate the contract\n")


def test_lint_with_a_bad_file_of_types_is_a_matter_of_configuration(tmp_path: Path) -> None:
    file = tmp_path / "types.toml"
    file.write_text("[Buy]\na = 'int'\nb = 'x'\n")
    code, out, err = run("lint", "-", "--types", str(file), stdin=event({}))
    assert (code, out) == (78, "")
    assert len(err.splitlines()) == 2
    assert run("lint", "-", "--types", str(tmp_path / "absent"), stdin=event({}))[0] == 78
