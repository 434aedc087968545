"""Events for what is about their attributes."""

import json

from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, check


def event(attributes: object, name: str = "Buy") -> bytes:
    """Return an event with these attributes, given as JSON or as what becomes JSON."""
    text = attributes if isinstance(attributes, str) else json.dumps(attributes)
    return f'{{"name": {json.dumps(name)}, "customerId":"c","time":1700000000000, "attributes": {text}}}'.encode()


def conforming(body: bytes) -> Conforming:
    """Check it as intake does; it must be good."""
    checked = check(json_text.parse(body))
    assert isinstance(checked, Conforming)
    return checked
