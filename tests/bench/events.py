"""The work: documented example events, told from each other, of so many customers and with so many attributes."""

import orjson

EVENTS = 100_000
CUSTOMERS = 10_000
ATTRIBUTES: dict[str, object] = {
    "Product Id": "abcdef",
    "Product Name": "Orange BagPack",
    "Quantity": 3,
    "Price": 4531,
    "Discount": 0,
    "Brand": "Nike",
    "Category": "BagPack",
}


def event(number: int, *, customers: int = CUSTOMERS, attributes: int = len(ATTRIBUTES)) -> bytes:
    """Return one as JSON: the documented one but for its customer, its time and, if need be, its number of attributes."""
    names = list(ATTRIBUTES)
    chosen = {f"{names[i % 7]} {i // 7}" if i >= 7 else names[i]: ATTRIBUTES[names[i % 7]] for i in range(attributes)}
    return orjson.dumps(
        {
            "name": "Add To Cart",
            "customerId": f"YOUR_APP_CUSTOMER_ID-{number % customers}",
            "time": 1_700_000_000_000 + number,
            "attributes": chosen,
        }
    )
