"""The status page in a real browser: it shows what is so, as text, under its own policy, and says when it cannot know."""

import asyncio
import copy
import json
import random
import re
from pathlib import Path
from typing import Any, Final

import pytest

from forwarder.text import duration, rate
from forwarder.words import RECEIPT_STATES
from tests.system.browser import Page, browsing
from tests.system.processes import Daemon, example_event, running_daemon, running_sandbox, until

TOKEN: Final = "a-token-that-nobody-guesses"
WIDTHS: Final = (320, 400, 820, 1400)
ZONES: Final = {"Asia/Kolkata": "GMT+5:30", "UTC": "UTC"}
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
        await page.until_shown("No event has come yet.", "h1")
        await page.until_shown("No event has come yet.", "#ledger")
        assert not await page.text("#problems-section"), "there is nothing to do"
        status = await daemon.status()
        about = await page.text("#about")
        assert f"on {status['instance']} · ready" in about
        assert about.endswith(f"sends to {sandbox.url}")
        await icon_is_one(page)

        await post(daemon, *(example_event(number) for number in range(40)))
        await until(daemon.drained, "they are delivered")
        await page.until_shown("40 accepted = 40 delivered", "#ledger")
        assert "40 received = 40 accepted" in await page.text("#ledger")
        await page.until_shown("40 succeeded, 0 to be repeated", "#delivery")
        told = (await daemon.status())["headline"]["text"]
        assert (await page.text("h1")).partition("delivered")[0] == told.partition("delivered")[0], "but for the age"

        for name in HOSTILE:
            await post(daemon, event(name, **{name: 1}), event(name, **{name: "one"}), event(name, **{name: ["two"]}))
        await until(daemon.drained, "they are delivered")
        await sandbox.faults(fail_rate=1, fail_status=422)
        await post(daemon, *map(event, HOSTILE))
        await until(daemon.drained, "they are dead letters")
        await page.until_shown("5 dead-lettered", "#ledger")
        for place in ("#refusals", "#letters", "#types"):
            text = await page.until_shown(SHOWN[0], place)
            for shown in SHOWN:
                assert shown in text, place
        assert "422" in await page.text("#letters")
        assert "60 received = 55 accepted + 0 duplicates + 5 refused" in await page.text("#ledger")
        assert await picture(page) == {"came": ["accepted", "refused"], "went": ["out", "dead"]}
        headline = await page.text("h1")
        assert (await page.value("document.title"))[2:] == headline
        assert await page.value("document.querySelectorAll('img, iframe, [onerror], [style]').length") == 0
        assert await page.value("document.scripts.length") == 1
        await problems_are_those_of_the_status(page, daemon)
        await every_control_has_a_name(page)

        await until(lambda: history_of(daemon), "there is a history", seconds=20)
        await page.until_shown("waiting", "#waiting")
        label = "document.querySelector('#flow svg').getAttribute('aria-label')"

        async def charted() -> bool:
            return "before" in str(await page.value(label))

        await until(charted, "it is in the chart, too")
        await its_links_lead_somewhere(page, daemon)
        await complained(page)


async def icon_is_one(page: Page) -> None:
    """Check that the icon is a picture, which the policy allows, so that no browser asks for /favicon.ico."""
    decoded = "(async () => { const image = new Image(); image.src = document.getElementById('icon').href; "
    decoded += "await image.decode(); return image.src.slice(0, 19); })()"
    assert await page.value(decoded) == "data:image/svg+xml,"


async def problems_are_those_of_the_status(page: Page, daemon: Daemon) -> None:
    """Check that each problem has its cause, its fix and its commands; times pass between the page's look and ours."""
    wanted = (await daemon.status())["problems"]
    assert wanted, "there are some"
    shown = "[...document.querySelectorAll('#problems > li')].map((each) => [each.dataset.kind, "
    shown += "[...each.querySelectorAll('.command')].map((command) => command.textContent)])"
    assert await page.value(shown) == [[each["kind"], each["commands"]] for each in wanted]
    text = await page.text("#problems")
    for problem in wanted:
        for part in (problem["what"], problem["cause"], problem["fix"]):
            for words in re.split(r"[\d`]+", part):
                assert " ".join(words.split()) in text, part


async def every_control_has_a_name(page: Page) -> None:
    """Check what a screen reader is told."""
    nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    roles = {"button", "textbox", "link", "region", "meter", "image", "table", "heading"}
    found = [
        (each["role"]["value"], each["name"]["value"])
        for each in nodes
        if not each["ignored"] and each["role"]["value"] in roles
    ]
    assert {role for role, _ in found} >= {"button", "textbox", "link", "region", "meter", "image", "heading"}
    assert [role for role, name in found if not name and role != "table"] == []


async def its_links_lead_somewhere(page: Page, daemon: Daemon) -> None:
    links = await page.value("[...document.querySelectorAll('footer a')].map((link) => [link.textContent, link.href])")
    assert links == [["Metrics", f"{daemon.admin}/metrics"], ["API document", f"{daemon.base}/openapi.yaml"]]
    for _, url in links:
        async with daemon.http.get(url) as response:
            assert response.status == 200


async def test_numbers_agree_commands_stay_selected_and_receipts_are_found(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url, receipts__max_events=10) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.base}/")
        await page.until_shown("No event has come yet.", "h1")
        await page.until_shown(f"Apps post to {daemon.base}/track/event or {daemon.unix_socket}.", "#ledger")
        for number in range(20):
            await post(daemon, *(example_event(each) for each in range(50 * number, 50 * number + 50)))
            await numbers_agree(page)
        await sandbox.use_key("another")
        await post(daemon, example_event(1))
        await page.until_shown("401", "#problems")
        await a_command_stays_selected(page)
        await numbers_agree(page)
        await a_command_can_be_copied_with_the_keyboard(page)
        await receipts_are_found(page, daemon)
        assert len(page.complaints) == 1, "the browser notes each answer of 404"
        assert "404" in page.complaints.pop()
        for zone, called in ZONES.items():
            await page.call("Emulation.setTimezoneOverride", timezoneId=zone)
            await page.value("draw(byId('delivery'), null, () => [])")
            shown = await page.until_shown(called, "#delivery")
            assert re.search(rf"401.*, \d\d:\d\d:\d\d {re.escape(called)}", shown), shown
        assert page.complaints == []


async def test_what_somebody_erased_stands_apart_from_what_was_dropped_and_the_ledger_balances(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9/track/event"
    async with running_daemon(tmp_path, nowhere, intake__token=TOKEN) as daemon, browsing(tmp_path) as page:
        await post(daemon, event("one"), event("two"), event("two"), token=TOKEN)
        async with daemon.http.post(
            f"{daemon.base}/v1/erase", json={"customer": "two"}, headers={"x-growlytics-key": TOKEN}
        ) as answer:
            assert answer.status == 200, await answer.text()
        await page.go(f"{daemon.base}/")
        await page.until_shown("This daemon asks for its token.", "h1")
        await page.type(TOKEN)
        ledger = " ".join((await page.until_shown("2 erased", "#ledger")).split())
        assert "3 accepted = 0 delivered + 1 waiting + 0 dead-lettered + 0 dropped + 2 erased balances" in ledger


async def numbers_agree(page: Page) -> None:
    """Check that each number that stands on the page twice is the same, whatever happens meanwhile."""
    parts = "['#pace', '#flow', '#waiting', '#ledger'].map((place) => document.querySelector(place).innerText)"
    pace, flow, waiting, ledger = (" ".join(text.split()) for text in await page.value(parts))
    said = re.fullmatch(r"(\S+) events a second accepted, (\S+) delivered, (\S+) refused; (\S+) waits?.*", pace)
    assert said, pace
    assert re.findall(r"(\S+)/s (?:accepted|delivered|refused)", flow) == list(said.groups()[:3])
    number = said[4].replace("none", "0")
    assert re.findall(r"(\S+) waiting", waiting + " " + ledger) in ([number], [number] * 2)


async def a_command_stays_selected(page: Page) -> None:
    """Click on a command: all of it is selected, and stays so while the page is drawn anew."""
    middle = "(({x, y, width: w, height: h}) => [x + w / 2, y + h / 2])"
    box = await page.value(f"{middle}(document.querySelector('.command').getBoundingClientRect())")
    for kind in ("mousePressed", "mouseReleased"):
        await page.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
    command = await page.value("document.querySelector('.command').textContent")
    asked = "performance.getEntriesByType('resource').length"
    before = await page.value(asked)

    async def asked_again() -> bool:
        return bool(await page.value(asked) >= before + 2)

    assert await page.value("String(getSelection())") == command
    await until(asked_again, "it has polled twice")
    assert await page.value("String(getSelection())") == command


async def a_command_can_be_copied_with_the_keyboard(page: Page) -> None:
    """Go through the page with the tab key, from its top, and press the button beside the first command."""
    origin = await page.value("location.origin")
    await page.call(
        "Browser.grantPermissions", origin=origin, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    await page.go(f"{origin}/")
    await page.until_shown("401", "#problems")
    reached: list[str] = []
    while "A" not in reached[-1:]:
        await page.press("Tab", 9)
        assert len(reached) < 40, reached
        focused = await page.value(
            "[document.activeElement.tagName, document.activeElement.className].join(' ').trim()"
        )
        reached.append(focused)
        if focused == "BUTTON copy":
            await page.press("Enter", 13)
            await page.until_shown("Copied", "#problems")
    assert reached[:2] == ["CODE command", "BUTTON copy"]
    assert reached[-3:] == ["INPUT", "BUTTON", "A"]
    copied = await page.value("navigator.clipboard.readText()")
    assert copied == await page.value("[...document.querySelectorAll('.command')].at(-1).textContent")


async def receipts_are_found(page: Page, daemon: Daemon) -> None:
    async with daemon.http.post(f"{daemon.base}/v1/events?ids=true", json=[example_event(7)]) as response:
        (waiting,) = (await response.json())["ids"]
    letters = {
        waiting: "waits in the buffer",
        "17": "No event with the id 17 is known here.",
        "x<b>1": "The id of an event is a number",
    }
    for event_id, text in letters.items():
        await page.value("byId('event').value = '', byId('event').focus()")
        await page.type(event_id)
        await page.until_shown(text, "#receipt")
    assert await page.value("document.querySelectorAll('#receipt b').length") == 0


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
        assert not [line for line in daemon.lines if "intake.token" in line["message"]], (
            "the page itself is no intruder"
        )
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
        await the_document_can_be_saved(page, tmp_path)
        kept = "JSON.stringify([document.documentElement.outerHTML, document.getElementById('token').value, location.href, "
        kept += "{...localStorage}, {...sessionStorage}])"
        assert TOKEN not in await page.value(kept)

        await page.value("byId('event').focus()")
        await page.type("17")
        await page.until_shown("No event with the id 17 is known here.", "#receipt")
        assert "404" in page.complaints.pop()
        await page.value("token = 'of-before', byId('event').focus()")
        await page.type("18")
        await page.until_shown("The daemon does not accept this token.", "#wrong")
        assert not await page.text("main")
        assert "401" in page.complaints.pop()

        await page.go(f"{daemon.base}/")
        await page.until_shown("This daemon asks for its token.", "h1")
        assert page.complaints == []


async def the_document_can_be_saved(page: Page, directory: Path) -> None:
    """Click on the link to the API document, which needs the token."""
    await page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(directory))
    await page.value("[...document.querySelectorAll('footer a')].at(-1).click()")
    file = directory / "openapi.yaml"
    await until(lambda: file.exists() and "openapi: 3" in file.read_text(encoding="utf-8"), "it is saved")


async def test_an_outage_of_growlytics_and_of_the_daemon_is_said_and_old_figures_are_grey(tmp_path: Path) -> None:
    grey = "getComputedStyle(document.querySelector('main')).filter"
    async with running_sandbox() as sandbox, browsing(tmp_path) as page:
        async with running_daemon(tmp_path, sandbox.url, delivery__breaker_failures=3) as daemon:
            await page.go(f"{daemon.base}/")
            await page.until_shown("No event has come yet.", "h1")
            await sandbox.faults(down=True)
            await post(daemon, *map(example_event, range(20)))
            await page.until_shown("Not delivering:", "h1")
            assert "probe" in await page.text("#problems")
            assert "Paused by breaker" in await page.text("#delivery")
            await page.until_shown("20 waiting", "#ledger")
            await sandbox.faults(down=False)
            await page.until_shown("20 delivered", "#ledger")
            assert await page.value(grey) == "none"
            assert page.complaints == []
        await page.until_shown("The daemon cannot be reached.", "h1")
        pace = await page.text("#pace")
        assert re.match(r"It last answered at \d\d:\d\d:\d\d [A-Z]", pace)
        assert " s ago; the status below is from then." in pace
        assert "grayscale" in await page.value(grey)
        assert "20 delivered" in await page.text("#ledger"), "what it said last is still there"
        assert "cannot be reached" in await page.value("document.title")
        async with running_daemon(tmp_path, sandbox.url, intake__http=daemon.ready["http"]):
            await page.until_shown("No event has come since the start", "h1")
            assert await page.value(grey) == "none"


def merged(status: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a status with some of it in place of what is there."""
    whole = copy.deepcopy(status)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(whole.get(name), dict) and value
        whole[name] = merged(whole[name], value) if both else value
    return whole


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
    "instance": NAME,
    "delivery": {
        "destination": f"https://{NAME}/",
        "last_failure": {"at": 1.7e9, "kind": "tls", "error": NAME, "host": NAME},
    },
    "headline": {"state": "not_delivering", "mood": "bad", "text": NAME},
    "problems": [
        {
            "kind": each,
            "mood": mood,
            "what": NAME,
            "cause": NAME,
            "fix": f"`{NAME}` {NAME}",
            "commands": [NAME, f"x {NAME}"],
        }
        for each, mood in (("one", "bad"), ("two", "warn"), ("two", "note"))
    ],
}
HOSTILE_PROBLEM: Final = {
    "kind": "<b>",
    "mood": "constructor",
    "what": "<b>what</b>",
    "cause": "<i>certificate has expired</i> `code`",
    "fix": "Set `growlytics.url` <script>",
    "commands": ["echo '<b>'"],
}


async def test_whatever_the_status_has_is_text_and_the_page_is_legible(tmp_path: Path) -> None:
    async with (
        running_sandbox() as sandbox,
        running_daemon(tmp_path, sandbox.url) as daemon,
        browsing(tmp_path) as page,
    ):
        await page.go(f"{daemon.base}/")
        await page.until_shown("No event has come yet.", "h1")
        status = await daemon.status()
        await page.value("clearTimeout(timer); asking = true")
        await numbers_look_as_the_daemon_writes_them(page)

        await show(page, status, {"problems": [HOSTILE_PROBLEM]})
        text = await page.text("#problems")
        for part in (
            "<b>what</b>",
            "Cause: <i>certificate has expired</i> `code`",
            "Set growlytics.url <script>",
            "echo '<b>'",
        ):
            assert part in text
        assert await page.value("document.querySelector('.fix code').textContent") == "growlytics.url"
        for mood in ("bad", "warn", "note", "good"):
            for number in (1, 2):
                await show(page, status, {"headline": {"mood": mood, "text": f"It is {mood} {number}."}})
            assert await page.text("h1") == f"It is {mood} 2."
            assert await page.value("byId('announced').textContent") == f"It is {mood} 1.", "numbers are not read out"
            assert await page.value("document.querySelector('.glance .mark').classList[1]") == mood
        counts = {"received": 12, "accepted": 10, "rejected": 2, "delivered": 6, "buffered": 1, "unaccounted": 3}
        await show(page, status, {"ledger": {"for_ever": counts}})
        assert (await picture(page))["went"] == ["out", "buffered", "missing"]
        assert "3 missing" in await page.text("#ledger")
        for address, shown in {
            "0.0.0.0:9": "127.0.0.1:9/",
            "[::]:9": "[::1]:9/",
            "10.1.2.3:9": "10.1.2.3:9/",
            "[fd00::1]:9": "[fd00::1]:9/",
            "localhost:9": "localhost:9/",
        }.items():
            await show(page, status, {"addresses": {"admin": address}})
            assert await page.value("document.querySelector('footer a').href") == f"http://{shown}metrics"
        await show(page, status, {"addresses": {"admin": "x y/\\:javascript"}})
        assert await page.value("document.querySelectorAll('footer a').length") == 1

        for state in RECEIPT_STATES:
            receipt = {"id": "17", "state": state, "at": 1.7e9, "until": 1.7e9, "new_id": "18", "reason": "<b>"}
            await page.value(f"byId('receipt').replaceChildren(...said({json.dumps(receipt)}).flat(Infinity))")
            shown = await page.text("#receipt")
            assert shown.startswith("Event 17 "), shown
            assert not re.search("undefined|null|Object|Invalid", shown), shown
            assert state == "buffered" or re.search(r"14 Nov.* \d\d:\d\d:\d\d [A-Z]", shown), shown

        await show(page, status, LONG)
        await legible(page)
        assert page.complaints == []


async def show(page: Page, status: dict[str, Any], changes: dict[str, Any]) -> None:
    await page.value(f"show({json.dumps(merged(status, changes))})")


async def numbers_look_as_the_daemon_writes_them(page: Page) -> None:
    dice = random.Random(1)
    times = [round(10 ** dice.uniform(-3, 7), dice.choice((1, 3))) for _ in range(500)] + [
        0,
        12.5,
        59.5,
        0.9996,
        9.96,
        60,
    ]
    assert await page.value(f"{json.dumps(times)}.map(duration)") == [duration(each) for each in times]
    rates = [round(10 ** dice.uniform(-2, 6), 2) for _ in range(500)] + [0, 0.5, 99.99, 100, 100.5, 101.5, 1000]
    assert await page.value(f"{json.dumps(rates)}.map(rate)") == [rate(each) for each in rates]


async def legible(page: Page) -> None:
    """Check that each text contrasts with what is behind it, and that nothing is wider than the window."""
    for width in WIDTHS:
        await page.resize(width, 800)
        assert await page.value("innerWidth") == width
        assert "\n".join(await page.value(TOO_WIDE)) == "", width
    for scheme in ("light", "dark"):
        await page.prefer(scheme)
        for text, one, other in await page.value(COLOURS):
            assert contrast(one, other) >= 4.5, (scheme, text, one, other)


TOO_WIDE: Final = """
[document.documentElement, ...document.querySelectorAll('main *, header *, footer *')]
  .filter((each) => each.checkVisibility() && !each.closest('svg, thead, .unseen') && each.scrollWidth > each.clientWidth + 1
    && (innerWidth < 560 || each === document.documentElement) && getComputedStyle(each).display !== 'inline')
  .map((each) => `${each.tagName} ${each.className} ${each.id} ${each.scrollWidth} > ${each.clientWidth}`)
"""
"""What must be scrolled to the side: in a narrow window nothing at all, not even a table within its frame."""
COLOURS: Final = """
(() => {
  const seen = new Set(), found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const colour = getComputedStyle(element).color;
    let behind = element;
    while (behind && /rgba\\(.*, 0\\)/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const key = [colour, getComputedStyle(behind ?? document.body).backgroundColor];
    if (!seen.has(String(key))) { seen.add(String(key)); found.push([walker.currentNode.data.trim().slice(0, 40), ...key]); }
  }
  return found;
})()
"""
"""A text of each pair of colours: it, its colour, and that behind it."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, written rgb(r, g, b), as WCAG has it: 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [int(each) / 255 for each in re.findall(r"\d+", colour)]
        assert len(shares) == 3, colour
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
        await page.until_shown("No event has come yet.", "h1")
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
