"""What `diagnose` concludes from the status of a running daemon: whose fault it is, and whether anything is delivered."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from forwarder.cli.daemon_checks import DaemonFacts, check_daemon, check_key


def facts(
    answered: int | None,
    *,
    kind: str = "status",
    error: str = "an error",
    holds: Mapping[str, Any] | None = None,
    state: str = "not_delivering",
    suspects: int = 2,
) -> DaemonFacts:
    """Return what a daemon says that has delivered an event an hour ago, and whose last attempt failed."""
    now = time.time()
    failure = {"at": now - 1, "kind": kind, "status": answered, "error": error, "host": "h:443"}
    return DaemonFacts(
        {
            "state": "ready",
            "headline": {"state": state, "mood": "warn", "text": ""},
            "holds": holds or {},
            "delivery": {
                "attempts": {"delivered": 1},
                "last_delivery_at": now - 3600,
                "last_failure": failure,
                "suspects": {"events": suspects, "first": None},
            },
        }
    )


def key(found: DaemonFacts) -> tuple[str, str]:
    checked = check_key(found, has_key=True, fault="")
    return checked.result, checked.text


@pytest.mark.parametrize("holds", [{"auth": {"seconds": 1}}, {}])
def test_only_a_401_is_said_to_be_the_key(holds: Mapping[str, Any]) -> None:
    assert key(facts(401, holds=holds)) == ("fail", "Growlytics refuses the daemon's API key")
    for answered in (403, 404, 301):
        unknown = f"the daemon was answered {answered}, so whether the API key is accepted is not known"
        assert key(facts(answered, holds=holds)) == ("warn", unknown)


def test_an_attempt_that_did_not_reach_growlytics_says_nothing_of_the_key() -> None:
    paused = {"auth": {"seconds": 1}}
    for kind, answered in (("dns", None), ("proxy", 407)):
        result, text = key(facts(answered, kind=kind, error="no such host x", holds=paused))
        assert result == "warn"
        assert text == "no such host x: so whether the API key is accepted is not known"


def test_a_key_with_which_events_were_delivered_is_good_while_servers_fail_or_one_event_is_refused() -> None:
    assert key(facts(503))[0] == "ok"
    assert key(facts(429, suspects=0))[0] == "ok"
    assert key(facts(403, state="needs_attention"))[0] == "ok"


def test_a_daemon_that_does_not_deliver_fails_though_it_holds_nothing() -> None:
    def delivery(state: str) -> tuple[str, str]:
        (found,) = [each for each in check_daemon(facts(403, state=state), directory=None) if each.check == "delivery"]
        return found.result, found.text

    result, text = delivery("not_delivering")
    assert result == "fail"
    assert text.startswith(
        "nothing is delivered now; 1 event delivered since its start, the last 1 h ago; last failure "
    )
    assert delivery("needs_attention")[0] == "warn"
