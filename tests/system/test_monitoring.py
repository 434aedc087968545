"""Alert rules, runbook and dashboard: sound, complete, and about metrics and labels that a running daemon really has."""

import asyncio
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from forwarder.words import DROP_REASONS, FAILURE_KINDS, HOLD_CAUSES
from tests.documents import commands
from tests.system.processes import running_daemon
from tests.system.promql import (
    OF_THE_SCRAPE,
    RULE_TESTS,
    RULES,
    RUNBOOK,
    alerts,
    dashboard,
    grouping_labels,
    panel_targets,
    panels,
    selectors,
)
from tests.system.tools import needs

COLUMNS = 24
BY_PROMETHEUS = {"up", "ALERTS"}
RUNBOOK_BASE = "https://git.example/growlytics-forwarder"


async def promtool(*arguments: str) -> str:
    return await succeeds(needs("promtool"), *arguments)


async def succeeds(*command: str) -> str:
    """Run a tool, check that it found nothing wrong, and return what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    await promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


async def test_each_alert_fires_when_it_should() -> None:
    assert "SUCCESS" in await promtool("test", "rules", str(RULE_TESTS))


async def test_alertmanager_takes_the_documented_grouping(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(route:.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "alertmanager.yml"
    file.write_text(example, encoding="utf-8")
    await succeeds(needs("amtool"), "check-config", str(file))
    file.write_text(example.replace("group_by", "group_buy"), encoding="utf-8")
    with pytest.raises(AssertionError, match="group_buy"):
        await succeeds(needs("amtool"), "check-config", str(file))


def rule_tests(alert: str) -> Iterator[tuple[str, list[set[str]]]]:
    """Return the names of the tests of an alert, and which alerts fire at each time that they look at."""
    for test in yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]:
        if test["name"].split()[0] == alert.removeprefix("GrowlyticsForwarder"):
            yield (
                test["name"],
                [
                    set(re.findall(r"GrowlyticsForwarder\w+", str(looked["exp_samples"])))
                    for looked in test["promql_expr_test"]
                ],
            )


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_is_tested_explained_and_in_the_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    tests = list(rule_tests(name))
    assert any(" fires" in test and any(name in firing for firing in times) for test, times in tests)
    assert any(" does not" in test and all(name not in firing for firing in times) for test, times in tests)
    assert all(any(name in firing for firing in times) == (" fires" in test) for test, times in tests), (
        "the names of the tests say what they show"
    )
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook", "runbook_url"}
    text = RUNBOOK.read_text(encoding="utf-8")
    section = text.partition(f"\n### {name}\n")[2].partition("\n#")[0]
    assert all(f"**{word}**:" in section for word in ("Means", "Look at", "Do")), section


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_the_url_of_each_alert_leads_to_its_part_of_the_runbook(alert: dict[str, Any]) -> None:
    base, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert base == f"{RUNBOOK_BASE}/deploy/prometheus/README.md"
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(RUNBOOK)


async def test_the_base_of_the_urls_is_replaced_by_the_documented_command(tmp_path: Path) -> None:
    (command,) = (each for each in commands("deploy/prometheus/README.md") if each.startswith("sed "))
    (tmp_path / "rules.yml").write_text(RULES.read_text(encoding="utf-8"), encoding="utf-8")
    process = await asyncio.create_subprocess_shell(command, cwd=tmp_path)
    assert await process.wait() == 0
    changed = (tmp_path / "rules.yml").read_text(encoding="utf-8")
    assert RUNBOOK_BASE not in changed
    assert changed.count("https://git.company.example/team/forwarder/deploy/prometheus/README.md#") == len(alerts())


def test_the_alert_about_failing_attempts_has_words_for_every_kind() -> None:
    (alert,) = (each for each in alerts() if each["alert"] == "GrowlyticsForwarderAttemptsFailing")
    in_words = set(re.findall(r'eq \$labels\.kind "(\w+)"', alert["annotations"]["summary"]))
    assert in_words == set(FAILURE_KINDS)
    text = RUNBOOK.read_text(encoding="utf-8").partition("\n### What went wrong\n")[2].partition("\n### ")[0]
    assert in_words <= set(re.findall(r"(?m)^\| `(\w+)` \|", text)), "each has a row with its fix"


def test_every_way_to_lose_an_event_fires_the_alert_and_erasing_does_not() -> None:
    """An event that a person erased is not lost."""
    (alert,) = (each for each in alerts() if each["alert"] == "GrowlyticsForwarderEventsLost")
    for selector in selectors(alert["expr"]):
        watched = set(selector.labels.get("reason", "").split("|"))
        assert watched in ({""}, set(DROP_REASONS) - {"erased"})


def test_there_is_an_alert_for_every_cause_of_a_hold() -> None:
    causes = [
        selector.labels["cause"]
        for alert in alerts()
        for selector in selectors(alert["expr"])
        if selector.metric == "growlytics_forwarder_delivery_hold"
    ]
    assert sorted(causes) == sorted(HOLD_CAUSES)


def test_the_runbook_is_about_nothing_else() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    assert set(re.findall(r"GrowlyticsForwarder\w+", text)) == {alert["alert"] for alert in alerts()}


async def test_every_metric_label_and_value_that_is_asked_for_is_in_a_live_scrape(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, "http://127.0.0.1:9/track/event") as daemon:
        series = await daemon.metrics()
    live: dict[str, dict[str, set[str]]] = {}
    for each in series:
        name, _, labels = each.partition("{")
        known = live.setdefault(name, {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            known.setdefault(label, set()).add(value)
    asked = [
        (alert["alert"], alert["expr"], re.findall(r"\$labels\.(\w+)", str(alert["annotations"]))) for alert in alerts()
    ] + [(title, expression, re.findall(r"\{\{(\w+)\}\}", legend)) for title, expression, legend in panel_targets()]
    assert len(asked) > 60
    for title, expression, shown in asked:
        found = [each for each in selectors(expression) if each.metric not in BY_PROMETHEUS]
        assert found or any(each.metric in BY_PROMETHEUS for each in selectors(expression)), title
        for selector in found:
            assert selector.metric in live, title
            for label, value in selector.labels.items():
                if label not in OF_THE_SCRAPE:
                    assert set(value.split("|")) <= live[selector.metric].get(label, set()), (title, label)
        has = OF_THE_SCRAPE.union(*(live[each.metric] for each in found))
        assert grouping_labels(expression) | set(shown) <= has, title
    text = RUNBOOK.read_text(encoding="utf-8")
    assert set(re.findall(r"growlytics_forwarder_\w+", text)) <= set(live)


def test_a_selector_is_found_wherever_it_stands() -> None:
    expression = 'sum by (a, le) (rate(x_total{b="c",d=~"e|f"}[5m])) / on (g) y unless (z offset 10m) > Inf'
    found = {each.metric: each.labels for each in selectors(expression)}
    assert found == {"x_total": {"b": "c", "d": "e|f"}, "y": {}, "z": {}}
    assert grouping_labels(expression) == {"a", "le", "g"}


async def test_every_expression_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """As promtool checks rules, each is put into one."""
    rules = [{"record": f"a:{number}", "expr": target[1]} for number, target in enumerate(panel_targets())]
    rules += [{"record": "a:annotation", "expr": dashboard()["annotations"]["list"][0]["expr"]}]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    await promtool("check", "rules", "--lint=none", str(file))


def test_the_dashboard_is_laid_out_without_overlaps_and_each_panel_says_what_it_shows() -> None:
    everything = dashboard()["panels"]
    numbers = [panel["id"] for panel in everything]
    assert len(numbers) == len(set(numbers))
    taken = [(panel["title"], *(panel["gridPos"][side] for side in "xywh")) for panel in everything]
    for title, x, _, w, h in taken:
        assert 0 <= x < x + w <= COLUMNS, title
        assert h > 0, title
    for (one, x1, y1, w1, h1), (other, x2, y2, w2, h2) in combinations(taken, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1, (one, other)
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        assert "\n" not in panel["description"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}
        assert panel["type"] in ("stat", "timeseries")


def test_the_first_row_answers_whether_it_loses_anything_and_whether_it_keeps_up() -> None:
    everything = sorted(dashboard()["panels"], key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))
    rows = [number for number, panel in enumerate(everything) if panel["type"] == "row"]
    assert rows[0] == 0
    assert [everything[number]["title"] for number in rows] == [
        "Is it losing anything? Is it keeping up?", "Delivery", "Intake", "Buffer", "Holds", "Dead letters",
        "Attribute types", "Process",
    ]  # fmt: skip
    first = " ".join(target["expr"] for panel in everything[rows[0] + 1 : rows[1]] for target in panel["targets"])
    for metric in ("dropped_total", "evicted_total", "unaccounted", "accepted_total", "delivered_total", "oldest"):
        assert metric in first


def test_the_dashboard_lets_the_data_source_the_job_and_the_instance_be_chosen() -> None:
    variables = {each["name"]: each for each in dashboard()["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert dashboard()["uid"] == "growlytics-forwarder"
    assert dashboard()["id"] is None
