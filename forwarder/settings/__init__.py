"""The settings: what can be set, with which default, type and range; how they are loaded, checked and shown.

A section is a frozen class, and a component takes exactly its own. Defaults stand here and nowhere else. `load` reports
every error at once; a section that is constructed directly, as tests do, is taken as it is. No error and no dump ever
shows a secret. Everybody may import this module; `sources` and `values` are its inner parts.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import attrs

from forwarder.settings.sources import (
    LIVE,
    Field,
    Layer,
    Name,
    certificates_fault,
    fields_of,
    gather,
    printable_path,
    read_secret_file,
    read_secrets,
    structure,
)
from forwarder.settings.values import (
    KIB,
    MIB,
    Address,
    CertificatesFile,
    ChoiceTable,
    DirectoryPath,
    FileMode,
    FilePath,
    Flag,
    HostNames,
    HttpsUrl,
    Integer,
    ListenAddress,
    Origins,
    ProxyUrl,
    Rate,
    RefusedError,
    Seconds,
    Secret,
    SecretFile,
    SecretText,
    Size,
    SocketPath,
)

__all__ = [
    "Address",
    "AdminSettings",
    "BufferSettings",
    "Changes",
    "ContractSettings",
    "DeadLettersSettings",
    "DeliverySettings",
    "GrowlyticsSettings",
    "IntakeSettings",
    "Loaded",
    "LogSettings",
    "Problem",
    "ReceiptsSettings",
    "RefusedError",
    "Secret",
    "SettingReference",
    "Settings",
    "SettingsError",
    "ShutdownSettings",
    "load",
    "merge",
    "read_secret_file",
    "reference",
    "shown",
    "to_toml",
]


@attrs.frozen(kw_only=True)
class GrowlyticsSettings:
    """Where events go."""

    url: Annotated[str, HttpsUrl(), "Where every event is posted; change it only to try against a sandbox"] = (
        "https://dc.growlytics.in/track/event"
    )
    api_key: Annotated[
        Secret | None,
        SecretText(),
        "The key of your Growlytics project; better kept out of this file, see api_key_file",
        LIVE,
    ] = None
    api_key_file: Annotated[
        str | None,
        SecretFile(),
        "A file with nothing but the key, such as a mounted secret, instead of api_key; read again when it changes",
        LIVE,
    ] = None
    timeout_seconds: Annotated[
        float, Seconds(600), "The longest that one attempt may take, from connecting to the end of the answer", LIVE
    ] = 10.0
    ca_file: Annotated[
        str | None,
        CertificatesFile(),
        "The certificate authorities to trust instead of the system's, as where a proxy looks into TLS",
    ] = None
    proxy: Annotated[
        Secret | None,
        ProxyUrl(),
        "The forward proxy to send through; it sees neither events nor key. Never shown, as it may hold a password",
    ] = None
    proxy_file: Annotated[str | None, SecretFile(), "A file with nothing but that URL; instead of proxy"] = None


@attrs.frozen(kw_only=True)
class IntakeSettings:
    """Where apps post events, and how much of a request is taken."""

    http: Annotated[Address | None, ListenAddress(), "Where apps post events over TCP"] = attrs.field(
        default=Address("127.0.0.1", 8920)
    )
    unix_socket: Annotated[
        str | None, SocketPath(), "Where apps post events over a Unix socket, which file permissions guard"
    ] = None
    lines_socket: Annotated[
        str | None,
        SocketPath(),
        "Where log shippers and apps with very many events write them, one JSON object a line, to a Unix stream socket",
    ] = None
    datagram_socket: Annotated[
        str | None,
        SocketPath(),
        "Where apps send events that they can spare, one in each datagram, to a Unix datagram socket; nothing is answered",
    ] = None
    unix_socket_mode: Annotated[
        int, FileMode(), "The permissions of these three sockets; who may write to one may post"
    ] = 0o660
    token: Annotated[
        Secret | None,
        SecretText(),
        "What apps must send over TCP, as x-growlytics-key or Authorization: Bearer; Unix sockets are guarded by their mode",
        LIVE,
    ] = None
    token_file: Annotated[
        str | None,
        SecretFile(),
        "A file with nothing but the token, instead of token; read again when it changes",
        LIVE,
    ] = None
    allow_remote_without_token: Annotated[
        bool,
        Flag(),
        "Allow intake.http to be an address that other machines can reach without a token; anybody there may then post",
        LIVE,
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        HostNames(),
        "By which names apps may call the forwarder over TCP (Host), besides the address in intake.http; "
        "others are refused, as a page in a browser may have made them up",
        LIVE,
    ] = ("localhost", "127.0.0.1", "::1")
    allowed_origins: Annotated[
        tuple[str, ...],
        Origins(),
        "The web origins whose pages may post over TCP from a browser on this machine",
        LIVE,
    ] = ()
    max_body_bytes: Annotated[
        int, Size(KIB, 64 * MIB), "The largest request body, inflated; what is larger is refused with 413"
    ] = MIB
    max_line_bytes: Annotated[
        int, Size(KIB, 64 * MIB), "The largest line on lines_socket, and the largest datagram"
    ] = 256 * KIB
    max_connections: Annotated[
        int,
        Integer(1, 65_536),
        "The most connections of each listener; at the cap, the one without a complete request for longest is closed",
    ] = 1024
    header_timeout_seconds: Annotated[
        float,
        Seconds(600),
        "The longest that an app may take from connecting, or from a request's first byte, to the end of its headers",
    ] = 10.0
    body_timeout_seconds: Annotated[
        float,
        Seconds(600),
        "The longest that an app may take to send a body or a line; a slower body is refused with 408",
    ] = 10.0
    duplicate_window_seconds: Annotated[
        float,
        Seconds(2_592_000, zero=True),
        "How long an app's own key (Idempotency-Key) is remembered: an event that repeats it is not taken twice; 0 is off",
    ] = 3600.0
    duplicate_max_keys: Annotated[
        int, Integer(1, 10_000_000), "The most such keys to remember; beyond that the oldest are forgotten"
    ] = 100_000


@attrs.frozen(kw_only=True)
class ContractSettings:
    """How far the forwarder goes to meet Growlytics' contract."""

    attribute_types: Annotated[
        Literal["observe", "coerce", "strip", "reject"],
        "When an attribute comes with another type than the first time, which Growlytics ignores without a word: "
        "forward and count it, convert it where its text stays the same, remove it, or refuse the event with 422",
        LIVE,
    ] = "observe"
    types_file: Annotated[
        str | None,
        FilePath(),
        "The types that your team agreed on, which come before what is learned, as attribute-types export writes them",
    ] = None
    max_attribute_types: Annotated[
        int, Integer(1, 1_000_000), "The most types of attributes to learn; what comes after is not guarded"
    ] = 10_000
    fill_missing_time: Annotated[
        bool, Flag(), "Give an event that has no time that of its arrival, instead of refusing it", LIVE
    ] = False


@attrs.frozen(kw_only=True)
class BufferSettings:
    """What is kept between an app's post and Growlytics' yes. Whichever bound is reached first counts."""

    kind: Annotated[
        Literal["disk", "memory"],
        "Where accepted events wait; disk outlives the process, memory is lost when the process ends",
    ] = "disk"
    directory: Annotated[
        str,
        DirectoryPath(),
        "The directory of the disk buffer, for one daemon alone; under systemd, unless set, the unit's StateDirectory",
    ] = "/var/lib/growlytics-forwarder"
    max_events: Annotated[int, Integer(1), "The most events to hold; beyond that see when_full"] = 100_000
    max_bytes: Annotated[int, Size(KIB), "The most bytes of events to hold"] = 256 * MIB
    when_full: Annotated[
        Literal["reject", "drop_oldest"],
        "What to do with new events when full: refuse them with 429, or drop the oldest that are not being sent",
        LIVE,
    ] = "reject"
    fsync: Annotated[
        bool,
        Flag(),
        "What the disk buffer acknowledged survives; false: the death of the process; "
        "true: also of the machine, at the cost of waiting for the disk",
    ] = False


@attrs.frozen(kw_only=True)
class DeliverySettings:
    """How events are sent and sent again."""

    max_concurrency: Annotated[
        int, Integer(1, 4096), "The most attempts on the wire at the same time; adapts between 1 and this", LIVE
    ] = 64
    order: Annotated[
        Literal["customer", "none"],
        "customer: the events of one customer go one after the other, in the order accepted; none: as soon as they can",
    ] = "customer"
    rate_limit_per_second: Annotated[
        float,
        Rate(0.001, 1_000_000),
        "The most attempts in a second, retries and probes included, evenly spread; 0 is no limit",
        LIVE,
    ] = 0.0
    retry_initial_seconds: Annotated[
        float,
        Seconds(3600),
        "The longest wait before the first retry; it doubles with each, and the wait is random up to it",
        LIVE,
    ] = 0.5
    retry_max_seconds: Annotated[
        float, Seconds(86_400), "Where that doubling ends; at least retry_initial_seconds", LIVE
    ] = 60.0
    max_age_seconds: Annotated[
        float,
        Seconds(31_536_000),
        "How old an event may become, from accepted, before an attempt that fails is its last; then it is a dead letter",
        LIVE,
    ] = 86_400.0
    on_ambiguous: Annotated[
        Literal["retry", "dead_letter"],
        "What to do with an event that may or may not have arrived: send it again, perhaps a second time, or give it up",
        LIVE,
    ] = "retry"
    on_ambiguous_events: Annotated[
        Mapping[str, Literal["retry", "dead_letter"]],
        ChoiceTable(("retry", "dead_letter"), keys="event names", example='{ "Order Completed" = "dead_letter" }'),
        "The same for events of these names, as for a purchase, which must not be counted twice",
        LIVE,
    ] = attrs.field(default=MappingProxyType({}))
    breaker_failures: Annotated[
        int,
        Integer(1),
        "After how many failures in a row, of whichever events, nothing is sent but one probe at a time",
        LIVE,
    ] = 10
    systemic_rejections: Annotated[
        int,
        Integer(1),
        "After how many rejections in a row without a delivery they count as a fault of all events; then only probes go",
        LIVE,
    ] = 10
    systemic_seconds: Annotated[
        float,
        Seconds(86_400),
        "A rejection is final only if an event was delivered in this time before it; else the event is tried again",
        LIVE,
    ] = 60.0
    probe_initial_seconds: Annotated[
        float,
        Seconds(3600),
        "How long after sending stopped the first probe goes; it doubles with each that fails",
        LIVE,
    ] = 1.0
    probe_max_seconds: Annotated[
        float, Seconds(86_400), "Where that doubling ends; at least probe_initial_seconds", LIVE
    ] = 60.0


@attrs.frozen(kw_only=True)
class DeadLettersSettings:
    """Events that Growlytics refused for good, kept with the reason. Beyond either bound the oldest go, counted."""

    max_events: Annotated[int, Integer(1), "The most dead letters to keep; beyond that the oldest go first"] = 100_000
    max_bytes: Annotated[int, Size(KIB), "The most bytes of dead letters to keep"] = 64 * MIB


@attrs.frozen(kw_only=True)
class ReceiptsSettings:
    """What became of events, for apps that ask."""

    max_events: Annotated[
        int,
        Integer(0, 1_000_000),
        "Of how many finished events GET /v1/events/{id} can still tell what became of them; 0 is off",
    ] = 10_000


@attrs.frozen(kw_only=True)
class AdminSettings:
    """Metrics and health checks, on an address of their own."""

    http: Annotated[
        Address | None,
        ListenAddress(),
        "Where /metrics, /livez and /readyz answer; they show no events and change nothing",
    ] = attrs.field(default=Address("127.0.0.1", 9920))


@attrs.frozen(kw_only=True)
class ShutdownSettings:
    """How the daemon stops."""

    accept_seconds: Annotated[
        float,
        Seconds(86_400, zero=True),
        "How long to go on accepting events after a stop was asked for, so that an app that stops too can post its last",
        LIVE,
    ] = 0.0
    drain_seconds: Annotated[
        float,
        Seconds(86_400, zero=True),
        "How long to go on delivering after that; keep the sum below what the supervisor grants",
        LIVE,
    ] = 20.0


@attrs.frozen(kw_only=True)
class LogSettings:
    """The daemon's log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], "The least severe lines to write", LIVE] = "info"
    format: Annotated[Literal["auto", "json", "text"], "The form of a line; auto is text on a terminal, else json"] = (
        "auto"
    )


@attrs.frozen(kw_only=True)
class Settings:
    """All settings."""

    growlytics: GrowlyticsSettings = attrs.field(factory=GrowlyticsSettings)
    intake: IntakeSettings = attrs.field(factory=IntakeSettings)
    contract: ContractSettings = attrs.field(factory=ContractSettings)
    buffer: BufferSettings = attrs.field(factory=BufferSettings)
    delivery: DeliverySettings = attrs.field(factory=DeliverySettings)
    dead_letters: DeadLettersSettings = attrs.field(factory=DeadLettersSettings)
    receipts: ReceiptsSettings = attrs.field(factory=ReceiptsSettings)
    admin: AdminSettings = attrs.field(factory=AdminSettings)
    shutdown: ShutdownSettings = attrs.field(factory=ShutdownSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    loop: Annotated[
        Literal["auto", "uvloop", "asyncio"],
        "The event loop; auto is uvloop, which is faster, if it is installed, else asyncio",
    ] = "auto"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    path: str
    """The dotted path of the setting, or the name of a source that could not be read."""
    message: str
    """What is wrong, the mend, and where the value was given."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class SettingsError(Exception):
    """The configuration cannot be used."""

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[str] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        """As in `Loaded`: a misspelt variable that was ignored may explain a problem."""


@dataclass(frozen=True)
class Loaded:
    """What `load` returns."""

    settings: Settings
    warnings: tuple[str, ...]
    """Sentences for the log or the terminal; without secrets."""


def load(
    config: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    require_api_key: bool = False,
) -> Loaded:
    """Load the settings, or raise `SettingsError` with every problem there is.

    Later sources win, value by value: the defaults, the TOML file `config`, `GROWLYTICS_API_KEY` and
    `GROWLYTICS_API_KEY_FILE`, the variables `FORWARDER_<SECTION>__<KEY>` of `environ`, and `overrides`, each written
    `section.key=value`. The default of `buffer.directory` is the first directory of `STATE_DIRECTORY` in `environ`, which
    systemd sets, if there is one.

    A secret may be given itself or as `*_file`, the path of a file that holds it; the settings then have both. To give
    both is an error, as nobody could tell which one is meant, with one exception: `GROWLYTICS_API_KEY` and
    `GROWLYTICS_API_KEY_FILE` may be in the environment for the app's sake, so they give way to a key or key file that a
    `FORWARDER_…` variable or an override names. They do not give way to `config`, which ranks below the environment.
    """
    given, failures, warnings = gather(config, environ, overrides, Settings)
    failures |= read_secrets(given, Settings)
    settings, refused = structure(given, Settings)
    failures |= refused
    if settings.growlytics.ca_file and (fault := certificates_fault(settings.growlytics.ca_file)):
        failures["growlytics", "ca_file"] = fault
    problems = [_problem(name, message, given) for name, message in failures.items()]
    # Rules compare settings, so what they compare must be known: the file was read, and neither was refused.
    if (str(config),) not in failures:
        for name, other, message in _broken_rules(settings, require_api_key=require_api_key):
            if failures.keys().isdisjoint((name, other)):
                problems.append(_problem(name, message, given))
    if problems:
        raise SettingsError(problems, warnings)
    return Loaded(settings, tuple(warnings))


def _problem(name: Name, message: str, given: Layer) -> Problem:
    origin = f" ({given[name].origin})" if name in given else ""
    return Problem(printable_path(name), message + origin)


def _broken_rules(settings: Settings, *, require_api_key: bool) -> Iterator[tuple[Name, Name, str]]:
    """Yield each rule between two settings that does not hold: both names, and what is wrong with the first one."""
    growlytics, delivery = settings.growlytics, settings.delivery
    intake, admin = settings.intake, settings.admin
    if require_api_key and growlytics.api_key is None:
        mend = "give it here or, better, in a file that growlytics.api_key_file names"
        yield ("growlytics", "api_key"), ("growlytics", "api_key_file"), f"is missing; {mend}"
    if growlytics.proxy is not None and growlytics.url.lower().startswith("http:"):
        wrong = "would see the events and the key, as growlytics.url is plain http; leave it out or use https"
        yield ("growlytics", "proxy"), ("growlytics", "url"), wrong
    sockets = {name: getattr(intake, name) for name in ("unix_socket", "lines_socket", "datagram_socket")}
    if intake.http is None and not any(sockets.values()):
        wrong = (
            "is off, and so are intake.unix_socket, lines_socket and datagram_socket; apps need one of them to post to"
        )
        yield ("intake", "http"), ("intake", "unix_socket"), wrong
    for one, other in combinations([name for name, path in sockets.items() if path], 2):
        if sockets[one] == sockets[other]:
            yield ("intake", other), ("intake", one), f"is the path of intake.{one} too; choose another"
    is_open = intake.token is None and not intake.allow_remote_without_token
    if intake.http is not None and not intake.http.is_loopback and is_open:
        wrong = f"{intake.http} can be reached from other machines, and anybody there could post events"
        mend = "listen on 127.0.0.1, demand a token with intake.token_file, or accept it with "
        mend += "intake.allow_remote_without_token = true"
        yield ("intake", "http"), ("intake", "allow_remote_without_token"), f"{wrong}; {mend}"
    if admin.http is not None and admin.http == intake.http and admin.http.port != 0:
        yield ("admin", "http"), ("intake", "http"), f"{admin.http} is the address of intake.http too; choose another"
    for what, initial, longest in (
        ("retry", delivery.retry_initial_seconds, delivery.retry_max_seconds),
        ("probe", delivery.probe_initial_seconds, delivery.probe_max_seconds),
    ):
        if longest < initial:
            wrong = f"{longest} is below {what}_initial_seconds, {initial}; raise it"
            yield ("delivery", f"{what}_max_seconds"), ("delivery", f"{what}_initial_seconds"), wrong


@dataclass(frozen=True)
class Changes:
    """What `merge` returns."""

    settings: Settings
    """Those to use from now on."""
    taken_up: tuple[str, ...]
    """The paths of the settings that are other than before."""
    restart_needed: tuple[str, ...]
    """The paths of those that would be, but cannot while the daemon runs."""


def merge(used: Settings, loaded: Settings) -> Changes:
    """Return what changes for a daemon that uses the one and is to take up the other.

    Raises `SettingsError` if what it can take up does not go together with what it cannot.
    """
    changed = [field for field in fields_of(Settings) if _value(loaded, field) != _value(used, field)]
    settings = used
    for field in changed:
        if field.live:
            section = attrs.evolve(_holder(settings, field), **{field.key: _value(loaded, field)})
            settings = attrs.evolve(settings, **{field.section: section})
    broken = [
        Problem(printable_path(name), f"{message}; or restart the daemon, as not all that changed can be taken up")
        for name, _, message in _broken_rules(settings, require_api_key=True)
    ]
    if broken:
        raise SettingsError(broken)
    return Changes(
        settings,
        tuple(field.path for field in changed if field.live),
        tuple(field.path for field in changed if not field.live),
    )


def _holder(settings: Settings, field: Field) -> Any:
    """Return the section that has a setting."""
    return getattr(settings, field.section) if field.section else settings


def _value(settings: Settings, field: Field) -> object:
    return getattr(_holder(settings, field), field.key)


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as `to_toml` has them, parsed: by section and key, or by key at the top level."""
    return tomllib.loads(to_toml(settings))


def to_toml(settings: Settings) -> str:
    """Return the settings as TOML, secrets as `********`. What is not set is left out.

    A secret that came from a file is left out too, as the file is named and both together would be an error.
    """
    tables: dict[str, list[str]] = {"": []}
    for field in fields_of(Settings):
        text = field.reader.toml(_value(settings, field))
        if text is not None and getattr(_holder(settings, field), f"{field.key}_file", None) is None:
            tables.setdefault(field.section, []).append(f"{field.key} = {text}\n")
    return "\n".join((f"[{section}]\n" if section else "") + "".join(lines) for section, lines in tables.items())


@dataclass(frozen=True)
class SettingReference:
    """One setting, for documentation."""

    path: str
    type: str
    """What it takes, with unit and range."""
    default: str | None
    """As TOML text; None if there is none."""
    description: str
    live: bool
    """Whether a running daemon takes it up on SIGHUP."""


def reference() -> list[SettingReference]:
    """Return every setting that exists, in the order of the sections."""
    return [
        SettingReference(
            field.path, field.reader.type_text, field.reader.toml(field.default), field.description, field.live
        )
        for field in fields_of(Settings)
    ]
