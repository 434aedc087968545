"""The status page in a real browser: it shows what is so, as text, under its own policy, and says when it cannot know."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.system.browser import Page, browsing
from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

TOKEN: Final = "a-token-that-nobody-guesses"
WIDTHS: Final = (400, 1400)
HOSTILE: Final = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "right\u202eleft\u2066",
    "\x1b[2J\x07\x00bell",
    "${alert(1)} `code` {{script}}",
)
"""Names, each short enough to be an event's."""
SHOWN: Final = (
    *HOSTILE[:2],
    r"right\u202eleft\u2066",
    r"\x1b[2J\x07\x00bell",
    HOSTILE[4],
)


async def post(daemon: Daemon, *events: object, token: str = "") -> None:
    async with daemon.http.post(
        f"{daemon.base}/v1/events", json=events, headers={"x-growlytics-key": token}
    ) as response:
        assert response.status == 202, await response.text()


def event(name: str, **attributes: object) -> dict[str, object]:
    return {"name": name, "customerId": name, "time": 1_700_000_000_000, "attributes": attributes}


async def complained(page: Page) -> None:
    """Have the browser complain once, as it would of whatever breaks the page's policy, and nothing before that."""
    assert page.complaints == []
    await page.value("document.head.append(Object.assign(document.createElement('style'), {textContent: '*{}'}))")
    await until(lambda: any("Content Security Policy" in each for each in page.complaints), "it is heard")
    markup = "try { document.body.innerHTML = '<b>'; 'taken' } catch (error) { error.name }"
    assert await page.value(markup) == "TypeError", "text cannot become markup even by mistake"


async def test_it_shows_live_data_and_names_of_strangers_are_text(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.base}/")
        await page.until_shown("All events are safe. Delivery is keeping up.", "h1")
        await page.until_shown("No event has come yet.", "#ledger")
        assert not await page.text("#advice-section"), "there is nothing to do"

        await post(daemon, *(example_event(number) for number in range(40)))
        await until(daemon.drained, "they are delivered")
        await page.until_shown("40 accepted = 40 delivered", "#ledger")
        assert "40 received = 40 accepted" in await page.text("#ledger")
        await page.until_shown("40 delivered, 0 to be repeated", "#delivery")

        for name in HOSTILE:
            await post(daemon, event(name, **{name: 1}), event(name, **{name: "one"}), event(name, **{name: ["two"]}))
        await until(daemon.drained, "they are delivered")
        await sandbox.faults(fail_rate=1, fail_status=422)
        await post(daemon, *map(event, HOSTILE))
        await until(daemon.drained, "they are dead letters")
        await page.until_shown("5 dead letters", "#ledger")
        for place in ("#refusals", "#letters", "#types"):
            text = await page.until_shown(SHOWN[0], place)
            for shown in SHOWN:
                assert shown in text, place
        assert "422" in await page.text("#letters")
        assert "60 received = 55 accepted + 0 duplicates + 5 refused" in await page.text("#ledger")
        assert await picture(page) == {"came": ["accepted", "refused"], "went": ["out", "dead"]}
        assert "5 events were not delivered, and are kept as dead letters." in await page.text("#advice")
        assert await page.text("h1") == "All events are safe. Delivery is keeping up."
        assert await page.value("document.title") == "✓ All events are safe. Delivery is keeping up."
        assert await page.value("document.querySelectorAll('img, iframe, a, link, [onerror], [style]').length") == 0
        assert await page.value("document.scripts.length") == 1

        await until(lambda: history_of(daemon), "there is a history", seconds=20)
        await page.until_shown("waiting", "#waiting")
        label = "document.querySelector('#flow svg').getAttribute('aria-label')"

        async def charted() -> bool:
            return "at most" in str(await page.value(label))

        await until(charted, "it is in the chart, too")
        await complained(page)


async def picture(page: Page) -> dict[str, list[str]]:
    """Return the parts of the ledger's picture; what went must be as wide as what was accepted, and no part hide another."""
    rows: dict[str, list[str]] = {}
    bars = "[...document.querySelectorAll('#ledger rect')].map((bar) => "
    bars += "[bar.classList[1], ...['y', 'x', 'width'].map((name) => Number(bar.getAttribute(name)))])"
    ends = {0: 0.0, 56: 0.0}
    accepted = 0.0
    for name, y, x, width in await page.value(bars):
        assert x == pytest.approx(ends[y])
        assert width >= 6, "it can be seen"
        ends[y] = x + width
        accepted = width if name == "accepted" else accepted
        rows.setdefault("went" if y else "came", []).append(name)
    assert ends == pytest.approx({0: 1000.0, 56: accepted})
    return rows


async def history_of(daemon: Daemon) -> list[float]:
    found: list[float] = (await daemon.status())["history"]["accepted"]
    return found


async def test_with_a_token_it_shows_nothing_before_that_is_given_and_says_when_it_is_wrong(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, intake__token=TOKEN) as daemon,
        browsing(tmp_path) as page,
    ):
        await post(daemon, event("Not For All", Price=1), event("Not For All", Price="1"), token=TOKEN)
        await page.go(f"{daemon.base}/")
        await page.until_shown("This daemon asks for its token.", "h1")
        assert "Not For All" not in await page.value("document.documentElement.outerHTML")
        assert not await page.text("main")
        assert not [line for line in daemon.lines if "token" in line["message"]], "the page itself is no intruder"
        seen = "document.dispatchEvent(new Event('visibilitychange')), asking"
        assert await page.value(seen) is False, "it asks nothing that would be refused"
        assert page.complaints == []

        await page.type("wrong ☺")
        await page.until_shown("The daemon does not accept this token.", "#wrong")
        assert not await page.text("main")
        assert len(page.complaints) == 1, "the browser notes each answer of 401"
        assert "401" in page.complaints.pop()

        await page.type(TOKEN)
        await page.until_shown("Not For All", "#types")
        assert not await page.text("#ask")
        kept = "JSON.stringify([document.documentElement.outerHTML, document.getElementById('token').value, location.href, "
        kept += "{...localStorage}, {...sessionStorage}])"
        assert TOKEN not in await page.value(kept)

        await page.go(f"{daemon.base}/")
        await page.until_shown("This daemon asks for its token.", "h1")
        assert page.complaints == []


async def test_an_outage_of_growlytics_and_of_the_daemon_is_said_and_old_figures_are_grey(tmp_path: Path) -> None:
    grey = "getComputedStyle(document.querySelector('main')).filter"
    async with running_sandbox() as sandbox, browsing(tmp_path) as page:
        async with running_daemon(tmp_path, sandbox.url, delivery__breaker_failures=3) as daemon:
            await page.go(f"{daemon.base}/")
            await page.until_shown("All events are safe. Delivery is keeping up.", "h1")
            await sandbox.faults(down=True)
            await post(daemon, *map(example_event, range(20)))
            await page.until_shown("All events are safe. Growlytics does not answer, or fails: events wait.", "h1")
            advice = await page.text("#advice")
            assert "growlytics.url" in advice
            assert "probe" in advice
            assert "breaker" in await page.text("#delivery")
            await page.until_shown("20 waiting", "#ledger")
            await sandbox.faults(down=False)
            await page.until_shown("20 delivered", "#ledger")
            assert await page.value(grey) == "none"
            assert page.complaints == []
        await page.until_shown("The daemon cannot be reached.", "h1")
        pace = await page.text("#pace")
        assert pace.startswith("It last answered at ")
        assert " s ago; the status below is from then." in pace
        assert "grayscale" in await page.value(grey)
        assert "20 delivered" in await page.text("#ledger"), "what it said last is still there"
        assert "cannot be reached" in await page.value("document.title")
        async with running_daemon(tmp_path, sandbox.url, intake__http=daemon.ready["http"]):
            await page.until_shown("All events are safe. Delivery is keeping up.", "h1")
            assert await page.value(grey) == "none"


def merged(status: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a status with some of it in place of what is there."""
    whole = copy.deepcopy(status)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(whole.get(name), dict) and value
        whole[name] = merged(whole[name], value) if both else value
    return whole


def held(cause: str, seconds: float | None = 12.0) -> dict[str, Any]:
    return {"holds": {cause: {"seconds": 200, "probe_in_seconds": seconds}}}


FAILURE: Final = {"at": 1.7e9, "kind": "tls", "error": "<b>certificate has expired</b>", "host": "dc.growlytics.in:443"}
FULL: Final = {"buffer": {"events": {"ready": 100_000}}, "forecasts": {"full_in_seconds": 0.0}}
OLD: Final = {"buffer": {"events": {"ready": 900}, "oldest_event_age_seconds": 95}}
LOST: Final = {"ledger": {"since_start": {"dropped": {"drop_oldest": 1204}}}}
CONFLICT: Final = {"conflicts": [{"name": "n"}], "policy": "observe"}
VERDICTS: Final[dict[str, tuple[dict[str, Any], str, str, str]]] = {
    "nothing": ({}, "good", "All events are safe. Delivery is keeping up.", ""),
    "breaker": (held("breaker"), "warn", "safe. Growlytics does not answer", "the next probe goes in 12 s"),
    "breaker, and why": (
        merged(held("breaker"), {"delivery": {"last_failure": FAILURE}}),
        "warn",
        "safe. Growlytics does not answer",
        "for 3 min now. <b>certificate has expired</b> (dc.growlytics.in:443)",
    ),
    "probing": (held("breaker", None), "warn", "events wait.", "a probe is due or under way"),
    "retry after": (held("retry_after"), "warn", "asks the forwarder to wait", "delivery.rate_limit_per_second"),
    "key": (held("auth"), "bad", "Growlytics refuses the forwarder", "growlytics.api_key_file"),
    "systemic": (held("systemic"), "bad", "rejects every event", "deployed last"),
    "a cause of later": (held("eclipse"), "warn", "Delivery is paused (hold): events wait.", "log"),
    "full": (FULL, "bad", "All events are safe. The buffer is full.", "buffer.when_full"),
    "filling": (
        {"buffer": {"bytes": 90_000_000}, "forecasts": {"full_in_seconds": 600.0}},
        "warn",
        "Delivery is keeping up.",
        "The buffer is 34 % full, and is full in 10 min if this goes on.",
    ),
    "nearly full": ({"buffer": {"events": {"ready": 85_000}}}, "warn", "Delivery is keeping up.", "85 % full. Raise"),
    "in memory": (merged(FULL, {"buffer": {"kind": "memory"}}), "bad", "The buffer is full.", "does not outlive"),
    "disk": ({"buffer": {"available": False}}, "bad", "The buffer's disk fails", "buffer.directory"),
    "behind": (OLD, "warn", "Delivery is falling behind.", "The oldest event has waited for 2 min."),
    "catching up": (
        merged(OLD, {"forecasts": {"drained_in_seconds": 45.0}}),
        "good",
        "All events are safe. Delivery is catching up.",
        "",
    ),
    "lost": (LOST, "bad", "1,204 events are lost. Delivery is keeping up.", "buffer.when_full"),
    "lost and held": (merged(LOST, held("auth")), "bad", "lost. Growlytics refuses the forwarder", "api_key"),
    "damaged": ({"ledger": {"since_start": {"dropped": {"corrupt": 1}}}}, "bad", "1 event is lost.", "check the disk"),
    "unaccounted": (
        {"ledger": {"for_ever": {"unaccounted": -3}}},
        "bad",
        "The ledger does not balance",
        "3 events unaccounted for",
    ),
    "dead letters": ({"dead_letters": {"events": 1}}, "good", "keeping up.", "growlytics-forwarder dead-letters list"),
    "many dead letters": ({"dead_letters": {"events": 90_000}}, "warn", "keeping up.", "room for 10 % more"),
    "conflicts": ({"attribute_types": CONFLICT}, "good", "keeping up.", "growlytics-forwarder attribute-types list"),
    "types full": ({"attribute_types": {"full": True}}, "good", "keeping up.", "contract.max_attribute_types"),
    "stopping": ({"state": "draining"}, "warn", "All events are safe. The daemon is draining.", ""),
    "restart": (
        {"settings": {"restart_needed": ["intake.http", "<b>"], "error": None}},
        "good",
        "keeping up.",
        "need a restart: intake.http <b>",
    ),
    "wrong settings": (
        {"settings": {"restart_needed": [], "error": "<b>`line` 3</b>"}},
        "warn",
        "keeping up.",
        "<b>`line` 3</b>",
    ),
}

NAME: Final = "W" * 100
LONG: Final = {
    "recent": {
        "refusals": [
            {"at": 1.7e9, "intake": "datagram", "code": "attribute_type_not_allowed", "events": 10**9}
            | dict.fromkeys(("name", "field"), NAME)
        ],
        "dead_letters": [{"id": "9" * 18, "at": 1.7e9, "reason": "ambiguous", "status": 422, "name": NAME}],
    },
    "attribute_types": {
        "conflicts": [
            {"expected": "boolean", "found": "boolean", "action": "observe", "conflicts": 10**9, "last_at": 1.7e9}
            | dict.fromkeys(("name", "attribute"), NAME)
        ],
    },
    "ledger": {
        "for_ever": dict.fromkeys(("received", "accepted", "duplicates", "rejected", "delivered", "buffered"), 10**12)
    },
    "settings": {"error": NAME, "restart_needed": []},
}


async def test_every_trouble_is_named_with_what_to_do_and_the_page_is_legible(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.base}/")
        await page.until_shown("All events are safe. Delivery is keeping up.", "h1")
        status = merged(await daemon.status(), {"forecasts": {"full_in_seconds": None, "drained_in_seconds": None}})
        await page.value("clearTimeout(timer); asking = true")
        for what, (changes, mood, sentence, advice) in VERDICTS.items():
            await page.value(f"show({json.dumps(merged(status, changes))})")
            assert sentence in await page.text("h1"), what
            shown = await page.text("#advice")
            assert advice in shown if advice else not shown, (what, shown)
            assert await page.value("document.querySelector('.glance .mark').classList[1]") == mood, what
        counts = {"received": 12, "accepted": 10, "rejected": 2, "delivered": 6, "buffered": 1, "unaccounted": 3}
        await page.value(f"show({json.dumps(merged(status, {'ledger': {'for_ever': counts}}))})")
        assert (await picture(page))["went"] == ["out", "buffered", "missing"]
        assert "3 missing" in await page.text("#ledger")

        await page.value(f"show({json.dumps(merged(status, LONG))})")
        await legible(page)
        assert page.complaints == []


async def legible(page: Page) -> None:
    """Check that texts contrast with what is behind them, and that nothing is wider than the window."""
    names = ("--ink", "--muted", "--good", "--warn", "--bad")
    for scheme in ("light", "dark"):
        await page.prefer(scheme)
        styles = "getComputedStyle(document.documentElement).getPropertyValue"
        for name in names:
            pair = [await page.value(f"{styles}('{each}').trim()") for each in (name, "--paper")]
            assert contrast(*pair) >= 4.5, (scheme, name)
    for width in WIDTHS:
        await page.resize(width, 800)
        assert await page.value("innerWidth") == width
        assert await page.value("document.documentElement.scrollWidth") <= width


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, written #rrggbb, as WCAG has it: 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lights = sorted((luminance(one), luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


async def test_out_of_sight_it_asks_nothing_and_in_sight_again_it_asks_at_once(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.base}/")
        await page.until_shown("All events are safe", "h1")
        asked = "performance.getEntriesByType('resource').length"
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}), "
        hide += "document.dispatchEvent(new Event('visibilitychange')), "
        before = await page.value(hide % "true" + asked)
        await asyncio.wait_for(page.value("poll()"), 10)
        assert await page.value(asked) == before
        await page.value(hide % "false" + "0")

        async def again() -> bool:
            return bool(await page.value(asked) > before)

        await until(again, "it has asked", seconds=1.5)
