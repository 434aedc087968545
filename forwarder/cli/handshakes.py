"""TLS with the other side: whether its certificate can be verified, and what it says, also if it cannot be verified.

Who is trusted is as in the daemon: the authorities of growlytics.ca_file alone, or else the system's. If the certificate
cannot be verified, a second connection that trusts anybody shows it. Nothing but the handshake, and in `clock` a request
that tells nothing, is sent over such a connection. Used by `probing` and `clock`.
"""

import errno
import os
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from forwarder.cli.certificate import Certificate, StrangeCertificateError, read_certificate
from forwarder.cli.checks import Checked
from forwarder.cli.streams import Stream, TlsStream
from forwarder.growlytics import causes
from forwarder.settings import certificates_fault
from forwarder.text import printable

_SOON_DAYS: Final = 14
"""A certificate that expires sooner should have been renewed: those who do that by themselves do it a month before."""
_DAY_SECONDS: Final = 86_400
_MAX_NAMES_SHOWN: Final = 5
_OTHER_HOST: Final = frozenset({62, 64})
_TOO_EARLY, _TOO_LATE = 9, 10
_UNKNOWN: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_… for certificates that no trusted authority has signed."""


class Trust(NamedTuple):
    """Whose certificates are accepted."""

    context: ssl.SSLContext
    authorities: str
    """Where they come from, in words."""
    fault: str = ""
    """What is wrong with growlytics.ca_file; then nobody is trusted."""


class Handshake(NamedTuple):
    """What came of TLS with one address."""

    address: str
    protocol: str = ""
    """Empty if there is no connection, not even one that trusts anybody."""
    certificate: Certificate | None = None
    why: str = ""
    """Why the certificate cannot be verified, or there is no connection; empty if all is well."""
    verify_code: int = 0
    """OpenSSL's, if the certificate cannot be verified."""


def trust_of(ca_file: str | None, *, is_needed: bool = True) -> Trust:
    """Return whom the daemon trusts with this growlytics.ca_file; nobody if that is not needed."""
    if not is_needed:
        return Trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "nobody")
    if ca_file is None:
        return Trust(_for_http(ssl.create_default_context()), "the system's authorities")
    try:
        return Trust(_for_http(ssl.create_default_context(cafile=ca_file)), "growlytics.ca_file")
    except OSError as error:  # ssl.SSLError is one
        fault = certificates_fault(ca_file) or f"names a file that cannot be read: {error.strerror}"
        return Trust(_for_http(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)), "growlytics.ca_file", fault)


def trust_of_anybody() -> ssl.SSLContext:
    """Return the settings of a connection that only looks at who answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading authorities takes as long as the import of all this
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _for_http(context)


def shake_hands(open_stream: Callable[[], Stream], trust: Trust, *, host: str, address: str) -> Handshake:
    """Connect twice at most, and say what came of it. Raise what `open_stream` raises."""
    why, code = "", 0
    try:
        return _look(TlsStream(open_stream(), trust.context, host=host), address)
    except ssl.SSLCertVerificationError as error:
        why, code = causes.of_tls(error, host), error.verify_code
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return Handshake(address, why="connection closed during the TLS handshake")
    except ssl.SSLError as error:
        return Handshake(address, why=causes.of_tls(error, host))
    except (TimeoutError, ConnectionError) as error:
        why = "no answer to the TLS handshake" if error.errno is None else causes.of_errno(error.errno)
        return Handshake(address, why=why)
    try:
        seen = _look(TlsStream(open_stream(), trust_of_anybody(), host=host), address)
    except OSError:
        seen = Handshake(address)
    return seen._replace(why=why, verify_code=code)


def check_tls(handshakes: Sequence[Handshake], trust: Trust, *, host: str) -> Checked:
    """Return the result for all addresses: the first that failed counts, as each event goes to any of them."""
    bad = [each for each in handshakes if each.why]
    shown = (bad or list(handshakes))[0]
    where = f" at {shown.address} ({len(bad)} of {len(handshakes)} addresses)" if 0 < len(bad) < len(handshakes) else ""
    facts = {"addresses": [_facts(each) for each in handshakes], "authorities": trust.authorities}
    described = _described(shown)
    if trust.fault:
        text = f"growlytics.ca_file {trust.fault}" + (f"; the certificate that came: {described}" if described else "")
        if os.strerror(errno.EACCES) in trust.fault and os.geteuid() != 0:  # the daemon's user may well read it
            return Checked("tls", "warn", text, "run this as the daemon's user or root to try it", facts)
        return Checked("tls", "fail", text, "correct growlytics.ca_file, or leave it out", facts)
    if bad:
        text = f"{shown.why}{where}" + (f": {described}" if described else "")
        return Checked("tls", "fail", text, _fix(shown, trust, host=host), facts)
    days = min(_days_left(each.certificate) for each in handshakes)
    text = f"{shown.protocol}, {described}, verified with {trust.authorities}"
    if days < _SOON_DAYS:
        return Checked("tls", "warn", text, "the certificate must be renewed by those who run the server", facts)
    return Checked("tls", "ok", text, facts=facts)


def _for_http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context


def _look(stream: TlsStream, address: str) -> Handshake:
    certificate = None
    with suppress(StrangeCertificateError):
        certificate = read_certificate(stream.certificate)
    stream.close()
    return Handshake(address, stream.version, certificate)


def _fix(shown: Handshake, trust: Trust, *, host: str) -> str:
    code, certificate = shown.verify_code, shown.certificate
    issuer = printable(certificate.issuer) if certificate else "unknown"
    if code in _OTHER_HOST:
        fix = f"correct the host in growlytics.url, or the name servers if {host} leads to another server"
    elif code in (_TOO_EARLY, _TOO_LATE):
        fix = _fix_of_dates(certificate, is_late=code == _TOO_LATE)
    elif code in _UNKNOWN and trust.authorities == "growlytics.ca_file":
        fix = (
            f"add the certificate of the issuer ({issuer}) to growlytics.ca_file, or leave it out to trust the system's"
        )
    elif code in _UNKNOWN:
        fix = (
            f"if you trust the issuer ({issuer}), for example because a proxy here inspects TLS, name the file of its "
            "certificate with growlytics.ca_file; if it is a public one, install ca-certificates"
        )
    elif "not speak TLS" in shown.why:
        fix = "correct the port in growlytics.url: what answers there speaks something else"
    else:
        fix = "ask who runs the network between here and there: a firewall or a proxy that inspects TLS may do that"
    return fix


def _fix_of_dates(certificate: Certificate | None, *, is_late: bool) -> str:
    if certificate and certificate.valid_from <= time.time() <= certificate.valid_to:
        return "the server sends an old certificate of an authority in between: those who run it must replace that one"
    what = "those who run the server must renew its certificate" if is_late else "wait until it is valid"
    return f"set this machine's clock if `clock` below says that it is wrong; else {what}"


def _described(shown: Handshake) -> str:
    """Return a certificate in words; empty if none was seen."""
    found = shown.certificate
    if found is None:
        return "a certificate that cannot be read" if shown.protocol else ""
    names = ", ".join(printable(name) for name in found.names[:_MAX_NAMES_SHOWN]) or "no name"
    more = f" and {len(found.names) - _MAX_NAMES_SHOWN} more" if len(found.names) > _MAX_NAMES_SHOWN else ""
    days = _days_left(found)
    left = f"{days} days left" if days >= 0 else f"expired {-days} days ago"
    if time.time() < found.valid_from:
        left = "not yet valid"
    return (
        f"certificate for {names}{more}, issued by {printable(found.issuer) or 'nobody'}, valid {_date(found.valid_from)} "
        f"to {_date(found.valid_to)} ({left})"
    )


def _facts(shown: Handshake) -> dict[str, object]:
    facts: dict[str, object] = {
        "address": shown.address,
        "protocol": shown.protocol or None,
        "verified": not shown.why,
        "error": shown.why or None,
    }
    if (found := shown.certificate) is not None:
        facts |= {
            "names": [printable(name) for name in found.names],
            "issuer": printable(found.issuer),
            "subject": printable(found.subject),
            "valid_from": found.valid_from,
            "valid_to": found.valid_to,
            "days_left": _days_left(found),
        }
    return facts


def _days_left(certificate: Certificate | None) -> int:
    """Return how many whole days are left, less than 0 if it has expired; very many if there is no certificate to see."""
    if certificate is None:
        return _DAY_SECONDS
    return int((certificate.valid_to - time.time()) // _DAY_SECONDS)


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
