"""What the environment says of TLS: ignored with a warning, warned of, or an error in one line."""

import os
import ssl
from pathlib import Path

import pytest

from forwarder.cli.options import certificate_warnings, ignore_useless_key_log, key_log_warnings


def test_a_key_log_that_cannot_be_written_is_ignored_with_a_warning_that_names_the_variable(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "missing" / "keys", tmp_path, Path("/dev/full"), pipe):
        environ = {"SSLKEYLOGFILE": str(path), "HOME": "/"}
        (warning,) = ignore_useless_key_log(environ)
        assert warning.startswith("SSLKEYLOGFILE was ignored")
        assert environ == {"HOME": "/"}
        assert not list(key_log_warnings(environ))


def test_a_key_log_that_can_be_written_is_used_with_a_warning_of_what_it_gives_away(tmp_path: Path) -> None:
    environ = {"SSLKEYLOGFILE": str(tmp_path / "keys")}
    assert not list(ignore_useless_key_log(environ))
    assert environ == {"SSLKEYLOGFILE": str(tmp_path / "keys")}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    (warning,) = key_log_warnings(environ)
    assert "SSLKEYLOGFILE" in warning


@pytest.mark.parametrize("environ", [{}, {"SSLKEYLOGFILE": ""}])
def test_without_a_key_log_there_is_nothing_to_say(environ: dict[str, str]) -> None:
    assert not list(ignore_useless_key_log(environ))
    assert not list(key_log_warnings(environ))


@pytest.fixture
def without_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    environ = {"SSL_CERT_FILE": str(tmp_path / "no-file"), "SSL_CERT_DIR": str(tmp_path / "no-directory")}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # OpenSSL reads the environment itself
    return environ


def test_certificates_that_are_nowhere_are_warned_of_by_the_name_of_the_variable(
    without_certificates: dict[str, str],
) -> None:
    file, directory, none = certificate_warnings(without_certificates)
    assert file.startswith("SSL_CERT_FILE names a file that cannot be read")
    assert directory.startswith("SSL_CERT_DIR names a directory that cannot be read")
    assert "no certificate authority is known" in none
    assert all("growlytics.ca_file" in each for each in (file, directory, none))


def test_a_directory_of_certificates_is_enough_as_they_are_found_when_they_are_needed(
    without_certificates: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0a1b2c3d.0").write_text("a certificate")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    environ = without_certificates | {"SSL_CERT_DIR": str(tmp_path)}
    assert [each.split()[0] for each in certificate_warnings(environ)] == ["SSL_CERT_FILE"]


def test_the_certificates_of_the_system_are_nothing_to_warn_of() -> None:
    if not ssl.create_default_context().cert_store_stats()["x509"]:
        pytest.skip("this system has no certificates")
    assert not list(
        certificate_warnings({name: os.environ[name] for name in os.environ if name.startswith("SSL_CERT")})
    )
