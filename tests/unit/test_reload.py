"""Settings that are read again: what changes is used, what cannot change is named, and nothing bad is taken up."""

import asyncio
import logging
import threading

import attrs
import pytest

from forwarder.observing.telemetry import Telemetry
from forwarder.reload import Reloading
from forwarder.settings import Address, Problem, Secret, Settings, SettingsError, load, merge, reference
from tests.fakes.events import counted

KEY = ["growlytics.api_key=sk-SECRET"]


def settings(*overrides: str) -> Settings:
    return load(None, environ={}, overrides=[*KEY, *overrides], require_api_key=True).settings


class Reloaded:
    """What is loaded next, what is used, and what was said."""

    def __init__(self) -> None:
        self.used = settings()
        self.next: Settings | SettingsError = self.used
        self.uses: list[Settings] = []
        self.changed_files: list[str] = []
        self.telemetry = Telemetry()
        self.now = 1000.0
        self.reloading = Reloading(
            lambda: self.used,
            load=self._load,
            use=self._use,
            reread=self._reread,
            telemetry=self.telemetry,
            clock=lambda: self.now,
        )

    def _load(self) -> Settings:
        if isinstance(self.next, SettingsError):
            raise self.next
        return self.next

    def _use(self, new: Settings) -> None:
        self.used = new
        self.uses.append(new)

    async def _reread(self) -> list[str]:
        return self.changed_files

    async def read(self, found: Settings | SettingsError) -> None:
        self.next = found
        self.now += 1
        await self.reloading.read()

    @property
    def counts(self) -> tuple[float, ...]:
        return tuple(
            counted(self.telemetry, "config_reloads_total", result=result)
            for result in ("changed", "unchanged", "failed")
        )


@pytest.fixture
def reloaded() -> Reloaded:
    return Reloaded()


async def test_what_can_change_is_used_and_what_cannot_is_named_until_it_is_as_it_was(
    reloaded: Reloaded, caplog: pytest.LogCaptureFixture
) -> None:
    await reloaded.read(settings("delivery.max_concurrency=8", "log.level=debug", "buffer.max_events=5"))
    assert (reloaded.used.delivery.max_concurrency, reloaded.used.log.level) == (8, "debug")
    assert reloaded.used.buffer.max_events == 100_000
    assert reloaded.reloading.status() == {
        "loaded_at": 1001.0,
        "restart_needed": ["buffer.max_events"],
        "error": None,
        "file_faults": {},
    }
    line = caplog.records[-1]
    assert line.levelno == logging.WARNING
    assert line.__dict__["fields"] == {
        "changed": ["delivery.max_concurrency", "log.level"],
        "restart_needed": ["buffer.max_events"],
    }
    await reloaded.read(settings("delivery.max_concurrency=8", "log.level=debug"))
    assert reloaded.reloading.status()["restart_needed"] == []
    assert len(reloaded.uses) == 1
    assert reloaded.counts == (1, 1, 0)


async def test_bad_settings_change_nothing_and_say_why_until_they_are_mended(
    reloaded: Reloaded, caplog: pytest.LogCaptureFixture
) -> None:
    await reloaded.read(SettingsError([Problem("log.level", "must be loud"), Problem("x", "does not exist")]))
    assert (reloaded.uses, reloaded.counts) == ([], (0, 0, 1))
    assert reloaded.reloading.status() == {
        "loaded_at": 1000.0,
        "restart_needed": [],
        "error": "log.level: must be loud; x: does not exist",
        "file_faults": {},
    }
    line = caplog.records[-1]
    assert line.levelno == logging.ERROR
    assert line.__dict__["fields"] == {"problems": ["log.level: must be loud", "x: does not exist"]}
    await reloaded.read(settings("log.level=warning"))
    assert reloaded.reloading.status() == {"loaded_at": 1002.0, "restart_needed": [], "error": None, "file_faults": {}}
    assert reloaded.counts == (1, 0, 1)


async def test_a_new_secret_is_used_and_named_but_never_shown(
    reloaded: Reloaded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await reloaded.read(settings("growlytics.api_key=sk-ANOTHER"))
    assert reloaded.used.growlytics.api_key == Secret("sk-ANOTHER")
    assert caplog.records[-1].__dict__["fields"] == {"changed": ["growlytics.api_key"]}
    logged = str([record.__dict__ for record in caplog.records])
    assert "sk-SECRET" not in logged
    assert "sk-ANOTHER" not in logged


async def test_what_can_change_is_not_taken_up_where_it_does_not_go_with_what_cannot(reloaded: Reloaded) -> None:
    """Or the daemon would go on listening where other machines can reach it, with no token any more."""
    remote = attrs.evolve(reloaded.used.intake, http=Address("0.0.0.0", 8920), token=Secret("t"))
    reloaded.used = attrs.evolve(reloaded.used, intake=remote)
    await reloaded.read(settings("intake.http=127.0.0.1:8920"))
    assert (reloaded.uses, reloaded.counts) == ([], (0, 0, 1))
    assert reloaded.used.intake.token == Secret("t")
    assert "or restart the daemon" in str(reloaded.reloading.status()["error"])


async def test_requests_while_it_reads_are_one_and_it_serves_until_it_is_cancelled(reloaded: Reloaded) -> None:
    serving = asyncio.create_task(reloaded.reloading.serve())
    for expected in (1, 2):
        for _ in range(3):
            reloaded.reloading.reload()
        async with asyncio.timeout(30):
            while sum(reloaded.counts) < expected:
                await asyncio.sleep(0)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    assert reloaded.counts == (0, 2, 0)


async def test_a_file_that_the_settings_name_and_that_changed_is_named_though_the_settings_are_as_before(
    reloaded: Reloaded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reloaded.changed_files = ["growlytics.ca_file"]
    await reloaded.read(settings())
    assert caplog.records[-1].getMessage() == "settings were read again"
    assert caplog.records[-1].__dict__["fields"] == {"changed": ["growlytics.ca_file"]}
    assert (reloaded.uses, reloaded.counts) == ([], (1, 0, 0))


async def test_without_a_thread_to_read_in_nothing_changes_and_the_daemon_goes_on(
    reloaded: Reloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot)
        await reloaded.read(settings("log.level=debug"))
    assert (reloaded.uses, reloaded.counts) == ([], (0, 0, 1))
    assert "no thread left" in str(reloaded.reloading.status()["error"])


async def test_a_file_that_does_not_answer_is_told_of_and_the_next_request_is_heard(reloaded: Reloaded) -> None:
    answers = threading.Event()
    stuck = Reloading(
        lambda: reloaded.used,
        load=lambda: settings("log.level=debug") if answers.wait(10) else settings(),
        use=reloaded._use,
        reread=reloaded._reread,
        telemetry=reloaded.telemetry,
        read_seconds=0.01,
    )
    await stuck.read()
    assert "could not be read within 0.01 s" in str(stuck.status()["error"])
    answers.set()
    stuck._read_seconds = 10.0
    await stuck.read()
    assert (reloaded.used.log.level, stuck.status()["error"]) == ("debug", None)
    assert reloaded.counts == (1, 0, 1)


def test_exactly_the_settings_that_are_marked_so_change_in_a_running_daemon() -> None:
    """Every setting is given another value, as far as the rules between them allow that."""
    values = {
        "growlytics.url": "https://other.example/",
        "growlytics.api_key": "sk-OTHER",
        "growlytics.timeout_seconds": "9",
        "growlytics.proxy": "http://proxy.example:3128",
        "intake.http": "127.0.0.1:8921",
        "intake.unix_socket": "/run/a",
        "intake.lines_socket": "/run/b",
        "intake.datagram_socket": "/run/c",
        "intake.unix_socket_mode": "0600",
        "intake.token": "other",
        "intake.allow_remote_without_token": "true",
        "intake.allowed_hosts": "other.example",
        "intake.allowed_origins": "https://other.example",
        "contract.attribute_types": "strip",
        "contract.types_file": "/types",
        "contract.fill_missing_time": "true",
        "buffer.kind": "memory",
        "buffer.directory": "/other",
        "buffer.when_full": "drop_oldest",
        "buffer.fsync": "true",
        "delivery.order": "none",
        "delivery.on_ambiguous": "dead_letter",
        "admin.http": "127.0.0.1:9921",
        "admin.page": "true",
        "control.socket": "/run/d",
        "control.group": "54321",
        "log.level": "error",
        "log.format": "text",
        "loop": "asyncio",
    }
    only_in_files = {"growlytics.api_key_file", "growlytics.ca_file", "growlytics.proxy_file", "intake.token_file"}
    only_in_files.add("delivery.on_ambiguous_events")
    settable = [each for each in reference() if each.path not in only_in_files]
    for each in settable:
        if each.path not in values:
            default = (each.default or "").strip('"')
            values[each.path] = "2 MiB" if default.endswith("iB") and default != "2 MiB" else str(float(default) + 1)
            if "." not in default:
                values[each.path] = values[each.path].removesuffix(".0")
    changes = merge(settings(), settings(*(f"{path}={value}" for path, value in values.items())))
    assert set(changes.taken_up) == {each.path for each in settable if each.live}
    assert set(changes.restart_needed) == {each.path for each in settable if not each.live}
    assert merge(changes.settings, changes.settings).taken_up == ()
