"""What the environment says of TLS must not keep the daemon from starting, or say why in one line."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.system.processes import ANY_MACHINE, COMMAND, KEY, clean_environment, run_command


@pytest.mark.parametrize("wrong", ["SSLKEYLOGFILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"])
async def test_a_variable_of_tls_that_names_nothing_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, wrong: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "run", f"--set=buffer.directory={tmp_path}", "--set=intake.http=127.0.0.1:0", "--set=admin.http=",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY, **{wrong: str(tmp_path / "missing" / "file")}),
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(20):
        async for line in process.stdout:
            if json.loads(line)["message"] == "ready":
                break
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 0
    warnings = err.decode().splitlines()
    assert [wrong in each for each in warnings] == ([] if wrong == "OPENSSL_CONF" else [True])
    assert not [each for each in warnings if "warning: " not in each]


async def test_a_configuration_of_openssl_without_ciphers_is_an_error_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "openssl.cnf"
    file.write_text("openssl_conf = a\n[a]\nproviders = b\n[b]\nno = c\n[c]\nmodule = /nowhere.so\nactivate = 1\n")
    environment = clean_environment(FORWARDER_GROWLYTICS__API_KEY=KEY, OPENSSL_CONF=str(file))
    for command in (["run"], ["check-config"], ["sandbox"], ["demo"]):
        code, _, err = await run_command(*command, environment=environment)
        assert code == 78
        assert err.count("\n") <= 2
        assert "OPENSSL_CONF" in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["check-config"], 0),
        (["demo", "--events=5"], 0),
        (["send", "--customer=c", "--name=n", "--url=http://127.0.0.1:1"], 1),
        (["load", "--url=http://127.0.0.1:1", "/dev/null"], 0),
        (["lint", "/dev/null"], 0),
        (["dead-letters", "list", "--url=http://127.0.0.1:1"], 1),
        (["attribute-types", "list", "--url=http://127.0.0.1:1"], 1),
        (["top", "--once", "--url=http://127.0.0.1:1"], 1),
        (["healthcheck", "--url=http://127.0.0.1:1"], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_other_commands_do_not_fail_by_a_key_log_either(
    tmp_path: Path, command: list[str], expected: int
) -> None:
    environment = clean_environment(
        **ANY_MACHINE, SSLKEYLOGFILE=str(tmp_path / "missing" / "keys"), FORWARDER_GROWLYTICS__API_KEY=KEY
    )
    code, _, err = await run_command(*command, environment=environment)
    assert code == expected, err
    assert err.count("SSLKEYLOGFILE") == 1
    assert "Traceback" not in err


async def test_the_sandbox_does_not_fail_by_a_key_log_either(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "sandbox", "--http=127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=clean_environment(SSLKEYLOGFILE=str(tmp_path / "missing" / "keys")),
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert b"sandbox ready" in await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert err.count(b"SSLKEYLOGFILE") == 1
