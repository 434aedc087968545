"""The README says what the code does: its tables, its example event, its commands."""

import argparse
import ast
import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from forwarder import admin
from forwarder.cli.commands import COMMANDS
from forwarder.growlytics.contract import Conforming, check
from forwarder.http.messages import Limits
from forwarder.http.reading import LARGE_BODY_BYTES
from forwarder.intake import answers
from forwarder.intake.bodies import EXEMPT_BYTES, WAIT_SECONDS
from forwarder.observing import base, delivery, intake, telemetry
from forwarder.words import REQUEST_REFUSAL_REASONS
from tests.docs import ROOT, TABLES, with_table

README = ROOT / "README.md"
DOCUMENTS = (
    "README.md",
    "config/README.md",
    "deploy/README.md",
    "deploy/clients/README.md",
    "deploy/prometheus/README.md",
    "tests/bench/README.md",
)

ONCE = {
    "settings_shown",
    "connections_capped",
    "attribute_types_unfixed",
    "daemon_started",
    "daemon_stopped",
    "daemon_described",
}
"""What the telemetry says once, at the start or at the end."""


@pytest.mark.parametrize("document", TABLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tables_of_settings_and_metrics_are_those_of_the_code(document: Path) -> None:
    assert document.read_text(encoding="utf-8") == with_table(document), "run: make docs"


def test_the_example_event_is_the_documented_one_and_is_accepted() -> None:
    text = README.read_text(encoding="utf-8")
    example = re.search(r"curl --json '(\{.*?\})' http://127.0.0.1:8920/track/event", text, re.DOTALL)
    assert example is not None
    event = json.loads(example[1])
    assert isinstance(check(event), Conforming)
    assert event["attributes"] == {
        "Product Id": "abcdef", "Product Name": "Orange BagPack", "Quantity": 3, "Price": 4531,
        "Discount": 0, "Brand": "Nike", "Category": "BagPack",
    }  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described_and_has_its_help(name: str) -> None:
    assert f"`{name}" in README.read_text(encoding="utf-8")
    module = import_module(f"forwarder.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert parser.format_help()


def test_the_fields_of_log_lines_are_named_but_for_the_ledger_and_what_is_said_once_at_the_start() -> None:
    source = ast.parse("\n".join(map(inspect.getsource, (base, delivery, intake, telemetry))))
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
    lines = [call for call in calls if getattr(call.func, "attr", "") == "write"]
    fields = {str(keyword.arg) for call in lines for keyword in call.keywords} - {"kind", "bug", "more", "None"}
    methods = [node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name not in ONCE]
    literals = [node for method in methods for node in ast.walk(method) if isinstance(node, ast.Dict)]
    fields |= {str(key.value) for each in literals for key in each.keys if isinstance(key, ast.Constant)} - {"fields"}
    text = README.read_text(encoding="utf-8")
    about_the_log = text[text.index("**The log**") : text.index("**The ledger**")]
    named = re.findall(r"`([a-z_]+)`", about_the_log)
    assert len(fields) > 20
    assert {field for field in fields if field not in named} == set()


def test_the_runbook_has_a_fix_and_the_status_for_each_reason_of_a_refused_request() -> None:
    runbook = (ROOT / "deploy/prometheus/README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"(?m)^\| (`[a-z_`, ]+`) \| ([0-9, ]+) \| (.+) \|$", section(runbook, "### Requests that are refused")
    )
    told = {
        reason: int(status)
        for reasons, statuses, _ in rows
        for reason, status in zip(re.findall("[a-z_]+", reasons), statuses.split(","), strict=True)
    }
    assert told == {reason: answers.refusal(reason).status for reason in REQUEST_REFUSAL_REASONS}


def test_the_limits_of_http_are_those_of_the_code() -> None:
    limits = Limits(head_seconds=1, body_seconds=1, answer_seconds=1)
    told = section((ROOT / "config/README.md").read_text(encoding="utf-8"), "## Limits of HTTP")
    for row in (
        f"| path and query | {limits.max_target_bytes // 1024} KiB |",
        f"| path, query and headers together | {limits.max_head_bytes // 1024} KiB, and {limits.max_headers} headers |",
        f"| time between two requests | {limits.idle_seconds:g} s |",
        f"any number; {limits.max_waiting_bytes // 1024} KiB of them wait for answers",
        f"| bodies over {LARGE_BODY_BYTES // 1024} KiB that are coming",
        f"waits for up to {WAIT_SECONDS:g} s, then 429 `busy`",
        f"Uncompressed ones under {EXEMPT_BYTES // 1024} KiB need no",
        f"is thrown away for up to {limits.lingering_seconds:g} s",
        f"but {admin.MAX_CONNECTIONS} connections of its own",
    ):
        assert row in told


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_heading_that_a_document_links_to_is_there(document: str) -> None:
    path = ROOT / document
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", path.read_text(encoding="utf-8")):
        target = path.parent / link if link else path
        assert target.exists(), link
        if heading:
            assert heading in headings(target), f"{link}#{heading}"


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next of its level or above."""
    level = heading.index(" ")
    return re.split(rf"(?m)^#{{2,{level}}} ", text[text.index(heading + "\n") + len(heading) :])[0]


def headings(document: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.*)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
