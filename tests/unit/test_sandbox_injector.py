"""What happens to one request."""

from collections import Counter
from random import Random

import pytest

from forwarder.sandbox.faults import NO_FAULTS, SHARES, Action, Decision, FaultInjector, Faults, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def injector(faults: Faults, *, seed: int = 1, clock: Clock | None = None) -> FaultInjector:
    return FaultInjector(faults, random=Random(seed), clock=clock or Clock())


def decisions(subject: FaultInjector, requests: int) -> list[Decision]:
    return [subject.decide() for _ in range(requests)]


def test_without_faults_every_request_is_served_at_once() -> None:
    assert set(decisions(injector(NO_FAULTS), 100)) == {Decision(Action.SERVE, 200, 0)}


@pytest.mark.parametrize("name", SHARES)
def test_each_share_leads_to_its_own_action(name: str) -> None:
    shares: dict[str, float] = {name: 1}
    subject = injector(NO_FAULTS)
    subject.faults = Faults(**shares)  # type: ignore[arg-type] # the names are those of numbers
    wanted = Action[{"fail_rate": "FAIL", "hang_rate": "HANG"}.get(name, name.removesuffix("_rate").upper())]
    assert {decision.action for decision in decisions(subject, 100)} == {wanted}


def test_shares_are_shares_of_all_requests() -> None:
    subject = injector(Faults(fail_rate=0.5, hang_rate=0.25, reset_after_store_rate=0.125))
    drawn = Counter(decision.action for decision in decisions(subject, 8000))
    assert drawn[Action.FAIL] == pytest.approx(4000, abs=200)
    assert drawn[Action.HANG] == pytest.approx(2000, abs=200)
    assert drawn[Action.RESET_AFTER_STORE] == pytest.approx(1000, abs=200)
    assert drawn[Action.SERVE] == pytest.approx(1000, abs=200)


def test_failures_have_the_one_status_or_the_statuses_by_their_weights() -> None:
    one = injector(Faults(fail_rate=1, fail_status=502))
    assert {decision.status for decision in decisions(one, 10)} == {502}
    several = injector(Faults(fail_rate=1, fail_status=502, fail_statuses={500: 1, 429: 3, 404: 0}))
    drawn = Counter(decision.status for decision in decisions(several, 4000))
    assert drawn.keys() == {500, 429}
    assert drawn[429] == pytest.approx(3000, abs=200)


def test_the_same_seed_draws_the_same_again_and_another_does_not() -> None:
    faults = Faults(fail_rate=0.5, hang_rate=0.2, jitter_ms=10)
    first = decisions(injector(faults, seed=7), 50)
    assert decisions(injector(faults, seed=7), 50) == first
    assert decisions(injector(faults, seed=8), 50) != first


def test_jitter_is_added_to_the_latency_uniformly() -> None:
    delays = [decision.delay_seconds for decision in decisions(injector(Faults(latency_ms=20, jitter_ms=10)), 2000)]
    assert 0.020 <= min(delays) < 0.0205
    assert 0.0295 < max(delays) <= 0.030
    assert sum(delays) / len(delays) == pytest.approx(0.025, abs=0.001)


def test_when_down_every_request_fails_whatever_else_is_set() -> None:
    subject = injector(Faults(down=True, hang_rate=1, rate_limit_per_second=1, latency_ms=20))
    assert set(decisions(subject, 10)) == {Decision(Action.FAIL, 503, 0.02)}


def test_above_the_rate_limit_requests_get_429_until_time_has_passed() -> None:
    clock = Clock()
    subject = injector(Faults(rate_limit_per_second=100), clock=clock)
    assert [decision.action for decision in decisions(subject, 11)] == [Action.SERVE] * 10 + [Action.LIMIT]
    assert subject.decide().status == 429
    clock.now += 0.025
    assert [decision.action for decision in decisions(subject, 3)] == [Action.SERVE, Action.SERVE, Action.LIMIT]


def test_a_change_of_other_faults_does_not_fill_the_bucket() -> None:
    subject = injector(Faults(rate_limit_per_second=1))
    assert subject.decide().action is Action.SERVE
    subject.faults = Faults(rate_limit_per_second=1, latency_ms=1)
    assert subject.decide().action is Action.LIMIT
    subject.faults = Faults(rate_limit_per_second=2)
    assert subject.decide().action is Action.SERVE


@pytest.mark.parametrize("rate_per_second", [0.5, 3, 250])
def test_the_bucket_lets_the_rate_pass_and_no_more(rate_per_second: float) -> None:
    bucket = TokenBucket(rate_per_second, now=0)
    passed = sum(bucket.take(step / 1000) for step in range(10_000))
    burst = max(1, rate_per_second / 10)
    assert 10 * rate_per_second <= passed <= 10 * rate_per_second + burst
