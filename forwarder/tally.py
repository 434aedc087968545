"""How many events came, and how many of them were kept out of the buffer.

Telemetry counts here whatever the intakes tell it of; the ledger of a buffer and the metrics read it. All of them run on
the event loop's thread. The numbers begin at 0 with the process and only rise.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts events. Within one turn of the event loop `received` is the sum of accepted, refused and duplicates."""

    received: int = 0
    """Events that reached an intake."""
    refused: int = 0
    """Those that an intake refused; the public name is `rejected`."""
    duplicates: int = 0
    """Those that repeated the key of an event accepted before."""
