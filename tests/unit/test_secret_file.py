"""The file of the key: every way in which one is swapped is noticed, and no way in which one is spoiled does harm."""

import asyncio
import contextlib
import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forwarder.host.secret_file import WatchedFile
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Secret, read_secret_file
from tests.fakes.events import counted
from tests.fakes.virtual_time import NothingWillHappenError, VirtualTimeLoop

OLD, NEW, THIRD = "sk-THE-OLD-KEY", "sk-THE-NEW-KEY", "sk-THE-THIRD-KEY"


class _Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Watched:
    """A key file in a directory of its own, what was called because of it, and what was said."""

    def __init__(self, path: Path, records: list[logging.LogRecord]) -> None:
        self.path = path
        self.keys: list[str] = []
        self.telemetry = Telemetry()
        self._records = records
        self.key_file = self.made()

    def made(self, *, poll_seconds: float = 3600.0) -> WatchedFile[Secret]:
        return WatchedFile(
            str(self.path),
            setting="growlytics.api_key_file",
            read=read_secret_file,
            current=Secret(OLD),
            on_new=lambda key: self.keys.append(key.reveal()),
            telemetry=self.telemetry,
            poll_seconds=poll_seconds,
        )

    async def poll(self) -> None:
        await self.key_file.poll()

    @property
    def counts(self) -> tuple[float, float, float]:
        """How often it was changed, unchanged and failed."""
        results = ("changed", "unchanged", "failed")
        changed, unchanged, failed = (
            counted(self.telemetry, "config_reloads_total", result=result) for result in results
        )
        return changed, unchanged, failed

    @property
    def said(self) -> list[str]:
        """The levels of the lines so far. None of them may hold a key."""
        for record in self._records:
            for key in (OLD, NEW, THIRD):
                assert key not in f"{record.getMessage()} {record.__dict__}"
        return [record.levelname for record in self._records]

    @property
    def faults(self) -> list[object]:
        return [record.__dict__["fields"]["fault"] for record in self._records if record.levelname == "WARNING"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    path = tmp_path / "key"
    path.write_text(f"{OLD}\n")
    handler, logger = _Collecting(), logging.getLogger("forwarder")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield Watched(path, handler.records)
    logger.setLevel(level)
    logger.removeHandler(handler)


def replace(path: Path, text: str) -> None:
    """Put another file in the place of one, as careful programs do."""
    new = path.with_name("key.new")
    new.write_text(text)
    new.replace(path)


@contextlib.contextmanager
def written_unseen(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield what writes a content of the same length into a file so that, as a rule, none of its times changes."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = memory[:]  # the first write to a page shows in the times, those that follow do not

        def write(text: str) -> None:
            memory[:] = text.encode()

        yield write


# Changes


async def test_a_file_that_never_changes_is_never_mentioned(watched: Watched) -> None:
    for _ in range(5):
        await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 0, 0), [])


@pytest.mark.parametrize("swap", [replace, Path.write_text])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_new_key_is_handed_over_once(watched: Watched, swap: Callable[[Path, str], object], end: str) -> None:
    await watched.poll()
    swap(watched.path, NEW + end)
    for _ in range(3):
        await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([NEW], (1, 0, 0), ["INFO"])
    swap(watched.path, THIRD + end)
    await watched.poll()
    swap(watched.path, OLD + end)
    await watched.poll()
    assert (watched.keys, watched.counts) == ([NEW, THIRD, OLD], (3, 0, 0))


async def test_a_key_that_changed_since_the_settings_were_loaded_is_found_at_the_first_poll(watched: Watched) -> None:
    watched.path.write_text(NEW)
    await watched.poll()
    assert (watched.keys, watched.counts) == ([NEW], (1, 0, 0))


async def test_a_mounted_secret_of_kubernetes_is_followed_through_its_links(watched: Watched, tmp_path: Path) -> None:
    def publish(version: str, text: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    watched.path.unlink()
    publish("..1", OLD)
    watched.path.symlink_to(Path("..data") / "key")
    await watched.poll()
    assert (watched.keys, watched.counts) == ([], (0, 0, 0))
    publish("..2", NEW)
    await watched.poll()
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([NEW], (1, 0, 0), ["INFO"])
    # The other version again, with the very times of the first one.
    (tmp_path / "..data_tmp").symlink_to("..1")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await watched.poll()
    assert watched.keys == [NEW, OLD]


async def test_a_link_that_is_swapped_for_one_to_another_file_is_noticed(watched: Watched, tmp_path: Path) -> None:
    for name, text in (("a", OLD), ("b", NEW)):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(1, 1))
    watched.path.unlink()
    watched.path.symlink_to("a")
    await watched.poll()
    watched.path.unlink()
    watched.path.symlink_to("b")
    await watched.poll()
    assert watched.keys == [NEW], "size and time are the same"


async def test_the_same_key_written_again_counts_and_does_nothing(watched: Watched) -> None:
    await watched.poll()
    replace(watched.path, OLD + "\n")
    await watched.poll()
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 1, 0), [])


# Another file


async def test_another_file_is_watched_from_its_first_look_on_and_what_the_old_one_holds_is_nothing_to_it(
    watched: Watched,
) -> None:
    other = watched.path.with_name("other")
    other.write_text(NEW)
    await watched.poll()
    watched.key_file.use(str(other), Secret(NEW))
    await watched.poll()
    replace(watched.path, THIRD)
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 0, 0), [])
    replace(other, THIRD)
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([THIRD], (1, 0, 0), ["INFO"])


async def test_a_key_that_was_read_before_the_file_changed_and_is_taken_up_after_that_was_noticed_does_not_stay(
    watched: Watched,
) -> None:
    await watched.poll()
    replace(watched.path, NEW)
    await watched.poll()
    watched.key_file.use(str(watched.path), Secret(OLD))
    await watched.poll()
    assert watched.keys == [NEW, NEW]
    watched.key_file.use(str(watched.path), Secret(NEW))
    await watched.poll()
    assert watched.keys == [NEW, NEW]


async def test_a_poll_for_which_there_is_no_thread_is_left_out(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    await watched.poll()
    replace(watched.path, NEW)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", cannot)
        await watched.poll()
    assert (watched.keys, watched.said) == ([], [])
    await watched.poll()
    assert watched.keys == [NEW]


async def test_where_there_is_no_file_nothing_is_watched(watched: Watched) -> None:
    await watched.poll()
    watched.key_file.use(None, Secret(OLD))
    replace(watched.path, NEW)
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 0, 0), [])


# Files of no use


def _remove(path: Path) -> None:
    path.unlink()


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _make_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _write(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_remove, "cannot be read: No such file"),
        (_make_directory, "is no file"),
        (_make_pipe, "is no file"),
        (_make_loop, "cannot be read: Too many levels"),
        (_make_link_to_nothing, "cannot be read: No such file"),
        (_write(b""), "is empty"),
        (_write(b"\n\n"), "is empty"),
        (_write(f"{NEW}\n{THIRD}\n".encode()), "cannot be sent in an HTTP header"),
        (_write(f" {NEW}\n".encode()), "cannot be sent in an HTTP header"),
        (_write(NEW.encode() + b"\xff\x00"), "cannot be sent in an HTTP header"),
        (_write(NEW.encode() * 10_000), "larger than 64 KiB"),
        (_write(b"********\n"), "stands for a secret"),
    ],
)
async def test_a_file_of_no_use_keeps_the_key_and_is_said_once_until_it_is_mended(
    watched: Watched, spoil: Callable[[Path], None], fault: str
) -> None:
    await watched.poll()
    spoil(watched.path)
    for _ in range(5):
        await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 0, 1), ["WARNING"])
    assert fault in str(watched.faults[0])
    if watched.path.is_dir():
        watched.path.rmdir()
    replace(watched.path, NEW)
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([NEW], (1, 0, 1), ["WARNING", "INFO"])


async def test_a_file_that_was_gone_for_a_while_and_has_the_same_key_is_said_to_be_good_again(watched: Watched) -> None:
    await watched.poll()
    away = watched.path.rename(watched.path.with_name("away"))
    await watched.poll()
    away.rename(watched.path)
    await watched.poll()
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 1, 1), ["WARNING", "INFO"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_keeps_the_key_until_it_may(watched: Watched) -> None:
    await watched.poll()
    replace(watched.path, NEW)
    watched.path.chmod(0)
    await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == ([], (0, 0, 1), ["WARNING"])
    assert "Permission denied" in str(watched.faults[0])
    watched.path.chmod(0o600)
    await watched.poll()
    assert watched.keys == [NEW]


async def test_another_fault_is_said_too(watched: Watched) -> None:
    watched.path.write_bytes(b"")
    await watched.poll()
    watched.path.unlink()
    await watched.poll()
    assert (watched.counts, watched.said) == ((0, 0, 2), ["WARNING", "WARNING"])


async def test_each_change_to_a_content_of_no_use_counts_although_it_is_said_once(watched: Watched) -> None:
    for number in range(3):
        watched.path.write_bytes(b"\n" * number)
        await watched.poll()
    assert (watched.counts, watched.said) == ((0, 0, 3), ["WARNING"])


async def test_a_file_caught_between_truncation_and_write_is_read_again(watched: Watched) -> None:
    await watched.poll()
    with watched.path.open("r+") as file:
        file.truncate(0)
        await watched.poll()
        assert (watched.keys, watched.counts) == ([], (0, 0, 1))
        file.write(NEW)
    await watched.poll()
    assert (watched.keys, watched.counts) == ([NEW], (1, 0, 1))


@pytest.mark.parametrize(("key", "keys", "counts"), [(NEW, [NEW], (1, 0, 1)), (OLD, [], (0, 1, 1))])
async def test_a_file_of_no_use_is_read_again_even_if_it_seems_unchanged(
    watched: Watched, key: str, keys: list[str], counts: tuple[float, ...]
) -> None:
    watched.path.write_text(OLD[:-1] + "\0")
    with written_unseen(watched.path) as write:
        await watched.poll()
        assert (watched.keys, watched.counts) == ([], (0, 0, 1))
        write(key)
        await watched.poll()
    assert (watched.keys, watched.counts, watched.said) == (keys, counts, ["WARNING", "INFO"])


async def test_a_key_of_which_a_part_was_read_is_replaced_by_the_whole_one(watched: Watched) -> None:
    await watched.poll()
    watched.path.write_text(NEW[:5])
    await watched.poll()
    watched.path.write_text(NEW)
    await watched.poll()
    assert watched.keys == [NEW[:5], NEW]


# Serving


async def test_serving_polls_until_it_is_cancelled(watched: Watched) -> None:
    watched.key_file = watched.made(poll_seconds=0.001)
    serving = asyncio.create_task(watched.key_file.serve())
    try:
        async with asyncio.timeout(30):
            for spoiled, key in ((b"", NEW), (b"\xff", THIRD)):
                failed = watched.counts[2]
                watched.path.write_bytes(spoiled)
                while watched.counts[2] == failed:
                    await asyncio.sleep(0.001)
                replace(watched.path, key)
                while key not in watched.keys:
                    await asyncio.sleep(0.001)
    finally:
        serving.cancel()
        await asyncio.wait([serving])
    assert serving.cancelled()
    assert watched.keys == [NEW, THIRD]


@pytest.mark.timeout(10)
def test_while_no_file_is_set_there_is_nothing_to_wake_up_for(watched: Watched) -> None:
    watched.key_file.use(None, Secret(OLD))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, pytest.raises(NothingWillHappenError):
        runner.run(watched.key_file.serve())


async def test_a_file_that_is_set_later_is_polled_from_then_on(watched: Watched) -> None:
    watched.key_file = watched.made(poll_seconds=0.001)
    watched.key_file.use(None, Secret(OLD))
    serving = asyncio.create_task(watched.key_file.serve())
    await asyncio.sleep(0)
    watched.key_file.use(str(watched.path), Secret(OLD))
    replace(watched.path, NEW)
    async with asyncio.timeout(30):
        while watched.keys != [NEW]:
            await asyncio.sleep(0.001)
    serving.cancel()
    await asyncio.wait([serving])
