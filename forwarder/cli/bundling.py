"""What a bundle for support contains, and the archive that it is.

Invariants: no payload, no customer id and no secret is in it. What may show one by mistake goes through `masking`, and of
the daemon's status all that looks like a part of an event is left out. The archive has mode 0600. It appears under its name
only when it is whole, and replaces another file only if it may. Used by `bundle`.
"""

import io
import json
import os
import socket
import stat
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from forwarder.cli.checks import Checked, described, together_if_skipped
from forwarder.cli.daemon_checks import DaemonFacts
from forwarder.masking import Masking
from forwarder.words import DEBUG_PARTS

_MAX_TEXT_CHARACTERS: Final = 500
_MAX_DEPTH: Final = 20
_PAYLOAD_LIKE: Final = frozenset(
    {
        "answer",
        "attributes",
        "body",
        "customer",
        "customer_id",
        "customerid",
        "customers",
        "event",
        "payload",
        "value",
        "values",
    }
)
"""No member of the status has such a name; if one ever has, a bundle is not the place for it."""
_AS_TEXT: Final = {"metrics": "metrics.txt", "log": "log.txt"}
_MODE: Final = 0o600


class NotWrittenError(Exception):
    """There is no archive; the message says why, and the fix."""


def check_target(path: Path | None, *, force: bool) -> None:
    """Raise NotWrittenError if no archive can be put there; None is standard output."""
    if path is None:
        if sys.stdout.isatty():
            raise NotWrittenError("an archive is nothing for a terminal; send the output into a file")
        return
    try:
        found = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise NotWrittenError(f"{path.parent} is no directory; name a file in one that exists") from None
        is_effective = os.access in os.supports_effective_ids
        # Now, so that nobody waits for all checks to learn it.
        if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=is_effective):
            why = f"this user may not write to {path.parent}"
            raise NotWrittenError(f"{why}; name a file in another directory, such as /tmp/bundle.tar.gz") from None
        return
    except OSError as error:
        raise NotWrittenError(f"{path} cannot be looked at: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise NotWrittenError(f"{path} exists and is not a plain file; name another")
    if not force:
        raise NotWrittenError(f"{path} exists; name another file, or use --force to replace it")


def parts(
    daemon: DaemonFacts,
    checked: Sequence[Checked],
    *,
    settings: str,
    versions: Callable[[], Mapping[str, object]],
    masking: Masking,
) -> dict[str, bytes]:
    """Return the files of a bundle by their names. `settings` are this command's as TOML, secrets masked.

    `versions` returns those of this command, which are told where the daemon does not tell its own.
    """
    files: dict[str, object] = {
        "diagnose.json": described(checked),
        "diagnose.txt": "".join(f"{line}\n" for lines in together_if_skipped(checked, into=[]) for line in lines),
        "settings.toml": settings,
    }
    missing: dict[str, list[str]] = {}
    """The files that are not there, by the reason."""
    if daemon.status:
        files["daemon/status.json"] = without_payloads(daemon.status)
    else:
        missing[daemon.error or "no daemon answers"] = ["daemon/status.json"]
    for part in DEBUG_PARTS:
        name = f"daemon/{_AS_TEXT.get(part, f'{part}.json')}"
        content = daemon.debug.get(part)
        if content is None:
            missing.setdefault(daemon.why_no_debug or daemon.error or "the daemon does not say", []).append(name)
        elif isinstance(content, list) and part == "log":
            files[name] = "".join(f"{line}\n" for line in content if isinstance(line, str))
        else:
            files[name] = content
    if daemon.debug.get("versions") is None:
        files["versions.json"] = dict(versions())
    about = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "user": os.geteuid(),
        "has": sorted(files),
        "lacks": [{"files": names, "why": why} for why, names in missing.items()],
        "contains_no": "payloads, customer ids, secrets; names of events and attributes may appear",
    }
    return {name: _encoded(content, masking) for name, content in {"about.json": about, **files}.items()}


def without_payloads(value: Any, depth: int = 0) -> Any:
    """Return JSON without members that look like a part of an event, and with long texts cut."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        kept = {str(name): each for name, each in value.items() if str(name).lower() not in _PAYLOAD_LIKE}
        return {name[:_MAX_TEXT_CHARACTERS]: without_payloads(each, depth + 1) for name, each in kept.items()}
    if isinstance(value, list):
        return [without_payloads(each, depth + 1) for each in value]
    if isinstance(value, str):
        return value[:_MAX_TEXT_CHARACTERS]
    return value


def send_archive(out: BinaryIO, files: Mapping[str, bytes]) -> int:
    """Write the archive to a stream and return its size in bytes. Raise OSError."""
    whole = io.BytesIO()
    _fill(whole, "bundle", files)
    out.write(whole.getbuffer())
    out.flush()
    return whole.tell()


def write_archive(path: Path, files: Mapping[str, bytes], *, force: bool) -> int:
    """Write the archive and return its size in bytes. Raise NotWrittenError."""
    top = path.name.partition(".")[0] or "bundle"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, _MODE), "wb") as file:
            try:
                os.fchmod(file.fileno(), _MODE)  # whatever the umask is
                _fill(file, top, files)
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
                _put_in_place(temporary, path, force=force)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
    except OSError as error:
        raise NotWrittenError(f"{path} cannot be written: {error.strerror or error}") from None
    return size


def _fill(file: BinaryIO, top: str, files: Mapping[str, bytes]) -> None:
    now = time.time()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode, member.mtime = len(content), _MODE, int(now)
            archive.addfile(member, io.BytesIO(content))


def _put_in_place(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # unlike renaming, this replaces nothing that appeared meanwhile
    except FileExistsError:
        raise NotWrittenError(f"{path} exists by now; name another file, or use --force to replace it") from None
    except OSError:  # the file system has no hard links
        check_target(path, force=False)
        temporary.rename(path)


def _encoded(content: object, masking: Masking) -> bytes:
    if isinstance(content, str):
        return masking.text(content).encode(errors="backslashreplace")
    text = json.dumps(masking.value(content), indent=2, ensure_ascii=False, default=str)
    return f"{text}\n".encode(errors="backslashreplace")
