"""The locks on the door of TCP: which headers let a request in, and what a browser is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.intake.locks import AdminLock, Locks, may_be_unasked, preflight
from forwarder.settings import Address, IntakeSettings, Secret


def headers(*fields: tuple[str, str], host: str | None = "localhost:8920") -> dict[str, str]:
    """Return headers as the locks take them: names in lower case, values of one name joined."""
    joined: dict[str, str] = {}
    for name, value in (*([] if host is None else [("Host", host)]), *fields):
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


# Host


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8920", "LOCALHOST:1", "localhost:", "127.0.0.1", "127.0.0.1:65535"),
        *("[::1]", "[::1]:8920", "[0:0::1]:8920", "[0000:0000:0000:0000:0000:0000:0000:0001]", "10.1.2.3:8920"),
        *("localhost.", "localhost.:8920", "LocalHost.:", "127.0.0.1.", "127.0.0.1.:8920", "[::1%25lo]:8920", "[::0.0.0.1]"),
    ],
)  # fmt: skip
def test_a_host_that_is_allowed_is_let_in_in_whatever_spelling(host: str) -> None:
    assert Locks(IntakeSettings(http=Address("10.1.2.3", 8920))).refuse(headers(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", "evil.example", "evil.example:8920", "localhost.evil.example", "evil.localhost", "xlocalhost"),
        *("localhost..", ".localhost", ".", "..", "localhost.:8920.", "[::1.]", "[::1].", "::1", "localhost, localhost"),
        *("localhost,localhost", "[::1%]", "[%lo]", "localhost%00", "localhost%lo", "[::1%lo]evil", "[::1%a]b]"),
        *("localhost@evil.example", "evil.example@localhost", "localhost:8920:1", "localhost:port", ":8920"),
        *("127.0.0.1.evil.example", "127.0.0.2", "0.0.0.0", "0", "2130706433", "127.1", "0x7f.1", "[::1", "::1]", "[::2]"),
        *("[::1]evil", "[localhost]", "[]", "[::ffff:127.0.0.1]", "localhost,evil", "localhost evil", "localhost/", "*"),
        *("\udcff", "localhost\n"),
    ],
)  # fmt: skip
def test_another_host_is_refused(host: str) -> None:
    assert Locks(IntakeSettings()).refuse(headers(host=host)) == "forbidden_host"


def test_a_missing_or_repeated_host_is_refused_even_if_any_is_allowed() -> None:
    for settings in (IntakeSettings(), IntakeSettings(allowed_hosts=("*",))):
        for authority in (None, "localhost"):
            assert Locks(settings).refuse({}, authority=authority) == "forbidden_host"
            for other in ("localhost:8920", "evil.example", ""):
                doubled = headers(("host", other))
                assert Locks(settings).refuse(doubled, authority=authority) == "forbidden_host"


def test_any_host_can_be_allowed() -> None:
    locks = Locks(IntakeSettings(allowed_hosts=("*",)))
    assert locks.refuse(headers(host="evil.example:1")) is None
    assert locks.refuse(headers(host="")) == "forbidden_host"


def test_the_address_listened_at_is_a_host_of_its_own() -> None:
    for own, host in (
        *(("Forwarder", "forwarder:1"), ("0:0:0::5", "[::5]:1"), ("::1", "[::1]"), ("forwarder.", "forwarder:1")),
        *(("forwarder", "forwarder.:1"), ("fe80::1%eth0", "[fe80::1]:1"), ("fe80::1%eth0", "[fe80::1%25eth0]")),
    ):
        assert Locks(IntakeSettings(http=Address(own, 1), allowed_hosts=())).refuse(headers(host=host)) is None
    assert Locks(IntakeSettings(http=None, allowed_hosts=())).refuse(headers(host="127.0.0.1")) == "forbidden_host"


@pytest.mark.parametrize("allowed", ["forwarder.internal", "forwarder.internal.", "Forwarder.Internal."])
def test_a_name_is_allowed_with_and_without_the_dot_of_the_root(allowed: str) -> None:
    locks = Locks(IntakeSettings(allowed_hosts=(allowed,)))
    for host in ("forwarder.internal", "forwarder.internal.", "FORWARDER.internal.:8920"):
        assert locks.refuse(headers(host=host)) is None
    for host in (
        "forwarder.internal..",
        "forwarder",
        "internal",
        "forwarder.internal.evil.example",
        ".forwarder.internal",
    ):
        assert locks.refuse(headers(host=host)) == "forbidden_host"


def test_the_host_of_a_whole_url_counts_in_place_of_the_header() -> None:
    locks = Locks(IntakeSettings())
    assert locks.refuse(headers(), authority="localhost:1") is None
    assert locks.refuse(headers(), authority="evil.example") == "forbidden_host"
    assert locks.refuse(headers(host="evil.example"), authority="localhost") is None


# Origin

ORIGINS = ("https://shop.example", "http://localhost:3000")


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_that_is_allowed_is_let_in_and_answered(origin: str) -> None:
    locks = Locks(IntakeSettings(allowed_origins=ORIGINS))
    sent = headers(("Origin", origin))
    assert locks.refuse(sent) is None
    answer = locks.cors(sent)
    assert answer["Access-Control-Allow-Origin"] == origin
    assert answer["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "",
            "null",
            "http://shop.example",
            "https://shop.example:8443",
            "https://shop.example.",
            "https://shop.example/",
        ),
        *("https://evil.example", "https://shop.example.evil.example", "https://evilshop.example", "shop.example", "*"),
        *(
            "http://localhost",
            "http://localhost:30000",
            "https://localhost:3000",
            "https://shop.example,null",
            "file://",
        ),
        *(
            "https://shop.example https://evil.example",
            "http://127.0.0.1:8920",
            "https://shop.example:443:443",
            "\udcff",
        ),
        "http://localhost:3000:80",
    ],
)
def test_another_origin_is_refused_and_told_nothing(origin: str) -> None:
    for allowed in ((), ORIGINS):
        locks = Locks(IntakeSettings(allowed_origins=allowed))
        assert locks.refuse(headers(("Origin", origin))) == "forbidden_origin"
        assert locks.cors(headers(("Origin", origin))) == {}


def test_two_origins_are_refused_even_if_both_are_allowed() -> None:
    locks = Locks(IntakeSettings(allowed_origins=ORIGINS))
    sent = headers(*(("Origin", origin) for origin in ORIGINS))
    assert locks.refuse(sent) == "forbidden_origin"
    assert locks.cors(sent) == {}


def test_a_preflight_is_told_what_may_be_sent() -> None:
    sent = headers(("Origin", ORIGINS[0]), ("Access-Control-Request-Method", "POST"))
    answer = preflight(sent, "POST")
    assert answer["Access-Control-Allow-Methods"] == "POST"
    assert {"content-type", "idempotency-key", "authorization", "x-growlytics-key", "accept"} == set(
        answer["Access-Control-Allow-Headers"].split(", ")
    )
    assert int(answer["Access-Control-Max-Age"]) > 0
    assert "Access-Control-Allow-Private-Network" not in answer
    sent["access-control-request-private-network"] = "true"
    assert preflight(sent, "POST")["Access-Control-Allow-Private-Network"] == "true"


# Token


def guarded(token: str = "s3cret") -> Locks:
    return Locks(IntakeSettings(token=Secret(token), allowed_origins=ORIGINS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Growlytics-Key", "s3cret"),
        ("Authorization", "Bearer s3cret"),
        ("authorization", "bearer   s3cret "),
        ("AUTHORIZATION", "BEARER s3cret"),
    ],
)
def test_the_token_lets_in(name: str, value: str) -> None:
    assert guarded().refuse(headers((name, value))) is None
    wrong_too = headers(("x-growlytics-key", "wrong"), ("Authorization", "Basic eDp5"), (name, value))
    assert guarded().refuse(wrong_too) is None
    assert (
        guarded().refuse(headers((name, value), ("x-growlytics-key", "wrong"), ("Authorization", "Basic eDp5"))) is None
    )


def test_a_token_may_look_like_several_that_are_joined() -> None:
    locks = guarded("s3cret, or not")
    assert locks.refuse(headers(("x-growlytics-key", "s3cret, or not"))) is None
    assert locks.refuse(headers(("Authorization", "Bearer s3cret, or not"))) is None
    for part in ("s3cret", "or not", "or not, s3cret"):
        assert locks.refuse(headers(("x-growlytics-key", part))) == "unauthorized"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "s3cret"),
        ("X-Growlytics-Key", ""),
        ("X-Growlytics-Key", "S3cret"),
        ("X-Growlytics-Key", "s3cret "),
        ("X-Growlytics-Key", "s3cre"),
        ("X-Growlytics-Key", "Bearer s3cret"),
        ("X-Growlytics-Key", "s3cret\udcff"),
        ("X-Growlytics-Key", "ключ"),
        ("Authorization", "s3cret"),
        ("Authorization", "Basic s3cret"),
        ("Authorization", "Bearers3cret"),
        ("Authorization", "Bearer"),
        ("Authorization", "Bearer s3cret x"),
        ("X-Growlytics-Key", "s3cret,s3cret"),
        ("Authorization", "Bearer, s3cret"),
        ("Authorization", "Basic s3cret, s3cret"),
    ],
)
def test_anything_else_does_not(name: str, value: str) -> None:
    assert guarded().refuse(headers((name, value))) == "unauthorized"


def test_without_a_token_none_is_asked_for() -> None:
    locks = Locks(IntakeSettings())
    assert locks.refuse(headers(("x-growlytics-key", "anything"))) is None


def test_a_preflight_shows_no_token_but_must_come_from_an_allowed_origin() -> None:
    assert guarded().refuse(headers(("Origin", ORIGINS[0])), is_preflight=True) is None
    assert guarded().refuse(headers(("Origin", ORIGINS[0]))) == "unauthorized"
    assert guarded().refuse(headers(("Origin", "null")), is_preflight=True) == "forbidden_origin"


def test_the_token_can_be_replaced_and_hosts_and_origins_too() -> None:
    locks = guarded()
    assert locks.refuse(headers(("x-growlytics-key", "s3cret"), host="other.example")) == "forbidden_host"
    assert locks.refuse(headers(("Origin", "https://new.example"))) == "forbidden_origin"
    locks.use(
        IntakeSettings(
            token=Secret("n3w"),
            allowed_hosts=("localhost", "other.example", "127.0.0.1"),
            allowed_origins=("https://new.example",),
        )
    )
    assert locks.refuse(headers(("x-growlytics-key", "n3w"), host="other.example")) is None
    assert locks.refuse(headers(("x-growlytics-key", "n3w"), ("Origin", "https://new.example"))) is None
    assert locks.refuse(headers(("x-growlytics-key", "s3cret"))) == "unauthorized"
    assert locks.refuse(headers(("x-growlytics-key", "n3w"))) is None


def test_the_first_lock_that_is_not_passed_is_named() -> None:
    bad = headers(("Origin", "null"), host="evil.example")
    assert guarded().refuse(bad) == "forbidden_host"
    assert guarded().refuse(headers(("Origin", "null"))) == "forbidden_origin"


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_any_headers_at_all_are_judged(host: str, origin: str, token: str, is_preflight: bool) -> None:
    sent = headers(("Origin", origin), ("Authorization", f"Bearer {token}"), host=host)
    for locks in (guarded(), Locks(IntakeSettings())):
        assert locks.refuse(sent, is_preflight=is_preflight) in {
            "forbidden_host",
            "forbidden_origin",
            "unauthorized",
            None,
        }
        locks.cors(sent)
        may_be_unasked(sent)


# Content types


@pytest.mark.parametrize(
    "value",
    [
        *("text/plain", "text/plain;charset=UTF-8", "TEXT/Plain ; x", " text/plain", "text/plain\t"),
        "text/plain, application/json",
        *("application/json, text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        "text/plain; application/json",
    ],
)  # fmt: skip
def test_what_a_browser_may_send_unasked_is_found_out(value: str) -> None:
    assert may_be_unasked(headers(("Content-Type", value)))
    assert may_be_unasked(headers(("Content-Type", "application/json"), ("Content-Type", value)))
    assert may_be_unasked(headers(("Content-Type", value), ("Content-Type", "application/json")))


@pytest.mark.parametrize(
    "value", ["application/json", "application/x-ndjson; charset=utf-8", "text/json", "application/octet-stream", "x"]
)
def test_what_a_browser_asks_leave_for_is_none_of_it(value: str) -> None:
    assert not may_be_unasked(headers(("Content-Type", value)))
    assert not may_be_unasked(
        headers(("Content-Type", value), ("Origin", ORIGINS[0]), ("Sec-Fetch-Site", "cross-site"))
    )


@pytest.mark.parametrize("missing", [(), (("Content-Type", ""),), (("Content-Type", " ;x"),), (("Content-Type", ","),)])
def test_a_missing_type_is_taken_only_from_what_is_no_browser(missing: tuple[tuple[str, str], ...]) -> None:
    assert not may_be_unasked(headers(*missing))
    for name in ("Origin", "sec-fetch-site"):
        assert may_be_unasked(headers(*missing, (name, "x")))


# The admin listener

NAMES = IntakeSettings(allowed_hosts=("localhost", "forwarder", "metrics.internal."))


def admin(settings: IntakeSettings = NAMES, *, own: str = "0.0.0.0") -> AdminLock:
    return AdminLock(settings, own=Address(own, 9920))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:9920", "Forwarder", "forwarder.:9920", "metrics.internal:9920", "METRICS.internal."),
        *("10.244.1.7", "10.244.1.7:9920", "10.244.1.7.", "0.0.0.0:9920", "255.255.255.255", "127.0.0.2:", "1.2.3.4:1"),
        *("[::1]", "[::1]:9920", "[::]:9920", "[fd00:10:244::7]:9920", "[FE80::1]", "[fe80::1%25eth0]:9920"),
        *("[::ffff:10.1.2.3]:9920", "[0000:0000:0000:0000:0000:0000:0000:0002]"),
    ],
)  # fmt: skip
def test_the_admin_listener_answers_to_its_names_and_to_any_ip_address(host: str) -> None:
    assert admin().refuse(headers(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", ".", "evil.example", "evil.example:9920", "forwarder.evil.example", "evil.forwarder", "forwarder.."),
        *("127.1", "127.1:9920", "0x7f.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "127.0.0.01", "1.2.3", "1.2.3.4.5"),
        *("1.2.3.256", "1.2.3.4.evil.com", "1.2.3.4.evil.com:9920", "1.2.3.4..", ".1.2.3.4", "1.2.3.4evil", "1.2.3.4:1:1"),
        *("evil@1.2.3.4", "1.2.3.4@evil.example", "1.2.3.4, 1.2.3.4", "1.2.3.4,evil.example", "1.2.3.4/", "1.2.3.4:evil"),
        *("[::1]evil", "[::1].evil.example", "evil[::1]", "[::1", "::1]", "::1", "::1:9920", "[1.2.3.4]", "[evil]", "[]"),
        *("[::1%]", "[1::2::3]", "[12345::1]", "[::1]:evil", "1\u0662.3.4.5", "\u0661.2.3.4", "127.0.0.1\n", "\udcff", "*"),
    ],
)  # fmt: skip
def test_the_admin_listener_answers_to_no_other_name(host: str) -> None:
    assert admin().refuse(headers(host=host)) == "forbidden_host"


def test_the_admin_listener_answers_who_names_no_host_at_all() -> None:
    assert admin().refuse({}) is None
    assert admin(IntakeSettings(allowed_hosts=())).refuse({}) is None


def test_the_admin_listener_refuses_a_repeated_host() -> None:
    for other in ("1.2.3.4", "localhost", "evil.example", ""):
        assert admin().refuse(headers(("host", other), host="localhost")) == "forbidden_host"


def test_the_name_in_admin_http_is_one_of_its_own_and_that_in_intake_http_is_not() -> None:
    settings = IntakeSettings(http=Address("intake.internal", 8920), allowed_hosts=())
    assert admin(settings, own="Admin.internal").refuse(headers(host="admin.internal:9920")) is None
    assert admin(settings, own="Admin.internal").refuse(headers(host="intake.internal")) == "forbidden_host"
    assert AdminLock(settings, own=None).refuse(headers(host="localhost")) == "forbidden_host"


def test_any_name_of_the_admin_listener_can_be_allowed_and_taken_back() -> None:
    lock = admin()
    assert lock.refuse(headers(host="other.internal")) == "forbidden_host"
    lock.use(IntakeSettings(allowed_hosts=("*",)))
    for host in ("other.internal", "", "127.1"):
        assert lock.refuse(headers(host=host)) is None
    lock.use(IntakeSettings(allowed_hosts=("other.internal",)))
    assert lock.refuse(headers(host="other.internal:9920")) is None
    assert lock.refuse(headers(host="forwarder")) == "forbidden_host"


def test_the_host_of_a_whole_url_counts_for_the_admin_listener_too() -> None:
    assert admin().refuse({}, authority="evil.example") == "forbidden_host"
    assert admin().refuse(headers(host="evil.example"), authority="10.1.2.3:9920") is None
    assert admin().refuse(headers(), authority="evil.example") == "forbidden_host"


@given(st.text(max_size=30))
def test_any_host_at_all_is_judged_for_the_admin_listener(host: str) -> None:
    assert admin().refuse(headers(host=host)) in {"forbidden_host", None}
