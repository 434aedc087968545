"""The plain numbers show what prometheus_client's own counters, gauges and histograms would show, byte for byte."""

import re
from bisect import bisect_left
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from forwarder.observing.metrics import Numbers

BOUNDS = (0.005, 0.1, 1, 10)
PREFIX = "growlytics_forwarder"


def shown(registry: CollectorRegistry, generate: Callable[[CollectorRegistry], bytes]) -> str:
    """Return what is scraped, without the times at which counting began."""
    return re.sub(r"(_created(?:\{[^}]*\})?) [\d.e+]+", r"\1 0", generate(registry).decode())


@pytest.mark.parametrize("generate", [generate_latest, generate_openmetrics], ids=["text", "openmetrics"])
@given(
    counted=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10**9))),
    durations=st.lists(st.sampled_from(BOUNDS) | st.floats(0, 1e6)),
    level=st.floats(0, 1e12),
)
def test_a_scrape_shows_what_the_librarys_own_metrics_show(
    generate: Callable[[CollectorRegistry], bytes],
    counted: list[tuple[str, int]],
    durations: list[float],
    level: float,
) -> None:
    numbers = Numbers()
    ours, oracle = CollectorRegistry(), CollectorRegistry()
    ours.register(numbers)

    labelled = numbers.counts("posts", "Posts", "way", ("a", "b", "never"))
    pairs = numbers.counts("pairs", "Pairs", ("way", "kind"), [("a", "x"), ("b", "x")])
    plain = numbers.count("plain", 'All "of" them\nin sum')
    gauge = numbers.level("level_seconds", "A level")
    seconds = numbers.durations("wait_seconds", "Waits", BOUNDS)

    their_labelled = Counter(f"{PREFIX}_posts", "Posts", ("way",), registry=oracle)
    their_pairs = Counter(f"{PREFIX}_pairs", "Pairs", ("way", "kind"), registry=oracle)
    their_plain = Counter(f"{PREFIX}_plain", 'All "of" them\nin sum', registry=oracle)
    their_gauge = Gauge(f"{PREFIX}_level_seconds", "A level", registry=oracle)
    their_seconds = Histogram(f"{PREFIX}_wait_seconds", "Waits", buckets=BOUNDS, registry=oracle)
    for way in ("a", "b", "never"):
        their_labelled.labels(way)
    for way in ("a", "b"):
        their_pairs.labels(way, "x")

    for way, count in counted:
        labelled[way] += count
        their_labelled.labels(way).inc(count)
        pairs[way, "x"] += count
        their_pairs.labels(way, "x").inc(count)
        plain.value += count
        their_plain.inc(count)
    for each in durations:
        seconds.counts[bisect_left(BOUNDS, each)] += 1
        seconds.total += each
        their_seconds.observe(each)
    gauge.value = level
    their_gauge.set(level)

    assert shown(ours, generate) == shown(oracle, generate)


def test_a_word_that_is_no_label_is_a_bug_rather_than_a_new_series() -> None:
    labelled = Numbers().counts("posts", "Posts", "way", ("a", "b"))
    with pytest.raises(KeyError):
        labelled["c"] += 1
