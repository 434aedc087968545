"""`check-config` warns of settings that lock the door in name only."""

import secrets

import pytest

from tests.system.processes import ANY_MACHINE, clean_environment, run_command

REACHABLE = ("--set=intake.http=0.0.0.0:0",)
STRONG = f"--set=intake.token={secrets.token_hex(20)}"
WEAK: dict[str, tuple[tuple[str, ...], str]] = {
    "a letter as the token": ((*REACHABLE, "--set=intake.token=x"), "intake.token"),
    "a word as the token": ((*REACHABLE, "--set=intake.token=secret"), "intake.token"),
    "a short token": ((*REACHABLE, "--set=intake.token=a1B2"), "intake.token"),
    "a letter again and again": ((*REACHABLE, f"--set=intake.token={'a' * 40}"), "intake.token"),
    "any host": (("--set=intake.allowed_hosts=*",), "intake.allowed_hosts"),
    "any host, reachable": ((*REACHABLE, STRONG, "--set=intake.allowed_hosts=*"), "intake.allowed_hosts"),
    "any host among others": (("--set=intake.allowed_hosts=localhost,*",), "intake.allowed_hosts"),
}
STRICT: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "a token": (*REACHABLE, STRONG),
    "hosts": ("--set=intake.allowed_hosts=localhost,forwarder.internal",),
}


async def check(*arguments: str) -> tuple[int, str]:
    environment = clean_environment(**ANY_MACHINE, FORWARDER_GROWLYTICS__API_KEY=secrets.token_hex(20))
    code, out, err = await run_command("check-config", *arguments, environment=environment)
    return code, out + err


@pytest.mark.parametrize(("arguments", "setting"), WEAK.values(), ids=WEAK)
async def test_a_weak_door_is_a_warning(arguments: tuple[str, ...], setting: str) -> None:
    code, said = await check(*arguments)
    assert code == 0, said
    warnings = [line for line in said.splitlines() if "warning" in line]
    assert any(setting in line for line in warnings), said


@pytest.mark.parametrize("arguments", STRICT.values(), ids=STRICT)
async def test_a_strong_door_is_none(arguments: tuple[str, ...]) -> None:
    code, said = await check(*arguments)
    assert code == 0, said
    assert "warning" not in said
