"""The tables of settings and metrics in the documents, made from the code, and what Kubernetes needs of the alert rules.

`make docs` writes them; tests check them.
"""

import re
from pathlib import Path

from prometheus_client import Metric

from forwarder.observing.metrics import Gauges
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import reference
from forwarder.words import BUFFER_STATES

ROOT = Path(__file__).parent.parent
PREFIX = "growlytics_forwarder_"


def settings_table() -> str:
    rows = (
        f"| `{each.path}`{' ↻' if each.live else ''} | {f'`{each.default}`' if each.default else '–'} | {each.description} |"
        for each in reference()
    )
    return "\n".join(
        ("↻: taken up on SIGHUP; the others need a restart.\n", "| setting | default | |", "| --- | --- | --- |", *rows)
    )


def metrics_table() -> str:
    rows = [_row(metric) for metric in described_metrics() if metric.name.startswith(PREFIX)]
    return "\n".join((f"All begin with `{PREFIX}`.\n", "| metric | labels | |", "| --- | --- | --- |", *rows))


def described_metrics() -> list[Metric]:
    """Return every metric that a daemon shows, with all its series."""
    telemetry = Telemetry()
    gauges = Gauges(
        dict.fromkeys(BUFFER_STATES, 0),
        buffer_bytes=0,
        oldest_accepted_at=None,
        delivery_in_flight=0,
        concurrency_limit=1,
        holds=(),
        suspects=0,
        full_seconds=0.0,
        drain_seconds=0.0,
        unaccounted=0,
        dead_letters=0,
    )
    telemetry.daemon_described(loop="asyncio", max_events=1, max_bytes=1, read=lambda: gauges)
    return list(telemetry.registry.collect())


def _row(metric: Metric) -> str:
    name = metric.name.removeprefix(PREFIX) + ("_total" if metric.type == "counter" else "")
    values: dict[str, list[str]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in values.setdefault(label, []):
                values[label].append(value)
    shown = {label: " ".join(f"`{each}`" for each in each_values) for label, each_values in values.items()}
    if metric.name == f"{PREFIX}build_info":
        shown = dict.fromkeys(shown, "")
    labels = "; ".join(f"{label}: {each}" if each else label for label, each in shown.items())
    return f"| `{name}` | {labels or '–'} | {metric.documentation} |"


TABLES = {
    ROOT / "config" / "README.md": ("settings", settings_table),
    ROOT / "deploy" / "prometheus" / "README.md": ("metrics", metrics_table),
}


def with_table(document: Path) -> str:
    """Return a document's text with its table as it should be."""
    (name, table), text = TABLES[document], document.read_text(encoding="utf-8")
    start, end = f"<!-- {name}: written by make docs, checked by a test -->", f"<!-- end of {name} -->"
    assert text.count(start) == text.count(end) == 1
    return re.sub(f"(?s){re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{table()}\n{end}", text)


PROMETHEUS_RULE = ROOT / "deploy" / "kubernetes" / "monitoring" / "cluster" / "prometheus-rule.yaml"
_HEAD = """\
# Written by `make docs` out of prometheus/rules.yml, whose comments say what each alert is about. Change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: growlytics-forwarder
spec:
"""


def prometheus_rule() -> str:
    """Return the operator's manifest of the alert rules: Kustomize cannot put a file into a field."""
    text = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    groups = text[text.index("groups:\n") :]
    without_comments = re.sub(r"(?m)^ *#.*\n", "", groups)
    return _HEAD + re.sub(r"(?m)^(?=.)", "  ", without_comments)


if __name__ == "__main__":
    PROMETHEUS_RULE.write_text(prometheus_rule(), encoding="utf-8")
    for document in TABLES:
        document.write_text(with_table(document), encoding="utf-8")
