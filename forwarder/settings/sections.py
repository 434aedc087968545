"""Every setting that exists, by section: its type and range, its default, and why one would change it.

Defaults stand here and nowhere else. What is marked LIVE a running daemon takes up on SIGHUP. Read by `sources` and shown by
the package; a component takes exactly its own section.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import attrs

from forwarder.settings.sources import LIVE
from forwarder.settings.values import (
    KIB,
    MIB,
    Address,
    ApiKey,
    ChoiceTable,
    FileMode,
    Flag,
    Group,
    GroupName,
    HttpsUrl,
    Integer,
    ListenAddress,
    ProxyUrl,
    Secret,
    SecretFile,
    SecretText,
    Size,
    SocketPath,
    directory_path,
    file_path,
    host_names,
    origins,
    rate,
    seconds,
)
from forwarder.words import ConflictAction, LoopName, OnAmbiguous, WhenFull


@attrs.frozen(kw_only=True)
class GrowlyticsSettings:
    """Where events go."""

    url: Annotated[str, HttpsUrl(), "Where every event is posted; change it only to try against a sandbox"] = (
        "https://dc.growlytics.in/track/event"
    )
    api_key: Annotated[
        Secret | None,
        ApiKey(),
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
        float, seconds(600), "The longest that one attempt may take, from connecting to the end of the answer", LIVE
    ] = 10.0
    connection_max_age_seconds: Annotated[
        float,
        seconds(86_400, zero=True),
        "How long a connection is used, less up to a quarter by chance, before a new one looks up the host's address again; "
        "0: no limit",
        LIVE,
    ] = 300.0
    ca_file: Annotated[
        str | None,
        file_path("a file of certificates in PEM form"),
        "The certificate authorities to trust instead of the system's, as where a proxy looks into TLS; read again when it "
        "changes",
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
        host_names(),
        "By which names apps may call the forwarder over TCP (Host), besides the address in intake.http, and by which "
        "Prometheus may call admin.http; others are refused, as a page in a browser may have made them up",
        LIVE,
    ] = ("localhost", "127.0.0.1", "::1")
    allowed_origins: Annotated[
        tuple[str, ...],
        origins(),
        "The web origins whose pages may post over TCP from a browser on this machine",
        LIVE,
    ] = ()
    max_body_bytes: Annotated[
        int, Size(KIB, 64 * MIB), "The largest request body, inflated; what is larger is refused with 413"
    ] = MIB
    max_parsing_bytes: Annotated[
        int,
        Size(KIB, 1024 * MIB),
        "The most bytes of bodies, inflated, to parse and to hold until they are answered at the same time; at least "
        "max_body_bytes; what finds no room within a second is refused with 429",
    ] = 8 * MIB
    max_line_bytes: Annotated[
        int, Size(KIB, 64 * MIB), "The largest line on lines_socket, and the largest datagram"
    ] = 256 * KIB
    max_connections: Annotated[
        int,
        Integer(1, 65_536),
        "The most connections of each listener (64 of admin.http, always); at the cap those are closed first that never "
        "completed a request",
    ] = 1024
    header_timeout_seconds: Annotated[
        float,
        seconds(600),
        "The longest that an app may take from connecting, or from a request's first byte, to the end of its headers; then "
        "408",
    ] = 10.0
    body_timeout_seconds: Annotated[
        float,
        seconds(600),
        "The longest that an app may take to send a body or a line, or to read its answers; a slower body is refused with "
        "408",
    ] = 10.0
    duplicate_window_seconds: Annotated[
        float,
        seconds(2_592_000, zero=True),
        "How long an app's own key (Idempotency-Key) is remembered: an event that repeats it is not taken twice; 0 is off",
    ] = 3600.0
    duplicate_max_keys: Annotated[
        int, Integer(1, 10_000_000), "The most such keys to remember; beyond that the oldest are forgotten"
    ] = 100_000


@attrs.frozen(kw_only=True)
class ContractSettings:
    """How far the forwarder goes to meet Growlytics' contract."""

    attribute_types: Annotated[
        ConflictAction,
        "When an attribute comes with another type than the first time, which Growlytics ignores without a word: "
        "forward and count it, convert it where its text stays the same, remove it, or refuse the event with 422",
        LIVE,
    ] = "observe"
    types_file: Annotated[
        str | None,
        file_path(),
        "The types that your team agreed on, which come before what is learned, as attribute-types export writes them",
    ] = None
    max_attribute_types: Annotated[
        int,
        Integer(1, 1_000_000),
        "The most types of attributes to remember, of which one event name may have a tenth; then those seen once make room",
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
        directory_path(),
        "The directory of the disk buffer, for one daemon alone; under systemd, unless set, the unit's StateDirectory",
    ] = "/var/lib/growlytics-forwarder"
    max_events: Annotated[int, Integer(1), "The most events to hold; beyond that see when_full"] = 100_000
    max_bytes: Annotated[int, Size(KIB), "The most bytes of events to hold"] = 256 * MIB
    when_full: Annotated[
        WhenFull,
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
        rate(0.001, 1_000_000),
        "The most attempts in a second, retries and probes included, evenly spread; 0 is no limit",
        LIVE,
    ] = 0.0
    retry_initial_seconds: Annotated[
        float,
        seconds(3600),
        "The longest wait before the first retry; it doubles with each, and the wait is random up to it",
        LIVE,
    ] = 0.5
    retry_max_seconds: Annotated[
        float, seconds(86_400), "Where that doubling ends; at least retry_initial_seconds", LIVE
    ] = 60.0
    max_age_seconds: Annotated[
        float,
        seconds(31_536_000),
        "How old an event may become, from accepted, before an attempt that fails is its last; then it is a dead letter",
        LIVE,
    ] = 86_400.0
    on_ambiguous: Annotated[
        OnAmbiguous,
        "What to do with an event that may or may not have arrived: send it again, perhaps a second time, or give it up",
        LIVE,
    ] = "retry"
    on_ambiguous_events: Annotated[
        Mapping[str, OnAmbiguous],
        ChoiceTable(get_args(OnAmbiguous), keys="event names", example='{ "Order Completed" = "dead_letter" }'),
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
        "After how many rejections, or customers refused, in a row without a delivery the fault is not the events'; "
        "then only probes go",
        LIVE,
    ] = 10
    systemic_seconds: Annotated[
        float,
        seconds(86_400),
        "A rejection is final only if an event was delivered in this time before it, else the event is tried again; "
        "and how long an event must be refused, while others are delivered, to be a dead letter",
        LIVE,
    ] = 60.0
    probe_initial_seconds: Annotated[
        float,
        seconds(3600),
        "How long after sending stopped the first probe goes; it doubles with each that fails",
        LIVE,
    ] = 1.0
    probe_max_seconds: Annotated[
        float, seconds(86_400), "Where that doubling ends; at least probe_initial_seconds", LIVE
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
        "Where /metrics, /livez and /readyz answer, to IP addresses and the names in intake.allowed_hosts; "
        "they show no events and change nothing",
    ] = attrs.field(default=Address("127.0.0.1", 9920))


@attrs.frozen(kw_only=True)
class ControlSettings:
    """Who may operate the daemon over a Unix socket: see the contents of dead letters, and change something."""

    group: Annotated[
        Group | None,
        GroupName(),
        "A group whose members may operate the daemon over intake.unix_socket, besides its own user and root",
        LIVE,
    ] = None


@attrs.frozen(kw_only=True)
class ShutdownSettings:
    """How the daemon stops."""

    accept_seconds: Annotated[
        float,
        seconds(86_400, zero=True),
        "How long to go on accepting events after a stop was asked for, so that an app that stops too can post its last",
        LIVE,
    ] = 0.0
    drain_seconds: Annotated[
        float,
        seconds(86_400, zero=True),
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
    control: ControlSettings = attrs.field(factory=ControlSettings)
    shutdown: ShutdownSettings = attrs.field(factory=ShutdownSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    loop: Annotated[
        LoopName,
        "The event loop; auto is uvloop, which is faster, if it is installed, else asyncio",
    ] = "auto"
