"""What a failure of an attempt, or a hold, means for a person: what does not work, why, and what to do.

Pure. The failures are those of `delivery.last_failure` of /v1/status.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from forwarder.advice.problem import Commands, Content, StatusProblem
from forwarder.text import roughly
from forwarder.words import FailureKind, Mood

HOLDS: Final[dict[str, Mood]] = {
    "auth": "bad",
    "systemic": "bad",
    "not_growlytics": "bad",
    "breaker": "warn",
    "retry_after": "warn",
}
"""The causes to hold, the worst first. The first three usually last until somebody acts."""
LONG_SECONDS: Final = 600.0
"""A hold that lasts so long is bad, whatever its cause."""

_RESTARTS: Final = "A change of it needs a restart."
_WHAT: Final[dict[FailureKind, str]] = {
    "dns": "The host of Growlytics is not found",
    "connect": "Growlytics cannot be reached",
    "tls": "No secure connection to Growlytics can be made",
    "proxy": "The proxy cannot be used",
    "timeout_connect": "Growlytics cannot be reached in time",
    "timeout_answer": "Growlytics does not answer in time",
    "reset": "The connection to Growlytics breaks off",
    "protocol": "What answers does not speak HTTP as Growlytics does",
    "status": "Growlytics fails",
}
_FIX: Final[dict[FailureKind, str]] = {
    "dns": "Check the name server of this machine or container (/etc/resolv.conf), and the host in `growlytics.url`. "
    f"{_RESTARTS}",
    "connect": "Check whether a firewall lets this machine out, or wants `growlytics.proxy`; and check `growlytics.url`. "
    f"{_RESTARTS}",
    "proxy": f"Check whether the proxy runs, and `growlytics.proxy` or `growlytics.proxy_file`. {_RESTARTS}",
    "timeout_connect": "A firewall may drop the packets: check that this machine may connect to that host, or set "
    f"`growlytics.proxy`. {_RESTARTS}",
    "timeout_answer": "If Growlytics is only slow, raise `growlytics.timeout_seconds` and send SIGHUP; else ask it.",
    "reset": "Something on the way, such as a firewall or a proxy, may close connections; or Growlytics does, for a while.",
    "protocol": f"Check that `growlytics.url` names Growlytics, and that no other service has its address. {_RESTARTS}",
    "status": "The fault is at Growlytics, or at a gateway before it. If it lasts, ask Growlytics, and name the status.",
}
_PROXY_REFUSES_FIX: Final = f"Ask whoever runs the proxy, and name the status. {_FIX['proxy']}"
_TOO_MANY_FIX: Final = (
    "Set `delivery.rate_limit_per_second` to what your plan allows, and send SIGHUP; or ask Growlytics for more."
)
_NOT_GROWLYTICS: Final = "Something else answers in place of Growlytics"
_NOT_GROWLYTICS_FIX: Final = (
    "It may be a captive portal, a proxy's page or a maintenance page. Open `growlytics.url` from this machine, and check "
    "`growlytics.proxy`."
)
_BLOCKED: Final = "Growlytics, or something on the way, refuses every event"
_BLOCKED_FIX: Final = (
    "Check the path of `growlytics.url`, and the key. A web application firewall on the way may also refuse the "
    "forwarder: then ask whoever runs it, or Growlytics, and name the status and the time."
)
_REJECTED_FIX: Final = (
    "If another event is delivered, the rejected ones become dead letters, with Growlytics' answers. Until then the cause "
    "may be the account of the key, or what was deployed last."
)
_TLS_FIX: Final = (
    (
        "expired",
        "Whoever runs that host must renew the certificate. But check this machine's clock first: it shows {now}.",
    ),
    (
        "not yet valid",
        "Check this machine's clock: it shows {now}. Else whoever runs that host must fix the certificate.",
    ),
    (
        "growlytics.ca_file",
        (
            "If a proxy here opens TLS, or the host has a private authority, write its certificate into a file in PEM form, "
            f"and name that with `growlytics.ca_file`. A file that is named already is read again by itself. {_RESTARTS}"
        ),
    ),
    (
        "not valid for",
        f"Another server answers at that address. Check DNS, and the host in `growlytics.url`. {_RESTARTS}",
    ),
    ("does not speak TLS", f"Check the port in `growlytics.url`. {_RESTARTS}"),
    ("", "Check `growlytics.url`, `growlytics.ca_file`, and what is between this machine and that host."),
)
"""By a part of the error's text."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A failure, in words. `what` has no full stop, so that more may follow."""

    kind: str
    what: str
    cause: str
    fix: str
    commands: tuple[str, ...] = ()


def said(failure: Content | None) -> str:
    """Return the error of a failure, and at which host."""
    if failure is None:
        return "no attempt has failed since the start"
    return f"{failure['error']} ({failure['host']})" if failure["host"] else f"{failure['error']}"


def explain_failure(status: Content, commands: Commands, *, kind: str) -> Explained:
    """Explain the last failure, which may pass by itself, for a problem of this kind."""
    failure = status["delivery"]["last_failure"]
    if failure is None:
        return Explained(kind, "Attempts fail", said(None), "The daemon's log says more.")
    its: FailureKind = failure["kind"]
    what, fix = _WHAT[its], _FIX.get(its, "")
    if its == "tls":
        now = f"{datetime.fromtimestamp(status['at'], UTC):%Y-%m-%d %H:%M:%S} UTC"
        fix = next(text for sign, text in _TLS_FIX if sign in failure["error"]).format(now=now)
    elif its == "proxy" and failure["status"] is not None:
        what, fix = "The proxy does not let the forwarder through", _PROXY_REFUSES_FIX
    elif its == "status" and failure["status"] == 429:
        what, fix = "Growlytics accepts no more events for now", _TOO_MANY_FIX
    elif its == "status" and failure["status"] in (408, 425):
        what = "Growlytics asks to try again later"
    elif its == "status" and _is_refused(status):
        return _explain_refusals(status, commands, kind=kind)
    elif its == "status" and failure["status"] < 500:
        what, fix = "Growlytics rejects what is sent", _REJECTED_FIX
    is_of_network = its not in ("status", "timeout_answer")
    return Explained(kind, what, said(failure), fix, commands.looking("diagnose") if is_of_network else ())


def explain_hold(cause: str, status: Content, commands: Commands) -> Explained:
    """Explain why delivery is paused."""
    match cause:
        case "auth":
            return _explain_auth(status, commands)
        case "breaker":
            return explain_failure(status, commands, kind="breaker")
        case "systemic":
            what = "Growlytics rejects every event"
            fix = (
                "The cause is probably not the events: check what was deployed last, in the app or by Growlytics. The dead "
                "letters, if there are any, have Growlytics' answers."
            )
            typed = commands.looking("dead-letters list")
        case "not_growlytics":
            what, fix = _NOT_GROWLYTICS, _NOT_GROWLYTICS_FIX
            typed = commands.looking("diagnose")
        case "retry_after":
            what = "Growlytics asks the forwarder to wait (Retry-After)"
            fix = (
                "If it comes often, set `delivery.rate_limit_per_second`, or a lower `delivery.max_concurrency`, and send "
                "SIGHUP."
            )
            typed = ()
        case _:
            what, fix, typed = f"Delivery is paused ({cause})", "The daemon's log says more.", ()
    return Explained(cause, what, said(status["delivery"]["last_failure"]), fix, typed)


def _explain_auth(status: Content, commands: Commands) -> Explained:
    failure = status["delivery"]["last_failure"]
    kind, answered = (None, None) if failure is None else (failure["kind"], failure["status"])
    cause = said(failure)
    if kind == "proxy" and answered is not None:
        fix = f"Correct the user and password in `growlytics.proxy` or `growlytics.proxy_file`. {_RESTARTS}"
        return Explained("proxy_refuses", "The proxy refuses the forwarder", cause, fix, commands.looking("diagnose"))
    if kind == "status" and answered not in (401, 407):
        return Explained("blocked", _BLOCKED, cause, _BLOCKED_FIX, commands.looking("diagnose"))
    what, fix, typed = _explain_key(status, commands)
    if fault := status["settings"]["file_faults"].get("growlytics.api_key_file"):
        cause = f"{cause}; growlytics.api_key_file {fault}"
    since = "" if kind == "status" else " Since then attempts fail for another reason."
    return Explained("auth", what, cause, f"{fix}{since}", typed)


def _explain_key(status: Content, commands: Commands) -> tuple[str, str, tuple[str, ...]]:
    """Return that the key is refused, what to do, and what to type for it."""
    key_file = status["settings"]["key_file"]
    how = (
        f"Write a valid key into {key_file} (`growlytics.api_key_file`): it is read again within five seconds."
        if key_file
        else "Set a valid `growlytics.api_key`, and send SIGHUP; a key in the daemon's environment needs a restart."
    )
    fix = f"{how} If the key is good, check `growlytics.url`."
    return "Growlytics refuses the API key", fix, () if key_file else commands.reload


def _is_refused(status: Content) -> bool:
    """Return whether the last failure is that of events that are refused again and again."""
    delivery = status["delivery"]
    return (
        bool(delivery["suspects"]["events"])
        and delivery["last_failure"]["status"] == (delivery["suspects"]["first"]["status"])
    )


def _explain_refusals(status: Content, commands: Commands, *, kind: str) -> Explained:
    """Explain that events are refused as if it were everybody's fault, and none is delivered any more."""
    failure = status["delivery"]["last_failure"]
    typed = commands.looking("diagnose")
    if failure["status"] == 401:
        what, fix, typed = _explain_key(status, commands)
    elif failure["status"] < 300:
        what, fix = _NOT_GROWLYTICS, _NOT_GROWLYTICS_FIX
    else:
        what, fix = _BLOCKED, _BLOCKED_FIX
    return Explained(kind, what, said(failure), fix, typed)


def worst_hold(holds: Content) -> str | None:
    """Return the cause of a hold that a person should know first; None without a hold."""
    return next((cause for cause in (*HOLDS, *holds) if cause in holds), None)


def hold_problems(status: Content, commands: Commands) -> Iterator[StatusProblem]:
    """Yield a problem for each cause to hold."""
    for cause, hold in status["holds"].items():
        found = explain_hold(cause, status, commands)
        seconds, probe = hold["seconds"], hold["probe_in_seconds"]
        when = "is due or under way" if probe is None else "goes now" if probe < 1 else f"goes in {roughly(probe)}"
        yield StatusProblem(
            found.kind,
            "bad" if seconds >= LONG_SECONDS else HOLDS.get(cause, "warn"),
            f"{found.what}: delivery is paused, for {roughly(seconds)} now.",
            found.cause,
            f"{found.fix} Events wait in the buffer, and delivery resumes by itself; the next probe {when}.",
            found.commands,
        )
