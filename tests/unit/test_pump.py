"""The pump and the workers, in virtual time: nothing waits that may go, whatever happens in between; and nothing spins."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Rejected, Retryable
from tests.fakes.posts import Attempt, ScriptedPost, network_error
from tests.fakes.virtual_time import in_virtual_time, now, turns
from tests.unit.test_delivery import delivering, failing, ordered

OUTCOMES: tuple[Outcome, ...] = (
    *(6 * (DELIVERED,)),
    network_error(),
    network_error(maybe_delivered=True),
    Rejected(400),
    Blocked(401, "key"),
    Blocked(403, "refusal"),
    Retryable("status_429", maybe_delivered=False, retry_after_seconds=0.3),
)
courses = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.sampled_from("abcde"), min_size=1, max_size=30)),
        st.tuples(st.just("use"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.floats(0.0, 0.05)),
        st.tuples(st.just("wait"), st.floats(0.0, 20.0)),
        st.tuples(st.just("new key"), st.none()),
        st.tuples(st.just("try soon"), st.none()),
    ),
    min_size=3,
    max_size=25,
)


@given(
    course=courses,
    seed=st.integers(0, 2**32),
    order=st.sampled_from(["customer", "none"]),
    commit_seconds=st.sampled_from([0.0, 0.01, 1.0]),
    rate_limit_per_second=st.sampled_from([0.0, 0.0, 20.0]),
    on_ambiguous=st.sampled_from(["retry", "dead_letter"]),
)
def test_everything_is_delivered_whatever_happens_meanwhile_and_nothing_spins(
    course: list[Any], seed: int, **settings: Any
) -> None:
    before = random.getstate()
    random.seed(seed)
    try:
        run_course(course, **settings)
    finally:
        random.setstate(before)


@in_virtual_time
async def run_course(course: list[Any], **settings: Any) -> None:
    good = False
    post = ScriptedPost(lambda _: DELIVERED if good else random.choice(OUTCOMES))
    async with delivering(
        post,
        max_concurrency=4,
        retry_seconds=(0.05, 1.0),
        probe_initial_seconds=0.05,
        probe_max_seconds=1.0,
        **settings,
    ) as running:
        most = 4

        def watch() -> None:
            post.seconds = random.choice([0.0, 0.01, 0.5])
            probes = bool(running.delivery.holds())  # one may go beside what was under way when the maximum was lowered
            assert post.on_wire <= most + probes, "more attempts at a time than allowed now"

        post.watch = watch
        for what, how in course:
            if what == "put":
                await running.put(running.make.of(how))
            elif what == "use":
                most = max(how, running.delivery.progress().attempting)
                running.delivery.use(attrs.evolve(running.settings, max_concurrency=how))
                while running.delivery.progress().attempting > how:
                    await asyncio.sleep(0.01)
                most = how
            elif what == "wait":
                await asyncio.sleep(how)
            elif what == "new key":
                running.delivery.use_new_key()
            else:
                running.delivery.try_soon()
        good = True
        if running.buffer.occupancy().events:
            await running.until_empty(seconds=600.0)
        await asyncio.sleep(100.0)
        before = turns()
        await asyncio.sleep(1000.0)
        assert turns() - before < 5, "it takes turns of the loop although there is nothing to do"


@in_virtual_time
async def test_a_lower_maximum_holds_from_the_next_attempt_on_and_a_higher_one_as_the_limiter_grows() -> None:
    post = ScriptedPost(seconds=1.0)
    async with delivering(post, max_concurrency=8) as running:
        await running.put(running.make.of("a" * 400))
        await running.until(lambda: post.on_wire == 8)
        running.delivery.use(attrs.evolve(running.settings, max_concurrency=2))
        await asyncio.sleep(1.1)
        post.most_on_wire = 0
        await asyncio.sleep(10.0)
        assert post.most_on_wire == 2
        running.delivery.use(attrs.evolve(running.settings, max_concurrency=16))
        await asyncio.sleep(30.0)
        assert post.most_on_wire == 16


@pytest.mark.parametrize("max_concurrency", [1, 3])
@in_virtual_time
async def test_customers_that_wait_have_their_turns_one_after_the_other(max_concurrency: int) -> None:
    post = ScriptedPost()
    async with delivering(post, max_concurrency=max_concurrency, order="customer") as running:
        customers = "a" * 60 + "bcdef" * 12
        events = await running.put(running.make.of(customers))
        await running.until_empty()
        customer_of = {event.id: event.customer for event in events}
        places = [place for place, event in enumerate(ordered(post.attempts)) if customer_of[event] == "f"]
        assert len(places) == 12
        assert max(later - earlier for earlier, later in pairwise(places)) <= 6 + max_concurrency


@in_virtual_time
async def test_a_bug_while_it_is_told_of_committed_acks_ends_serve_with_it() -> None:
    bad = True
    script = failing(*range(1, 41))
    post = ScriptedPost(lambda attempt: script(attempt) if bad else DELIVERED)
    async with delivering(post, retry_seconds=(5.0, 5.0)) as running:
        await running.put(running.make.of("a" * 40))
        await running.until(lambda: running.buffer.released)
        bug = running.buffer.bug_of_rests = RuntimeError("a bug")
        bad = False
        with pytest.raises(ExceptionGroup) as caught:
            await running.serving
        assert caught.value.exceptions == (bug,)


@in_virtual_time
async def test_an_attempt_that_is_due_while_all_workers_are_busy_starts_as_soon_as_one_is_not() -> None:
    def script(attempt: Attempt) -> Outcome:
        post.seconds = 10.0
        return network_error() if (attempt.event, attempt.number) == (1, 1) else DELIVERED

    post = ScriptedPost(script, seconds=0.01)
    async with delivering(post, max_concurrency=1, retry_seconds=(1.0, 1.0)) as running:
        await running.put(running.make.of("ab"))
        began = now()
        await running.until_empty()
        assert [attempt.event for attempt in post.attempts] == [1, 2, 1]
        assert post.attempts[2].began - began == pytest.approx(10.01, abs=0.02)
