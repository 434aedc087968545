"""Why an attempt failed, read from the exception: a kind, and a short text that a person can act on.

Pure, and for people only: nothing is decided by it. The text is ours or the operating system's. It contains nothing of an
answer, no path or query of a URL, no key and no password. Used by `client` alone.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from forwarder.growlytics.answer import CutAnswerError, MalformedAnswerError
from forwarder.growlytics.connecting import NoNameServerError
from forwarder.growlytics.connections import NoAnswerError
from forwarder.growlytics.outcome import Failure
from forwarder.text import printable
from forwarder.words import FailureKind

_MAX_TEXT_CHARACTERS: Final = 200
_MAX_DEPTH: Final = 10
"""How far the chain of causes is followed."""

_Told = tuple[FailureKind, str]

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
_LOST: Final[Mapping[int, str]] = {
    errno.ECONNRESET: "connection reset by peer",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "broken pipe",
    errno.ENOTCONN: "connection closed",
    errno.ESHUTDOWN: "connection closed",
}
_NO_SUCH_NAME: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
_CUT: Final = "connection closed in the middle of an answer"
_NO_HTTP: Final = "the answer is not valid HTTP"
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


def of_connecting(error: BaseException, *, url: URL, proxy: URL | None, within_seconds: float) -> Failure:
    """Explain what `ApiConnections.connect` raised. `url` is Growlytics'; `within_seconds` was the time to connect."""
    peer = proxy if proxy is not None and _is_about(proxy, error) else url
    host = peer.raw_host or ""
    root = _root(error)
    if isinstance(root, NoNameServerError):
        kind, text = _unresolved(host)
    elif isinstance(root, TimeoutError) and root.errno is None:
        kind, text = "timeout_connect", f"no connection within {within_seconds:.3g} s"
    else:
        kind, text = _told(error, root, host, is_connecting=True)
    if peer is proxy and kind != "timeout_connect":
        kind, text = "proxy", f"the proxy cannot be used: {text}"
    return _failure(kind, text, peer)


def of_answering(error: BaseException, *, url: URL, within_seconds: float) -> Failure:
    """Explain how `ApiConnection.exchange` failed. `within_seconds` was the time for the whole attempt."""
    root = _root(error)
    if isinstance(root, TimeoutError) and root.errno is None:
        return _failure("timeout_answer", f"no answer within {within_seconds:.3g} s", url)
    return _failure(*_told(error, root, url.raw_host or "", is_connecting=False), url)


def host_and_port(url: URL) -> str:
    """Return host and port of a URL, and nothing else of it."""
    return f"{url.host_subcomponent}:{url.port}"


def _failure(kind: FailureKind, text: str, peer: URL) -> Failure:
    return Failure(kind, printable(text, _MAX_TEXT_CHARACTERS), host_and_port(peer))


def _is_about(proxy: URL, error: BaseException) -> bool:
    """Return whether an error is the proxy's. Until the tunnel exists, we talk to nobody else."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.host, error.port) == (proxy.raw_host, proxy.port)
    return True


def _root(error: BaseException) -> BaseException:
    """Return the first cause of an error, such as the operating system's."""
    for _ in range(_MAX_DEPTH):
        if isinstance(error, aiohttp.ClientResponseError) or (isinstance(error, TimeoutError) and error.errno is None):
            break  # the cause is aiohttp's own affair, or the cancellation by which asyncio ended a timeout
        if isinstance(error, BaseExceptionGroup):
            inner: object = error.exceptions[0]
        else:
            inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _told(error: BaseException, root: BaseException, host: str, *, is_connecting: bool) -> _Told:
    told: _Told
    match root:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            told = _closed(is_connecting=is_connecting)
        case ssl.SSLError():
            told = "tls", _tls(root, host)
        case socket.gaierror():
            told = _unresolved(host, root.errno)
        case UnicodeError() | aiohttp.InvalidURL():
            told = "dns", f"not a valid host name: {host}"
        case MalformedAnswerError():
            told = "protocol", str(root)
        case aiohttp.ClientResponseError():  # of a proxy
            told = "protocol", "the answer is not HTTP"
        case NoAnswerError() | aiohttp.ServerDisconnectedError(message=str()):
            told = _closed(is_connecting=False)
        case CutAnswerError() | aiohttp.ServerDisconnectedError():  # aiohttp's message is what came of the answer
            told = "reset", _CUT
        case OSError():
            told = _of_system(error, root, host, is_connecting=is_connecting)
        case _:
            told = ("connect", "the connection failed") if is_connecting else ("protocol", _NO_HTTP)
    return told


def _tls(error: ssl.SSLError, host: str) -> str:
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


def _unresolved(host: str, code: int | None = socket.EAI_AGAIN) -> _Told:
    if code in _NO_SUCH_NAME:
        return "dns", f"no such host {host}"
    if code == socket.EAI_AGAIN:
        return "dns", f"the name server does not answer (for {host})"
    return "dns", f"the name {host} cannot be resolved"


def _closed(*, is_connecting: bool) -> _Told:
    return "reset", f"connection closed {'during the TLS handshake' if is_connecting else 'before an answer'}"


def _of_system(error: BaseException, root: OSError, host: str, *, is_connecting: bool) -> _Told:
    number = root.errno
    if number is None:
        # If several addresses fail in different ways, one error without a number holds the texts of all.
        numbers = dict.fromkeys(int(each) for each in re.findall(r"\[Errno (\d+)\]", str(root)))
        if numbers:
            return "connect", "; ".join(_NO_CONNECTION.get(each) or _strerror(each) for each in numbers)
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return _unresolved(host, None)
        return _closed(is_connecting=is_connecting)
    if number == errno.ETIMEDOUT:
        return "timeout_connect" if is_connecting else "timeout_answer", "connection timed out"
    if number in _LOST:
        return "reset", _LOST[number]
    return ("connect" if is_connecting else "reset"), _NO_CONNECTION.get(number) or _strerror(number)


def _strerror(number: int) -> str:
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
