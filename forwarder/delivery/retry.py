"""When to try again: exponential backoff with full jitter, by tenacity.

Only its schedule is used. Its retrying loops would sleep inside a coroutine for each event, and cost every event that
succeeds at once a third of a post; here an event meets tenacity when it has failed, and then waits in the window.
"""

from typing import Final

from tenacity import RetryCallState, Retrying, wait_random_exponential

from forwarder.settings import DeliverySettings

_VERY_MANY_ATTEMPTS: Final = 1000


class RetrySchedule:
    """Delays between the attempts of one event: up to twice as long each time, from initial to max, times a random share."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._retrying = Retrying(
            wait=wait_random_exponential(multiplier=settings.retry_initial_seconds, max=settings.retry_max_seconds)
        )

    def delay_seconds(self, attempts: int) -> float:
        """Return how long to wait after `attempts` failed ones, 1 or more."""
        state = RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        state.attempt_number = attempts
        return self._retrying.wait(state)

    def rest_seconds(self) -> float:
        """Return how long an event rests for which there is no room among those that are retried: as after very many.

        So the same events are not tried over and over before those that never were; the rests end when there is room.
        """
        return self.delay_seconds(_VERY_MANY_ATTEMPTS)
