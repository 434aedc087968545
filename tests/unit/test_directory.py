"""The directory of the database: who holds it, what is kept in reserve, and the names of what was set aside."""

import errno
import os
from pathlib import Path

import pytest

from forwarder.database.directory import FILE_NAME, Directory, DirectoryError, DirectoryInUseError

SMALL_RESERVE_BYTES = 64 * 1024


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "buffer", reserve_bytes=SMALL_RESERVE_BYTES)


def names(directory: Directory) -> set[str]:
    return {path.name for path in directory.path.iterdir()}


def test_it_is_made_with_its_parents_for_its_user_alone(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "a" / "b")
    directory.open()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    directory.close()


def test_a_second_one_is_told_which_process_has_it_until_that_lets_it_go(directory: Directory) -> None:
    directory.open()
    second = Directory(directory.path)
    with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}; stop it, or give each process"):
        second.open()
    directory.close()
    directory.close()
    second.open()
    second.close()


def test_a_lock_file_without_a_number_does_not_disturb_the_message(directory: Directory) -> None:
    directory.open()
    (directory.path / "lock").write_text("not a number")
    with pytest.raises(DirectoryInUseError, match="in use by another process"):
        Directory(directory.path).open()
    directory.close()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_its_place_is_refused_with_the_mend(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DirectoryError, match=r"[nN]ot a directory; name a directory .* or set buffer.kind = \"memory\""
    ) as told:
        Directory(tmp_path / "file" / below).open()
    assert "buffer.directory: cannot use" in str(told.value)


def test_the_reserve_takes_up_real_space_and_can_be_given_up_once(directory: Directory) -> None:
    directory.open()
    found = [directory.has_reserve]
    directory.reserve()
    found.append(directory.has_reserve)
    assert found == [False, True]
    reserve = (directory.path / "reserve").stat()
    assert reserve.st_blocks * 512 >= SMALL_RESERVE_BYTES == reserve.st_size
    given_up = [directory.give_up_reserve() for _ in range(2)]
    assert given_up == [True, False]
    assert "reserve" not in names(directory)
    directory.close()


def test_a_reserve_that_there_is_no_room_for_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "buffer", reserve_bytes=1 << 62)
    directory.open()
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG) + "|" + os.strerror(errno.ENOSPC)):
        directory.reserve()
    assert names(directory) == {"lock"}
    directory.close()


def test_proving_that_there_is_room_takes_none(directory: Directory) -> None:
    directory.open()
    assert directory.has_room
    assert names(directory) == {"lock"}
    directory.close()


def test_a_file_is_set_aside_with_its_log_and_listed_until_it_is_salvaged(directory: Directory) -> None:
    directory.open()
    directory.file.write_text("first")
    Path(f"{directory.file}-wal").write_text("first log")
    first = directory.set_aside()
    directory.file.write_text("second")
    second = directory.set_aside()
    assert first.startswith("buffer.db.damaged-20")
    assert directory.damaged() == [first, second]
    assert (directory.path / f"{first}-wal").read_text() == "first log"
    directory.mark_salvaged(first)
    assert directory.damaged() == [second]
    assert (directory.path / first.replace("damaged", "salvaged")).read_text() == "first"
    directory.mark_salvaged(second)
    assert names(directory) == {"lock", second.replace("damaged", "salvaged")}, "only the last one is kept"
    directory.mark_salvaged(second)
    directory.close()


def test_setting_aside_that_was_interrupted_before_the_log_is_finished_at_the_next_start(directory: Directory) -> None:
    directory.open()
    directory.file.write_text("file")
    name = directory.set_aside()
    Path(f"{directory.file}-wal").write_text("log")  # as if the process had been killed between the two
    directory.close()
    directory.open()
    assert (directory.path / f"{name}-wal").read_text() == "log"
    assert not directory.has_lost_its_file
    directory.close()


@pytest.mark.parametrize(
    ("sizes", "lost"),
    [
        ({}, False),
        ({FILE_NAME: 0}, False),
        ({FILE_NAME: 0, f"{FILE_NAME}-wal": 0, f"{FILE_NAME}-shm": 32768}, False),
        ({f"{FILE_NAME}-wal": 0}, False),
        ({FILE_NAME: 4096}, False),
        ({FILE_NAME: 1}, True),
        ({FILE_NAME: 4095}, True),
        ({FILE_NAME: 0, f"{FILE_NAME}-wal": 32}, True),
        ({f"{FILE_NAME}-wal": 4152}, True),
    ],
)
def test_a_part_of_a_page_or_a_log_alone_is_what_damage_leaves_and_an_empty_file_is_new(
    directory: Directory, sizes: dict[str, int], lost: bool
) -> None:
    directory.open()
    for name, size in sizes.items():
        (directory.path / name).write_bytes(b"x" * size)
    assert directory.has_lost_its_file == lost
    directory.close()
