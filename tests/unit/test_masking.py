"""What is hidden in texts that are passed on."""

import json
from urllib.parse import quote

import pytest

from forwarder.masking import MASK, Masking

SECRETS = ("sk-1.2+3(4", 'a\\b"c$d^e', "pässwörd", "sk-1.2+3(4-longer")


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_hidden_wherever_it_is(secret: str) -> None:
    masking = Masking(SECRETS)
    for spelt in (secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), repr(secret)[1:-1]):
        assert masking.text(f"key={spelt};{spelt}") == f"key={MASK};{MASK}"
    assert masking.value({secret: [secret, {"deep": (f"x{secret}y", 1, None, True)}]}) == {
        MASK: [MASK, {"deep": [f"x{MASK}y", 1, None, True]}]
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("proxy http://user:pw@proxy:3128 refused", f"proxy http://{MASK}@proxy:3128 refused"),
        ("http://user@proxy", f"http://{MASK}@proxy"),
        ("http://a:b@c@proxy/x", f"http://{MASK}@proxy/x"),
        ('"https://dc.growlytics.in/track?key=abc"', f'"https://dc.growlytics.in/track?{MASK}"'),
        ("nats://u:p@one:4222,nats://u:p@two:4222", f"nats://{MASK}@one:4222,nats://{MASK}@two:4222"),
        ("https://dc.growlytics.in/track/event", "https://dc.growlytics.in/track/event"),
        ("mail me@example.com", "mail me@example.com"),
    ],
)
def test_users_passwords_and_queries_of_urls_are_hidden(text: str, shown: str) -> None:
    assert Masking().text(text) == shown


def test_a_very_short_secret_is_not_hidden_as_words_would_lose_their_letters() -> None:
    assert Masking(["a", "", "log"]).text("the log") == "the log"


def test_long_texts_take_no_long_time() -> None:
    hostile = "http://" * 20_000 + "a" * 200_000 + "@" * 1000
    assert Masking(["secret"]).text(hostile)
