"""What the benchmark concludes from what it measured."""

import json
import os
from pathlib import Path

import pytest

from forwarder.growlytics.contract import Conforming, check
from tests.bench import catalogue, low_rates, sampled, size
from tests.bench.comparisons import Figure, Goal, alternate
from tests.bench.events import event
from tests.bench.report import Report, put_into


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.3, "met"), (1.31, "missed; within the limit"), (1.5, "missed; within the limit"), (1.51, "**missed**")],
)
def test_a_goal_is_met_up_to_itself_and_a_limit_kept_up_to_itself(value: float, verdict: str) -> None:
    assert Goal(1.3, 1.5).verdict(value) == verdict


def test_where_more_is_better_less_is_missed() -> None:
    goal = Goal(1, more_is_better=True)
    assert [goal.verdict(value) for value in (0.99, 1.0, 2.0)] == ["**missed**", "met", "met"]


def test_a_ratio_is_the_median_of_those_of_each_pair_and_not_of_the_medians() -> None:
    figure = Figure("cost", "µs", [10, 20, 90], "other", [5, 40, 30], Goal(1.9, 2.5))
    assert figure.ratios == [2.0, 0.5, 3.0]
    assert figure.as_json()["median"] == 2.0
    assert figure.as_json()["verdict"] == "missed; within the limit"
    assert "**2.00** (0.50–3.00)" in str(figure)


async def test_pairs_alternate_and_every_other_one_runs_backwards() -> None:
    order: list[str] = []

    async def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = await alternate("order", {"a": lambda: measure("a"), "b": lambda: measure("b")}, pairs=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_run_that_shared_the_machine_is_marked_and_says_with_which_figures() -> None:
    report = Report(others={"quiet": 0.02, "loud": 0.4})
    text = " ".join(report.markdown().split())
    assert "**A noisy run**: while 1 of 2" in text
    assert "40% with loud" in text
    assert report.as_json()["noisy"] is True
    assert Report(others={"quiet": 0.02}).as_json()["noisy"] is False


def test_what_is_not_installed_is_said_not_to_be_measured() -> None:
    text = " ".join(Report(not_found={"fluent-bit/64/0ms/plain": "fluent-bit"}).markdown().split())
    assert "as fluent-bit was not found: fluent-bit/64/0ms/plain" in text


def test_the_tables_in_the_document_are_replaced_and_the_rest_of_it_is_kept() -> None:
    document = "before\n<!-- what make bench found -->\nold\n<!-- end of what make bench found -->\nafter\n"
    changed = put_into(document, "new")
    assert changed == document.replace("old", "new")
    with pytest.raises(AssertionError, match="has no"):
        put_into("no marks", "new")


def test_every_main_row_exists() -> None:
    entries = catalogue.catalogue()
    assert {name for name, entry in entries.items() if entry.main} >= catalogue.MAIN_ROWS


def test_another_checkout_is_compared_with_where_one_is_named(tmp_path: Path) -> None:
    assert catalogue.catalogue()["batches"].missing == "another checkout (BASE)"
    assert not catalogue.catalogue(tmp_path)["batches"].missing


def test_a_name_chooses_itself_what_begins_with_it_and_what_it_matches() -> None:
    entries = catalogue.catalogue()
    assert catalogue.chosen(entries, "resting") == ["resting"]
    assert len(catalogue.chosen(entries, "growth")) == 4
    assert all(name.endswith("50ms/tls") for name in catalogue.chosen(entries, "*/50ms/tls"))
    assert catalogue.chosen(entries, "nothing") == []
    assert set(catalogue.chosen(entries, "table")) <= {name for name, entry in entries.items() if entry.main}


@pytest.mark.parametrize("attributes", [1, 7, 50])
def test_the_events_keep_the_contract_at_every_size(attributes: int) -> None:
    body = json.loads(event(10_003, attributes=attributes))
    assert isinstance(check(body), Conforming)
    assert len(body["attributes"]) == attributes
    assert body["customerId"].endswith("-3")


def test_where_more_is_better_the_limit_is_the_least() -> None:
    goal = Goal(1.2, 1.0, more_is_better=True)
    assert str(goal) == "≥ 1.2, at least 1"
    assert [goal.verdict(value) for value in (0.9, 1.0, 1.2)] == ["**missed**", "missed; within the limit", "met"]


def test_the_switches_of_each_thread_of_a_process_are_counted() -> None:
    assert sum(low_rates.switches_by_thread(os.getpid()).values()) > 0


def test_lines_and_files_of_a_package_are_counted(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "one.py").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "room" / "two.py").write_text("c\n", encoding="utf-8")
    assert [figure.values for figure in size.count(tmp_path)] == [[3], [2]]


def test_a_profile_counts_a_function_once_a_sample_and_tells_what_it_does_itself() -> None:
    shown = sampled.table("main;walk;walk 3\nmain 1\n")
    assert "| `main` | 100.0% | 25.0% |" in shown
    assert "| `walk` | 75.0% | 75.0% |" in shown


def test_a_profile_leaves_out_threads_that_wait_for_work_and_what_started_the_program() -> None:
    waits = "bootstrap (threading.py:1);_run (forwarder/host/threads.py:110) 9\n"
    works = "bootstrap (threading.py:1);_run (forwarder/host/threads.py:110);commit 1\n"
    shown = sampled.table(f"{waits}{works}main;Runner.run (asyncio/runners.py:86);walk 3\n")
    assert "| `walk` | 75.0% | 75.0% |" in shown
    assert "| `commit` | 25.0% | 25.0% |" in shown
    assert "`main`" not in shown
