"""The words for why a connection cannot be made, from the operating system's and OpenSSL's errors.

Pure, and for people only: nothing is decided by it. Delivery (`failures`) and the command `diagnose` say the same words, so
that what one of them says can be looked up in the other. Imports nothing that is slow to import.
"""

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Final

_NO_CONNECTION: Final[Mapping[int, str]] = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "network is unreachable",
    errno.ENETDOWN: "network is down",
    errno.EHOSTUNREACH: "no route to host",
    errno.EHOSTDOWN: "host is down",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files in the whole system",
    errno.EAGAIN: "no thread can be started: raise the limit of processes (ulimit -u)",
    errno.EADDRNOTAVAIL: "no local address or port is free",
    errno.EAFNOSUPPORT: "this machine does not support the address family",
    errno.EACCES: "the system does not permit it, as a firewall may",
    errno.EPERM: "the system does not permit it, as a firewall may",
}
LOST: Final[Mapping[int, str]] = {
    errno.ECONNRESET: "connection reset by peer",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "broken pipe",
    errno.ENOTCONN: "connection closed",
    errno.ESHUTDOWN: "connection closed",
}
NO_SUCH_NAME: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
_UNKNOWN_AUTHORITY: Final = "certificate of an unknown authority (see growlytics.ca_file)"
_CERTIFICATE: Final[Mapping[int, str]] = {  # by OpenSSL's X509_V_ERR_…
    2: _UNKNOWN_AUTHORITY,
    9: "certificate is not yet valid (or this machine's clock is wrong)",
    10: "certificate has expired",
    18: "self-signed certificate (see growlytics.ca_file)",
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    23: "certificate was revoked",
}
_OF_ANOTHER_HOST: Final = frozenset({62, 64})
_NO_TLS: Final = "the other side does not speak TLS"
_NO_COMMON_VERSION: Final = "the other side speaks no version of TLS that is allowed here"
_TLS: Final[Mapping[str, str]] = {  # by OpenSSL's reason
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "WRONG_SSL_VERSION": _NO_COMMON_VERSION,
    "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_VERSION,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side demands a client certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the other side does not know this host name",
}


def of_errno(number: int) -> str:
    """Return why no connection could be made, or how it was lost, by the system's number."""
    return _NO_CONNECTION.get(number) or LOST.get(number) or strerror(number)


def of_tls(error: ssl.SSLError, host: str) -> str:
    """Return why TLS failed with `host`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", None)
        if code in _OF_ANOTHER_HOST:
            return f"certificate is not valid for {host}"
        return _CERTIFICATE.get(code or 0) or getattr(error, "verify_message", None) or "certificate cannot be verified"
    reason = getattr(error, "reason", None) or ""
    if text := _TLS.get(reason):
        return text
    words = reason.lower().replace("_", " ") or "no reason is known"
    return f"the other side refuses TLS: {words}" if " alert " in words else f"TLS fails: {words}"


def of_name(host: str, code: int | None = socket.EAI_AGAIN) -> str:
    """Return why a name has no address, by the number of `getaddrinfo`; None is an unknown one."""
    if code in NO_SUCH_NAME:
        return f"no such host {host}"
    if code == socket.EAI_AGAIN:
        return f"the name server does not answer (for {host})"
    return f"the name {host} cannot be resolved"


def strerror(number: int) -> str:
    """Return the system's text for a number, to follow a colon."""
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
