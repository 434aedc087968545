"""On call with a browser: the page names the cause of each kind of trouble, its commands work as typed, it sees the end."""

import asyncio
import os
import pty
from pathlib import Path
from typing import Any

import pytest

from tests.system.browser import Page, browsing
from tests.system.processes import clean_environment, until
from tests.system.states import STATES, Situation

PROBLEMS = """
[...document.querySelectorAll('#problems > li')].map((each) => ({
  kind: each.dataset.kind, cause: each.querySelector('.cause').innerText, fix: each.querySelector('.fix').innerText,
  commands: [...each.querySelectorAll('code.command')].map((command) => command.innerText),
}))
"""


@pytest.mark.parametrize("name", STATES)
async def test_the_page_names_the_cause_and_commands_that_work_and_sees_the_end(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    async with STATES[name](tmp_path) as situation, browsing(tmp_path) as page:
        await page.go(f"{situation.daemon.base}/")
        problem = await until(lambda: shown(page, situation), f"the page says what is wrong: {situation.kind}")
        assert problem["fix"]
        await until(lambda: headline_is(page, situation), "the headline says so")
        await do_what_it_recommends(problem, cwd=elsewhere)

        await situation.end()
        if (base := situation.daemon.base) not in await page.value("location.href"):
            await page.go(f"{base}/")  # a restart has moved it
        await until(lambda: is_over(page, cwd=elsewhere), "the page sees the end", seconds=60)
        assert await page.text("#problems-section") == ""
        assert "none waits" in await page.text("#pace")


async def shown(page: Page, situation: Situation) -> dict[str, Any] | None:
    """Return the problem as the page shows it, once it says why."""
    for problem in await page.value(PROBLEMS):
        if problem["kind"] == situation.kind and all(words in problem["cause"] for words in situation.words):
            found: dict[str, Any] = problem
            return found
    return None


async def headline_is(page: Page, situation: Situation) -> bool:
    """Return whether the page and the status agree on how the daemon is."""
    headline = (await situation.daemon.status())["headline"]
    return bool(headline["state"] == situation.headline and await page.text("h1") == headline["text"])


async def is_over(page: Page, *, cwd: Path) -> bool:
    """Return whether the page shows that all is well. Do what it recommends about what the trouble left behind."""
    problems = await page.value(PROBLEMS)
    for problem in problems:
        if problem["kind"] == "dead_letters":
            await do_what_it_recommends(problem, cwd=cwd)
    headline = await page.text("h1")
    return not problems and headline.startswith("All accepted events are safe. Delivering: no event waits")


async def do_what_it_recommends(problem: dict[str, Any], *, cwd: Path) -> None:
    """Type each command of a problem into a shell; what asks whether it is meant is told yes."""
    for command in problem["commands"]:
        ours, theirs = pty.openpty()
        os.write(ours, b"y\n")
        try:
            process = await asyncio.create_subprocess_shell(
                command,
                env=clean_environment(),
                cwd=cwd,
                stdin=theirs,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                _, errors = await process.communicate()
        finally:
            os.close(ours)
            os.close(theirs)
        # To find something wrong is what diagnose is for.
        assert process.returncode == ("diagnose" in command), (command, errors.decode())
