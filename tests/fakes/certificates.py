"""Certificates of an authority of the tests' own."""

import ssl
from datetime import datetime
from functools import cached_property
from pathlib import Path

import trustme


class Authority:
    """Signs what it is asked to; nobody trusts it who was not given its file."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self.file = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What a server on loopback needs."""
        return self.tls_for("127.0.0.1")

    def tls_for(
        self, host: str, *, not_before: datetime | None = None, not_after: datetime | None = None
    ) -> ssl.SSLContext:
        """Return what the server of that name or address needs; its certificate is valid now, unless these say otherwise."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certify(context, host, not_before=not_before, not_after=not_after)
        return context

    def certify(
        self,
        context: ssl.SSLContext,
        host: str,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> None:
        """Give a server's context, perhaps one in use, a new certificate; connections from now on get that one."""
        self._authority.issue_cert(host, not_before=not_before, not_after=not_after).configure_cert(context)
