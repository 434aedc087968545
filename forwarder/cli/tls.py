"""Environment variables about TLS, corrected or reported before the libraries that obey them are imported.

A sidecar should start: a useless value is ignored with one warning; only what makes TLS impossible is an error.
"""

import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

KEY_LOG = "SSLKEYLOGFILE"


def ignore_useless_key_log(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Remove SSLKEYLOGFILE if nothing can be written there, and yield a warning; every TLS connection would fail by it."""
    path = environ.get(KEY_LOG, "")
    if not path:
        return
    try:
        # A pipe without a reader is an error so, and does not keep us waiting.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"# growlytics-forwarder\n")  # a comment, in which a full disk shows
        finally:
            os.close(descriptor)
    except OSError as error:
        del environ[KEY_LOG]
        yield f"{KEY_LOG} was ignored: it names a file that cannot be written ({error.strerror})"


def key_log_warnings(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Yield a warning if TLS secrets are written to a file."""
    if environ.get(KEY_LOG):
        yield (
            f"{KEY_LOG} is set: who can read the file that it names, and the network, can read the events and the API key; "
            "unset it unless you are looking into TLS"
        )


def fault() -> str | None:
    """Return why TLS cannot be used at all; None if it can."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the authorities, which take time and memory
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        return f"TLS cannot be used ({reason}); look at the file that OPENSSL_CONF names, or unset it"
    return None


def certificate_warnings(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the authorities that are trusted where growlytics.ca_file names none."""
    import ssl

    from forwarder.settings import certificates_fault

    fix = "or name the file of certificates with growlytics.ca_file"
    if (file := environ.get("SSL_CERT_FILE")) is not None and (wrong := certificates_fault(file)):
        yield f"SSL_CERT_FILE {wrong}; correct it, unset it, {fix}"
    for directory in filter(None, environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        try:
            next(Path(directory).iterdir(), None)
        except OSError as error:
            yield f"SSL_CERT_DIR names a directory that cannot be read: {error.strerror}; correct it, unset it, {fix}"
    paths = ssl.get_default_verify_paths()
    directories = environ.get(paths.openssl_capath_env, paths.openssl_capath).split(os.pathsep)
    if not any(map(_has_certificates, directories)) and not ssl.create_default_context().cert_store_stats()["x509"]:
        yield f"no certificate authority is known, so nothing can be delivered: install ca-certificates, {fix}"


def _has_certificates(directory: str) -> bool:
    """Whether OpenSSL finds certificates in a directory when it needs them, by the hash that names them."""
    try:
        return bool(directory) and any(
            re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", file.name) for file in Path(directory).iterdir()
        )
    except OSError:
        return False
