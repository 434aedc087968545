"""How many events came, and how many of them did not get into the buffer.

Telemetry counts here what the intakes report; the ledger and the metrics read it. All run on the event loop's thread. The
numbers start at 0 with the process and only rise.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts events. Within one turn of the event loop `received` is the sum of accepted, refused and duplicates."""

    received: int = 0
    """Events that reached an intake."""
    refused: int = 0
    """Events that an intake refused; the public name is `rejected`."""
    duplicates: int = 0
    """Events with the key of an event accepted before."""
