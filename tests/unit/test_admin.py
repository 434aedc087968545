"""The admin listener: what it answers, to whom, and that it counts what it refuses. Without sockets."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import get_args

import pytest

from forwarder.admin import Admin
from forwarder.http.messages import Answer, Refusal, Request
from forwarder.intake import status_page
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import AdminSettings, IntakeSettings

PATHS = ["/metrics", "/livez", "/readyz", "/healthz"]
PAGE_PATHS = ["/status", "/status.json"]


class Door:
    """An admin listener that nobody can connect to."""

    def __init__(self, *, has_page: bool = False) -> None:
        self.telemetry = Telemetry()
        self.is_ready = True
        self.admin = Admin(
            IntakeSettings(),
            admin=AdminSettings(page=has_page),
            telemetry=self.telemetry,
            is_ready=lambda: self.is_ready,
            status=lambda: {"state": "ready"},
        )

    def ask(self, target: str, *, method: str = "GET", host: str | None = "127.0.0.1", **headers: str) -> Answer:
        if host is not None:
            headers["host"] = host
        request = Request(method, target, headers, b"", None)
        found = self.admin.begin(request)
        answer = found if isinstance(found, Answer) else found.answer(request)
        assert isinstance(answer, Answer)
        return answer

    def refused(self) -> dict[str, int]:
        """How often requests were refused, by reason."""
        return {
            sample.labels["reason"]: int(sample.value)
            for metric in self.telemetry.registry.collect()
            for sample in metric.samples
            if sample.name == "growlytics_forwarder_http_requests_refused_total" and sample.value
        }


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.mark.parametrize("path", PATHS)
async def test_probes_and_scrapers_are_answered(door: Door, path: str) -> None:
    assert door.ask(path).status == 200
    assert door.ask(f"{path}?x").status == 200
    assert door.ask(path, host=None).status == 200, "health checks in HTTP/1.0 have no Host"
    assert door.refused() == {}


async def test_who_stops_is_alive_and_not_ready(door: Door) -> None:
    door.is_ready = False
    assert (door.ask("/livez").status, door.ask("/readyz").status) == (200, 503)
    assert door.refused() == {}


async def test_what_is_refused_is_counted_by_its_reason(door: Door) -> None:
    answers = [
        door.ask("/livez", host="evil.example"),
        door.ask("/nothing"),
        door.ask("/livez", method="POST"),
        door.admin.fail(ValueError(), Request("GET", "/livez", {}, b"", None)),
    ]
    assert [answer.status for answer in answers] == [403, 404, 405, 500]
    assert [answer.closes for answer in answers] == [True, False, False, False]
    assert answers[2].headers["Allow"] == "GET, HEAD"
    assert door.refused() == {"forbidden_host": 1, "not_found": 1, "method_not_allowed": 1, "internal_error": 1}


@pytest.mark.parametrize("refusal", get_args(Refusal))
async def test_what_is_no_request_is_counted_too(door: Door, refusal: Refusal) -> None:
    answer = door.admin.refuse(refusal, None)
    assert 400 <= answer.status <= 501
    reason = "too_slow" if refusal.endswith("too_slow") else refusal
    assert door.refused() == {reason: 1}
    assert answer.body == f"{reason}\n".encode()


async def test_no_answer_may_be_kept_or_taken_for_something_else(door: Door) -> None:
    answers = [door.ask(path) for path in [*PATHS, "/nothing"]]
    answers += [door.ask("/livez", host="evil.example"), door.ask("/livez", method="PUT")]
    answers += [door.admin.refuse(refusal, None) for refusal in get_args(Refusal)]
    answers.append(door.admin.fail(ValueError(), Request("GET", "/livez", {}, b"", None)))
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Type"].startswith("text/plain")


# The page


@pytest.fixture
async def open_door() -> Door:
    return Door(has_page=True)


def test_the_root_links_to_what_is_there_and_tells_how_to_have_the_page(door: Door) -> None:
    answer = door.ask("/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = answer.body.decode()
    linked = re.findall('<a href="([^"]+)">', page)
    assert linked == ["metrics", "livez", "readyz"]
    assert [door.ask(f"/{path}").status for path in linked] == [200] * 3
    assert "admin.page = true" in page
    assert "{{" not in page


def test_with_the_page_the_root_links_to_it_as_well(open_door: Door) -> None:
    page = open_door.ask("/").body.decode()
    linked = re.findall('<a href="([^"]+)">', page)
    assert linked == ["metrics", "livez", "readyz", "status"]
    assert [open_door.ask(f"/{path}").status for path in linked] == [200] * 4
    assert "admin.page" not in page


@pytest.mark.parametrize("path", PAGE_PATHS)
def test_the_page_is_not_there_unless_it_is_asked_for(door: Door, path: str) -> None:
    refused = door.ask(path)
    assert refused.status == 404
    assert path not in refused.body.decode()


def test_the_page_is_the_same_and_asks_for_the_status_without_names(open_door: Door) -> None:
    shared, own = open_door.ask("/status"), status_page.own_page(asks_for_token=False)
    assert shared.headers == own.headers
    assert shared.body == own.body.replace(b"<body>", b"<body data-shared>")
    answer = open_door.ask("/status.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer.body) == {"state": "ready"}


@pytest.mark.parametrize("path", ["/", *PAGE_PATHS])
def test_the_page_obeys_the_rules_of_the_listener(open_door: Door, path: str) -> None:
    assert open_door.ask(path, host="evil.example").status == 403
    assert open_door.ask(path, host=None).status == 200
    refused = open_door.ask(path, method="POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    headers = open_door.ask(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/status"])
def test_the_policy_of_the_page_allows_its_own_style_and_nothing_from_outside(open_door: Door, path: str) -> None:
    answer = open_door.ask(path)
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    (style,) = re.findall("<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
    assert policy["style-src"] == f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert ("script-src" in policy) is (path == "/status")
    assert "://" not in answer.body.decode().replace("http://www.w3.org/2000/svg", "").replace("`http://${", "")


def test_the_page_appears_and_goes_with_a_reload(door: Door) -> None:
    door.admin.use(IntakeSettings(), AdminSettings(page=True))
    assert door.ask("/status").status == 200
    assert ">status</a>" in door.ask("/").body.decode()
    door.admin.use(IntakeSettings(), AdminSettings())
    assert door.ask("/status").status == 404
    assert ">status</a>" not in door.ask("/").body.decode()
