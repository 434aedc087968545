"""The directory of the database: who holds it, what is kept in reserve, and the names of what was set aside."""

import errno
import fcntl
import os
import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from forwarder.database.directory import FILE_NAME, Directory, DirectoryError, DirectoryInUseError
from forwarder.database.files import Lock, LockTakenError, UnfitFileError

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


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            "1 web-7f9c",
            r"in use by process 1 on host 'web-7f9c', which is another machine or container; stop it, or give",
        ),
        (f"123 {socket.gethostname()}", "in use by process 123; stop it"),
        ("123", "in use by process 123; stop it"),
        ("", "in use by another process; stop it"),
        ("123 \x1b[31m", r"in use by process 123 on host '\\x1b\[31m'"),
    ],
)
def test_who_has_it_is_told_with_the_host_where_that_is_another_one(
    directory: Directory, written: str, told: str
) -> None:
    directory.path.mkdir()
    (directory.path / "lock").write_text(written)
    with (directory.path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DirectoryInUseError, match=told):
            directory.open()
    assert (directory.path / "lock").read_text() == written


def test_who_only_looks_whether_anybody_has_it_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        patient = Lock(tmp_path, pause=lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        patient.take()
        assert patient.is_taken
        with pytest.raises(LockTakenError):
            Lock(tmp_path, pause=lambda _: None).take()
        patient.release()


def test_a_lock_file_without_a_number_does_not_disturb_the_message(directory: Directory) -> None:
    directory.open()
    (directory.path / "lock").write_text("not a number")
    with pytest.raises(DirectoryInUseError, match="in use by another process"):
        Directory(directory.path).open()
    directory.close()


def test_taking_the_lock_again_leaves_no_file_open(directory: Directory) -> None:
    directory.open()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        (directory.path / "lock").unlink()
        assert directory.lock_again()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    directory.close()


def test_a_lock_that_is_swapped_just_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def swap(path: str | Path, *options: int, **more: int) -> int:
        if str(path).endswith("lock"):
            os.mkfifo(path)
        return real(path, *options, **more)

    monkeypatch.setattr("os.open", swap)
    with pytest.raises(DirectoryError, match=r"lock is a named pipe"):
        Directory(tmp_path / "buffer").open()


def test_a_file_that_is_swapped_while_sqlite_opens_it_is_refused(directory: Directory) -> None:
    directory.open()
    with directory.file.open("x"):
        directory.note_files()
        directory.file.rename(directory.path / "swapped")
        directory.file.touch()
        with pytest.raises(UnfitFileError, match="was replaced while it was opened"):
            directory.note_files()
    directory.close()


def test_files_of_another_user_will_do_where_new_files_belong_to_that_one_too(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server of NFS has one user for all."""
    directory.path.mkdir()
    directory.file.touch()
    user = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: user + 1)
    directory.open()
    assert names(directory) == {"lock", FILE_NAME}, "nothing is left of the trial"
    directory.close()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_its_place_is_refused_with_the_mend(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DirectoryError, match=r"[nN]ot a directory; name a directory .* or set buffer.kind = \"memory\""
    ) as told:
        Directory(tmp_path / "file" / below).open()
    assert "buffer.directory: cannot use" in str(told.value)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def link_to_a_file(path: Path) -> None:
    (path.parent / "target").write_text("of somebody else")
    path.symlink_to("target")


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o020666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")


def of_another_user(path: Path) -> None:
    path.touch()
    try:
        os.chown(path, 65534, 65534)
    except PermissionError:
        pytest.skip("only root may give a file away")


NAMES = [
    "lock",
    "reserve",
    "room",
    FILE_NAME,
    f"{FILE_NAME}-wal",
    f"{FILE_NAME}-shm",
    f"{FILE_NAME}-journal",
    f"{FILE_NAME}.damaged-20261128T080000.000000Z",
    f"{FILE_NAME}.damaged-20261128T080000.000000Z-wal",
    f"{FILE_NAME}.salvaged-20261128T080000.000000Z",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("put", "told"),
    [
        (pipe, "is a named pipe; remove it"),
        (link, "is a symbolic link, which is not followed; remove it, or put the file itself"),
        (link_to_a_file, "is a symbolic link, which is not followed"),
        (Path.mkdir, "is a directory; remove or rename it"),
        (listening_socket, "is a socket; remove it"),
        (device, "is a device; remove it"),
        (of_another_user, r"belongs to another user \(uid 65534, .*; run as that user, or give all files .*: chown "),
    ],
)
def test_what_is_no_plain_file_of_this_user_is_refused_by_name_and_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, put: Callable[[Path], None], told: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    directory = Directory(Path("buffer"), reserve_bytes=SMALL_RESERVE_BYTES)
    directory.path.mkdir()
    put(directory.path / name)
    before = {path.name: path.lstat() for path in directory.path.iterdir()}
    with pytest.raises(DirectoryError, match=f"^buffer.directory: buffer/{re.escape(name)} {told}"):
        directory.open()
    after = {path.name: path.lstat() for path in directory.path.iterdir() if path.name in before}
    assert after == before
    (directory.path / name).rename("out of the way")
    directory.open()
    directory.close()


def test_files_that_a_backup_has_made_hard_links_to_are_used(directory: Directory, tmp_path: Path) -> None:
    directory.path.mkdir()
    (tmp_path / "backup").mkdir()
    for name in NAMES:
        (directory.path / name).touch()
        os.link(directory.path / name, tmp_path / "backup" / name)
    directory.open()
    directory.close()


def test_the_directory_itself_may_be_a_link_and_may_be_writable_by_its_group(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o770)
    (tmp_path / "real").chmod(0o770)
    (tmp_path / "link").symlink_to("real")
    directory = Directory(tmp_path / "link", reserve_bytes=SMALL_RESERVE_BYTES)
    directory.open()
    assert not directory.is_open_to_everybody
    for mode in (0o777, 0o1777, 0o702):
        (tmp_path / "real").chmod(mode)
        assert directory.is_open_to_everybody
    directory.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_as_that(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        DirectoryError, match=r"cannot be locked \(.*\), as on NFS without .*; name a directory on a local"
    ):
        directory.open()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS])
def test_a_file_that_sqlite_cannot_lock_is_named_as_that(directory: Directory, code: int) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert "files on its file system cannot be locked (disk I/O error), as on NFS" in str(directory.unusable(error))


def test_an_error_names_the_path_that_it_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str | Path, *options: int, **more: int) -> int:
        if str(path).endswith("lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *options, **more)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(
        DirectoryError,
        match=r"cannot use .*/buffer: Permission denied: .*/buffer/lock; name a directory that this user",
    ):
        Directory(tmp_path / "buffer").open()


def test_paths_that_lead_nowhere_are_told_from_each_other(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("about")
    (tmp_path / "about").symlink_to("round")
    (tmp_path / "dangling").symlink_to("nothing")
    for path, told in (
        (tmp_path / "round", "Too many levels of symbolic links"),
        (tmp_path / "dangling", "it is a symbolic link to nothing"),
        (tmp_path / ("x" * 300), "File name too long; name a directory with a shorter path"),
    ):
        with pytest.raises(DirectoryError, match=told):
            Directory(path).open()


def test_a_closed_directory_does_nothing_to_the_one_that_the_process_is_in(
    directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.open()
    directory.close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reserve").write_text("of somebody else")
    assert not directory.free_reserve()
    assert not directory.has_reserve
    assert not directory.has_room
    with pytest.raises(OSError, match="closed"):
        directory.reserve()
    assert (tmp_path / "reserve").read_text() == "of somebody else"


def test_the_reserve_takes_up_real_space_and_can_be_given_up_once(directory: Directory) -> None:
    directory.open()
    found = [directory.has_reserve]
    directory.reserve()
    found.append(directory.has_reserve)
    assert found == [False, True]
    reserve = (directory.path / "reserve").stat()
    assert reserve.st_blocks * 512 >= SMALL_RESERVE_BYTES == reserve.st_size
    given_up = [directory.free_reserve() for _ in range(2)]
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
    first = directory.quarantine()
    directory.file.write_text("second")
    second = directory.quarantine()
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
    name = directory.quarantine()
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
