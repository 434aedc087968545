"""The journey of one event, as the package's docstring tells it, goes through code that exists."""

import re
from functools import reduce
from importlib import import_module

import pytest

import forwarder

STOPS = re.findall(r"`([a-z_.]+):([A-Za-z_.]+)`", forwarder.__doc__ or "")


@pytest.mark.parametrize(("module", "name"), STOPS)
def test_every_stop_of_the_journey_is_in_the_code(module: str, name: str) -> None:
    assert callable(reduce(getattr, name.split("."), import_module(f"forwarder.{module}")))


def test_the_journey_leads_from_the_request_to_the_ack() -> None:
    modules = [module.partition(".")[0] for module, _ in STOPS]
    assert modules[0] == "http"
    assert [*dict.fromkeys(modules)] == ["http", "intake", "growlytics", "buffer", "delivery", "app", "observing"]
