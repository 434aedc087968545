"""What a person is told of a failed attempt: a kind, a short text, whom it concerns, and nothing of an answer or a URL."""

import errno
import socket
import ssl
from typing import get_args

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from forwarder.growlytics import failures
from forwarder.growlytics.answer import CutAnswerError, MalformedAnswerError
from forwarder.growlytics.connecting import NoNameServerError
from forwarder.growlytics.connections import NoAnswerError
from forwarder.growlytics.outcome import Failure
from forwarder.words import FailureKind

HOST = "dc.growlytics.in"
GROWLYTICS = URL(f"https://{HOST}/track/event?CANARY=CANARY")
PROXY = URL("http://user:CANARY@proxy.example:3128/CANARY?CANARY")


def key(url: URL = GROWLYTICS) -> ConnectionKey:
    return ConnectionKey(url.raw_host or "", url.port, url.scheme == "https", True, None, None, None)


def wrapped(error: OSError, url: URL = GROWLYTICS) -> aiohttp.ClientConnectorError:
    """Return an error as aiohttp's connector raises it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        made: aiohttp.ClientConnectorError = aiohttp.ClientConnectorCertificateError(key(url), error)
    elif isinstance(error, ssl.SSLError):
        made = aiohttp.ClientConnectorSSLError(key(url), error)
    elif isinstance(error, socket.gaierror):
        made = aiohttp.ClientConnectorDNSError(key(url), error)
    else:
        made = aiohttp.ClientConnectorError(key(url), error)
    made.__cause__ = error
    return made


def connecting(error: BaseException, proxy: URL | None = None) -> Failure:
    return failures.of_connecting(error, url=GROWLYTICS, proxy=proxy, within_seconds=9.0)


def answering(error: BaseException | None) -> Failure:
    raised = NoAnswerError()
    raised.__cause__ = error
    return failures.of_answering(raised, url=GROWLYTICS, within_seconds=10.0)


def untrusted(code: int, message: str = "CANARY") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:1006)")
    error.verify_code, error.verify_message = code, message
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


def no_http() -> aiohttp.ClientResponseError:
    """Return what aiohttp raises where a proxy does not answer in HTTP."""
    info = aiohttp.RequestInfo(GROWLYTICS, "CONNECT", CIMultiDictProxy(CIMultiDict()), GROWLYTICS)
    error = aiohttp.ClientResponseError(info, (), status=400, message="CANARY")
    error.__cause__ = ValueError("CANARY")
    return error


def several(*numbers: int) -> OSError:
    """Return what comes of as many addresses, each of which fails in its own way."""
    return OSError(
        "Multiple exceptions: " + ", ".join(f"[Errno {each}] Connect call failed ('::1', 1)" for each in numbers)
    )


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "dns", f"no such host {HOST}"),
        (socket.gaierror(socket.EAI_NODATA, "x"), "dns", f"no such host {HOST}"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "dns", f"the name server does not answer (for {HOST})"),
        (socket.gaierror(socket.EAI_FAIL, "x"), "dns", f"the name {HOST} cannot be resolved"),
        (OSError(errno.ECONNREFUSED, "x"), "connect", "connection refused"),
        (OSError(errno.ENETUNREACH, "x"), "connect", "network is unreachable"),
        (OSError(errno.EHOSTUNREACH, "x"), "connect", "no route to host"),
        (OSError(errno.EMFILE, "x"), "connect", "too many open files: raise the limit (ulimit -n)"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "connect", "no local address or port is free"),
        (OSError(errno.EPERM, "x"), "connect", "the system does not permit it, as a firewall may"),
        (OSError(errno.ENOBUFS, "x"), "connect", "no buffer space available"),
        (OSError(errno.ETIMEDOUT, "x"), "timeout_connect", "connection timed out"),
        (OSError(errno.ECONNRESET, "x"), "reset", "connection reset by peer"),
        (ConnectionResetError(), "reset", "connection closed during the TLS handshake"),
        (several(errno.ENETUNREACH, errno.ECONNREFUSED), "connect", "network is unreachable; connection refused"),
        (several(errno.ECONNREFUSED, errno.ECONNREFUSED), "connect", "connection refused"),
        (untrusted(10), "tls", "certificate has expired"),
        (untrusted(9), "tls", "certificate is not yet valid (or this machine's clock is wrong)"),
        (untrusted(62), "tls", f"certificate is not valid for {HOST}"),
        (untrusted(64), "tls", f"certificate is not valid for {HOST}"),
        (untrusted(18), "tls", "self-signed certificate (see growlytics.ca_file)"),
        (untrusted(19), "tls", "certificate of an unknown authority (see growlytics.ca_file)"),
        (untrusted(20), "tls", "certificate of an unknown authority (see growlytics.ca_file)"),
        (untrusted(23), "tls", "certificate was revoked"),
        (untrusted(66, "EE certificate key too weak"), "tls", "EE certificate key too weak"),
        (ssl.SSLCertVerificationError(1, "x"), "tls", "certificate cannot be verified"),
        (tls_error("WRONG_VERSION_NUMBER"), "tls", "the other side does not speak TLS"),
        (tls_error("UNSUPPORTED_PROTOCOL"), "tls", "the other side speaks no version of TLS that is allowed here"),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "tls", "the other side refuses TLS: sslv3 alert handshake failure"),
        (tls_error("BAD_SIGNATURE"), "tls", "TLS fails: bad signature"),
        (ssl.SSLError(1, "x"), "tls", "TLS fails: no reason is known"),
        (ssl.SSLEOFError(8, "x"), "reset", "connection closed during the TLS handshake"),
    ],
)  # fmt: skip
def test_what_keeps_a_connection_from_being_made_is_told_in_a_few_words(
    error: OSError, kind: FailureKind, text: str
) -> None:
    assert connecting(wrapped(error)) == Failure(kind, text, f"{HOST}:443")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (TimeoutError(), "timeout_connect", "no connection within 9 s"),
        (aiohttp.ConnectionTimeoutError("x"), "timeout_connect", "no connection within 9 s"),
        (NoNameServerError(), "dns", f"the name server does not answer (for {HOST})"),
        (UnicodeError("label empty or too long"), "dns", f"not a valid host name: {HOST}"),
        (aiohttp.InvalidURL("CANARY", "is not canonical"), "dns", f"not a valid host name: {HOST}"),
        (aiohttp.ClientConnectorDNSError(key(), OSError(None, "CANARY")), "dns", f"the name {HOST} cannot be resolved"),
        (ExceptionGroup("CANARY", [OSError(errno.ECONNREFUSED, "x"), OSError("y")]), "connect", "connection refused"),
        (aiohttp.ClientConnectionError("CANARY"), "connect", "the connection failed"),
    ],
)
def test_what_else_ends_connecting_is_told_too(error: Exception, kind: FailureKind, text: str) -> None:
    assert connecting(error) == Failure(kind, text, f"{HOST}:443")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (wrapped(OSError(errno.ECONNREFUSED, "x"), PROXY), "connection refused"),
        (wrapped(socket.gaierror(socket.EAI_NONAME, "x"), PROXY), "no such host proxy.example"),
        (wrapped(untrusted(62), PROXY), "certificate is not valid for proxy.example"),
        (wrapped(tls_error("WRONG_VERSION_NUMBER"), PROXY), "the other side does not speak TLS"),
        (UnicodeError("x"), "not a valid host name: proxy.example"),
        (NoNameServerError(), "the name server does not answer (for proxy.example)"),
        (aiohttp.ServerDisconnectedError(), "connection closed before an answer"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), "connection reset by peer"),
        (no_http(), "the answer is not HTTP"),
    ],
)
def test_a_proxy_that_is_of_no_use_is_named_without_its_password(error: Exception, text: str) -> None:
    failure = connecting(error, PROXY)
    assert failure == Failure("proxy", f"the proxy cannot be used: {text}", "proxy.example:3128")


def test_a_proxy_that_takes_too_long_is_a_timeout() -> None:
    assert connecting(TimeoutError(), PROXY) == Failure(
        "timeout_connect", "no connection within 9 s", "proxy.example:3128"
    )


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (untrusted(10), "tls", "certificate has expired"),
        (ConnectionResetError(), "reset", "connection closed during the TLS handshake"),
    ],
)
def test_what_goes_wrong_in_a_tunnel_is_about_growlytics(error: OSError, kind: FailureKind, text: str) -> None:
    assert connecting(wrapped(error), PROXY) == Failure(kind, text, f"{HOST}:443")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (None, "reset", "connection closed before an answer"),
        (aiohttp.ServerDisconnectedError(), "reset", "connection closed before an answer"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), "reset", "connection reset by peer"),
        (aiohttp.ClientOSError(errno.EPIPE, "x"), "reset", "broken pipe"),
        (aiohttp.ClientOSError(errno.EHOSTUNREACH, "x"), "reset", "no route to host"),
        (aiohttp.ClientConnectionResetError("CANARY"), "reset", "connection closed before an answer"),
        (aiohttp.ClientOSError(errno.ETIMEDOUT, "x"), "timeout_answer", "connection timed out"),
        (TimeoutError(), "timeout_answer", "no answer within 10 s"),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls", "the other side demands a client certificate"),
        (MalformedAnswerError("the answer is odd"), "protocol", "the answer is odd"),
        (CutAnswerError(), "reset", "connection closed in the middle of an answer"),
        (ValueError("CANARY"), "protocol", "the answer is not valid HTTP"),
    ],
)
def test_what_keeps_an_answer_from_coming_is_told_in_a_few_words(
    error: Exception | None, kind: FailureKind, text: str
) -> None:
    assert answering(error) == Failure(kind, text, f"{HOST}:443")


def test_what_came_of_an_answer_is_not_told() -> None:
    begun = aiohttp.ServerDisconnectedError(aiohttp.http.RawResponseMessage)  # type: ignore[arg-type]  # as aiohttp does
    assert answering(begun).text == "connection closed in the middle of an answer"


def test_a_text_is_short_and_printable_whatever_the_host_is() -> None:
    url = URL.build(scheme="https", host="a" * 5000, path="/")
    failure = failures.of_connecting(
        wrapped(socket.gaierror(socket.EAI_NONAME, "x")), url=url, proxy=None, within_seconds=9
    )
    assert len(failure.text) <= 200
    assert failure.text.isprintable()


def test_a_host_is_told_with_its_port_and_nothing_else_of_its_url() -> None:
    assert failures.host_and_port(URL("http://u:p@[::1]:8080/x?y#z")) == "[::1]:8080"
    assert failures.host_and_port(URL("https://dc.growlytics.in/")) == "dc.growlytics.in:443"


def test_a_cause_of_itself_does_not_keep_anybody() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert connecting(one).kind in get_args(FailureKind)
