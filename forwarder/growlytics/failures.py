"""Why an attempt failed, read from the exception: a kind, and a short text that a person can act on.

Pure, and for people only: nothing is decided by it. The text is ours or the operating system's. It contains nothing of an
answer, no path or query of a URL, no key and no password. Used by `client` alone.
"""

import errno
import re
import socket
import ssl
from typing import Final

import aiohttp
from yarl import URL

from forwarder.growlytics.answer import CutAnswerError, MalformedAnswerError
from forwarder.growlytics.causes import LOST, of_errno, of_name, of_tls
from forwarder.growlytics.connecting import NoNameServerError
from forwarder.growlytics.connections import NoAnswerError
from forwarder.growlytics.outcome import Failure
from forwarder.text import printable
from forwarder.words import FailureKind

_MAX_TEXT_CHARACTERS: Final = 200
_MAX_DEPTH: Final = 10
"""How far the chain of causes is followed."""

_Told = tuple[FailureKind, str]

_CUT: Final = "connection closed in the middle of an answer"
_NO_HTTP: Final = "the answer is not valid HTTP"


def of_connecting(error: BaseException, *, url: URL, proxy: URL | None, within_seconds: float) -> Failure:
    """Explain what `ApiConnections.connect` raised. `url` is Growlytics'; `within_seconds` was the time to connect."""
    peer = proxy if proxy is not None and _is_about(proxy, error) else url
    host = peer.raw_host or ""
    root = _root(error)
    kind: FailureKind
    if isinstance(root, NoNameServerError):
        kind, text = "dns", of_name(host)
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
            told = "tls", of_tls(root, host)
        case socket.gaierror():
            told = "dns", of_name(host, root.errno)
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


def _closed(*, is_connecting: bool) -> _Told:
    return "reset", f"connection closed {'during the TLS handshake' if is_connecting else 'before an answer'}"


def _of_system(error: BaseException, root: OSError, host: str, *, is_connecting: bool) -> _Told:
    number = root.errno
    if number is None:
        # If several addresses fail in different ways, one error without a number holds the texts of all.
        numbers = dict.fromkeys(int(each) for each in re.findall(r"\[Errno (\d+)\]", str(root)))
        if numbers:
            return "connect", "; ".join(map(of_errno, numbers))
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "dns", of_name(host, None)
        return _closed(is_connecting=is_connecting)
    if number == errno.ETIMEDOUT:
        return "timeout_connect" if is_connecting else "timeout_answer", "connection timed out"
    is_lost = number in LOST or not is_connecting
    return ("reset" if is_lost else "connect"), of_errno(number)
