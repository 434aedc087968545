"""Rule 5, what was stored, and the counters."""

from typing import Any

import orjson

from forwarder.sandbox.store import RequestCounts, Store


def add(store: Store, attributes: dict[str, Any], *, name: str = "Add To Cart", customer: str = "c-1") -> bytes:
    event = {"customerId": customer, "name": name, "time": 1700000000000, "attributes": attributes}
    raw = orjson.dumps(event)
    store.add(raw, name, attributes, received_at=1e9)
    return raw


def store(max_events: int = 100) -> Store:
    return Store(max_events=max_events)


def test_an_event_is_kept_as_it_came() -> None:
    subject = store()
    raw = add(subject, {"Price": 4531})
    (event,) = subject.events()
    assert event.raw == raw
    assert (event.sequence, event.received_at, event.dropped) == (1, 1e9, ())
    assert (event.customer, event.name, event.time) == ("c-1", "Add To Cart", 1700000000000)
    assert event.attributes == {"Price": 4531}
    assert event.as_json() == {
        "sequence": 1,
        "received_at": 1e9,
        "customerId": "c-1",
        "name": "Add To Cart",
        "time": 1700000000000,
        "attributes": {"Price": 4531},
        "dropped": [],
        "raw": raw.decode(),
    }


def test_a_value_of_another_type_than_the_first_is_dropped_and_the_first_type_stays() -> None:
    subject = store()
    for value in (1, "1", True, 2.5):
        add(subject, {"Quantity": value, "Brand": "Nike"})
    events = subject.events()
    assert [event.attributes for event in events] == [
        {"Quantity": 1, "Brand": "Nike"},
        {"Brand": "Nike"},
        {"Brand": "Nike"},
        {"Quantity": 2.5, "Brand": "Nike"},
    ]
    assert [event.dropped for event in events] == [(), ("Quantity",), ("Quantity",), ()]
    assert subject.counters() == {"stored": 4, "stored_not_kept": 0, "attributes_dropped": 2}


def test_types_belong_to_the_event_name_and_to_the_case_of_the_attribute() -> None:
    subject = store()
    add(subject, {"Price": 1})
    add(subject, {"price": "one"})
    add(subject, {"Price": "one"}, name="Purchase")
    assert subject.counters()["attributes_dropped"] == 0


def test_a_date_is_a_string() -> None:
    subject = store()
    add(subject, {"Since": "2020-01-20T19:14:15.000Z"})
    add(subject, {"Since": "last winter"})
    assert subject.counters()["attributes_dropped"] == 0


def test_beyond_the_bound_events_are_counted_and_not_kept_and_still_define_types() -> None:
    subject = store(max_events=2)
    for _ in range(3):
        add(subject, {})
    add(subject, {"Price": 1})
    add(subject, {"Price": "one"})
    assert [event.sequence for event in subject.events()] == [1, 2]
    assert subject.counters() == {"stored": 5, "stored_not_kept": 3, "attributes_dropped": 1}


def test_pages_have_the_sequence_numbers_of_the_whole() -> None:
    subject = store()
    raws = [add(subject, {"Number": number}) for number in range(5)]
    assert [event.sequence for event in subject.events(offset=1, limit=2)] == [2, 3]
    assert [event.sequence for event in subject.events(offset=4)] == [5]
    assert subject.events(offset=9) == []
    assert subject.events(limit=0) == []
    assert subject.raw_texts(offset=3) == [raw.decode() for raw in raws[3:]]


def test_forgetting_forgets_types_too() -> None:
    subject = store()
    add(subject, {"Price": 1})
    subject.forget()
    assert subject.events() == []
    add(subject, {"Price": "one"})
    assert subject.counters() == {"stored": 1, "stored_not_kept": 0, "attributes_dropped": 0}
    assert subject.events()[0].sequence == 1


def test_counters_exist_from_the_start_and_know_the_peak() -> None:
    counters = RequestCounts()
    assert set(counters.as_dict().values()) == {0}
    for _ in range(3):
        counters.arrived()
    counters.left()
    counters.count("injected_503")
    now = counters.as_dict()
    assert (now["requests"], now["in_flight"], now["max_in_flight"], now["injected_503"]) == (3, 2, 3, 1)


def test_forgetting_counters_leaves_what_is_in_flight() -> None:
    counters = RequestCounts()
    for _ in range(3):
        counters.arrived()
    counters.left()
    counters.count("injected_503")
    counters.forget()
    now = counters.as_dict()
    assert (now["requests"], now["in_flight"], now["max_in_flight"]) == (0, 2, 2)
    assert "injected_503" not in now
