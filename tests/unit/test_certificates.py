"""The file of certificates: what makes it another one, and that nothing but a whole one takes the place of what is used."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from forwarder.growlytics.connecting import Certificates, read_certificates, system_certificates
from forwarder.host.secret_file import WatchedFile
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import RefusedError
from tests.fakes.events import counted

SETTING = "growlytics.ca_file"


@pytest.fixture(scope="module")
def authorities() -> list[bytes]:
    """Return the certificates of three authorities."""
    return [trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes() for _ in range(3)]


class Watched:
    """A file of certificates, and what was taken up from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.telemetry = Telemetry()
        self.used: list[Certificates] = []
        self.file = WatchedFile(
            str(path),
            setting=SETTING,
            read=read_certificates,
            current=read_certificates(str(path)),
            on_new=self.used.append,
            telemetry=self.telemetry,
        )

    def trusted(self) -> int:
        """Return how many authorities are trusted by what was taken up last."""
        return len(self.used[-1].tls.get_ca_certs())

    @property
    def counts(self) -> tuple[float, ...]:
        results = ("changed", "unchanged", "failed")
        return tuple(counted(self.telemetry, "config_reloads_total", result=result) for result in results)


@pytest.fixture
def watched(tmp_path: Path, authorities: list[bytes]) -> Watched:
    path = tmp_path / "ca.pem"
    path.write_bytes(authorities[0])
    return Watched(path)


def replace(path: Path, content: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


@pytest.mark.parametrize("swap", [replace, Path.write_bytes])
async def test_other_certificates_are_taken_up_once(
    watched: Watched, authorities: list[bytes], swap: Callable[[Path, bytes], object]
) -> None:
    assert not await watched.file.poll()
    swap(watched.path, authorities[1] + authorities[2])
    assert await watched.file.poll()
    assert not await watched.file.poll()
    assert (len(watched.used), watched.trusted(), watched.counts) == (1, 2, (1, 0, 0))


async def test_what_kubernetes_swaps_by_links_is_taken_up(
    watched: Watched, authorities: list[bytes], tmp_path: Path
) -> None:
    for version, content in (("..1", authorities[0]), ("..2", authorities[1])):
        (tmp_path / version).mkdir()
        (tmp_path / version / "ca.pem").write_bytes(content)
    (tmp_path / "..data").symlink_to("..1")
    watched.path.unlink()
    watched.path.symlink_to(Path("..data") / "ca.pem")
    assert not await watched.file.poll()
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert await watched.file.poll()
    assert watched.counts == (1, 0, 0)


async def test_the_same_certificates_written_again_change_nothing(watched: Watched, authorities: list[bytes]) -> None:
    await watched.file.poll()
    replace(watched.path, authorities[0])
    assert not await watched.file.poll()
    assert watched.counts == (0, 1, 0)


def test_a_file_that_only_says_which_certificates_are_revoked_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=name, last_update=at, next_update=at + timedelta(days=1)
    )
    file = tmp_path / "ca.pem"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(RefusedError, match="names a file that holds no certificate"):
        read_certificates(str(file))


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _scribble(path: Path) -> None:
    path.write_bytes(b"CANARY")


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_remove, _cut, _empty, _scribble, _make_pipe])
async def test_a_file_of_no_use_changes_nothing_is_said_once_and_is_read_until_it_is_whole(
    watched: Watched, authorities: list[bytes], spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    await watched.file.poll()
    spoil(watched.path)
    for _ in range(3):
        assert not await watched.file.poll()
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert "the last certificates stay in use" in line.getMessage()
    assert line.__dict__["fields"]["setting"] == SETTING
    assert "CANARY" not in str(line.__dict__)
    assert (watched.used, watched.counts) == ([], (0, 0, 1))
    replace(watched.path, authorities[1])
    assert await watched.file.poll()
    assert watched.counts == (1, 0, 1)


async def test_a_file_that_is_caught_half_written_is_read_again(watched: Watched, authorities: list[bytes]) -> None:
    whole = authorities[1] + authorities[2]
    await watched.file.poll()
    with watched.path.open("wb", buffering=0) as file:
        file.write(whole[: len(authorities[1])])
        assert await watched.file.poll(), "as far as one can see it is whole"
        file.write(whole[len(authorities[1]) : -30])
        assert not await watched.file.poll()
        file.write(whole[-30:])
    assert await watched.file.poll()
    assert watched.trusted() == 2


def test_a_file_of_no_use_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read: No such file"):
        read_certificates(str(tmp_path / "gone"))


def test_the_system_has_authorities_and_they_are_verified_as_any() -> None:
    assert system_certificates().tls.check_hostname
