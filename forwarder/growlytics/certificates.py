"""Whom to trust: the authorities in a file, or the system's. Reading blocks."""

import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from forwarder.settings import RefusedError, certificates_fault


@dataclass(frozen=True, slots=True)
class Certificates:
    """Authorities, as of when they were read; equal if their files were, byte for byte."""

    digest: bytes
    tls: ssl.SSLContext = field(compare=False, repr=False)


def read(path: str) -> Certificates:
    """Return the authorities in a file. Raises RefusedError with the reason if it is of no use as a whole."""
    why: str | None = "it changed meanwhile"
    try:
        if Path(path).is_file():  # reading a device or a pipe might never end
            # The digest first: if the file changes in between, it differs from what is found at the next look.
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            context = ssl.create_default_context(cafile=path)
            if context.cert_store_stats()["x509"]:
                return Certificates(digest, _for_http(context))
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror
    raise RefusedError(certificates_fault(path) or f"names a file that cannot be read: {why}")


def of_system() -> Certificates:
    """Return the authorities that the system trusts now."""
    return Certificates(b"", _for_http(ssl.create_default_context()))


def _for_http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context
