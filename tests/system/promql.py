"""The alert rules and the dashboard of `deploy/`, and what their expressions ask for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"
RULE_TESTS: Final = DEPLOY / "prometheus" / "rules_test.yml"
RUNBOOK: Final = DEPLOY / "prometheus" / "README.md"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboard.json"

OF_THE_SCRAPE: Final = {"job", "instance"}
"""Labels that Prometheus adds."""
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\s*\{([^}]*)\}|(?!\s*\(|[\w:]))")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_WORDS: Final = {"and", "or", "unless", "offset", "bool", "Inf", "group_left", "group_right"}


@dataclass(frozen=True)
class Selector:
    """One place where an expression names a metric, and the values of labels that it names there."""

    metric: str
    labels: dict[str, str]


def selectors(expression: str) -> list[Selector]:
    """Return what an expression selects; enough of the language for those written here."""
    bare = re.sub(r"\[[^]]*\]|\boffset\s+\w+", " ", _GROUPING.sub(" ", expression))
    return [
        Selector(name, dict(_MATCHER.findall(labels))) for name, labels in _SELECTOR.findall(bare) if name not in _WORDS
    ]


def grouping_labels(expression: str) -> set[str]:
    """Return the labels that it groups or joins by."""
    return {label for group in _GROUPING.findall(expression) for label in re.findall(r"\w+", group)}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something, that is, without the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_targets() -> Iterator[tuple[str, str, str]]:
    """Return each panel's title, expression as Grafana would send it, and legend."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], as_sent(target["expr"]), target["legendFormat"]


def as_sent(expression: str) -> str:
    for variable, value in (("$__rate_interval", "10s"), ("$__range", "1m"), ("$job", ".*"), ("$instance", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression
