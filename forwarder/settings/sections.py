"""Every setting that exists, by section: its default, its type and range, and what it is for.

Defaults stand here and nowhere else, but for those of `forwarder.places`. A running daemon takes up a `live` setting on
SIGHUP; a `fixed` one needs a restart. The modules of this package read these tables; a component takes exactly its own
section.
"""

# A table: its layout shows each setting in two lines.
# fmt: off

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import attrs

from forwarder import places
from forwarder.settings import values
from forwarder.settings.values import KIB, MIB, Address, Group, Secret, fixed, live
from forwarder.words import ConflictAction, LoopName, OnAmbiguous, WhenFull

BufferKind = Literal["disk", "memory"]
Order = Literal["customer", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]


@attrs.frozen(kw_only=True)
class GrowlyticsSettings:
    """Where events go."""

    url: str = fixed("https://dc.growlytics.in/track/event", values.HTTPS_URL,
        "Where every event is posted; change it only to try against a sandbox")
    api_key: Secret | None = live(None, values.API_KEY,
        "The key of your Growlytics project; better kept out of this file, see api_key_file")
    api_key_file: str | None = live(None, values.SECRET_FILE,
        "A file with nothing but the key, such as a mounted secret; instead of api_key; read again when it changes")
    timeout_seconds: float = live(10.0, values.seconds(600),
        "The longest that one attempt may take, from connecting to the end of the answer")
    connection_max_age_seconds: float = live(300.0, values.seconds(86_400, zero=True),
        "The longest that a connection is used (up to a quarter less, at random), so that a new one looks up the host's "
        "address again; 0: no limit")
    ca_file: str | None = fixed(None, values.CERTIFICATES_FILE,
        "The certificate authorities to trust instead of the system's, for example behind a proxy that inspects TLS; read "
        "again when it changes")
    proxy: Secret | None = fixed(None, values.PROXY_URL,
        "The forward proxy to send through; it sees neither events nor key; never shown, as it may hold a password")
    proxy_file: str | None = fixed(None, values.SECRET_FILE,
        "A file with nothing but the URL of the proxy; instead of proxy")


@attrs.frozen(kw_only=True)
class IntakeSettings:
    """Where apps post events, and how much of a request is accepted."""

    http: Address | None = fixed(Address(*places.INTAKE_HTTP), values.LISTEN_ADDRESS,
        "Where apps post events over TCP")
    unix_socket: str | None = fixed(None, values.SOCKET_PATH,
        "Where apps post events over a Unix socket, which file permissions guard")
    lines_socket: str | None = fixed(None, values.SOCKET_PATH,
        "A Unix stream socket for log shippers and for apps with very many events: one JSON object a line")
    datagram_socket: str | None = fixed(None, values.SOCKET_PATH,
        "A Unix datagram socket for events that may get lost: one in each datagram, never answered")
    unix_socket_mode: int = fixed(0o660, values.FILE_MODE,
        "The permissions of these three sockets; whoever may write to one may post")
    token: Secret | None = live(None, values.SECRET,
        "What apps must send over TCP, as x-growlytics-key or Authorization: Bearer; Unix sockets are guarded by their "
        "mode")
    token_file: str | None = live(None, values.SECRET_FILE,
        "A file with nothing but the token; instead of token; read again when it changes")
    allow_remote_without_token: bool = live(False, values.FLAG,
        "Allow intake.http to be an address that other machines can reach, without a token; anybody there may then post")
    allowed_hosts: tuple[str, ...] = live(("localhost", "127.0.0.1", "::1"), values.HOST_NAMES,
        "The names (Host) by which apps may call the forwarder over TCP, besides the address in intake.http, and by which "
        "Prometheus may call admin.http; other names are refused, as a web page in a browser may have made them up")
    allowed_origins: tuple[str, ...] = live((), values.ORIGINS,
        "The web origins whose pages may post over TCP from a browser on this machine")
    max_body_bytes: int = fixed(MIB, values.size(KIB, 64 * MIB),
        "The largest request body, inflated; a larger one is refused with 413")
    max_parsing_bytes: int = fixed(8 * MIB, values.size(KIB, 1024 * MIB),
        "The most bytes of bodies, inflated, to parse and hold at the same time until they are answered; at least "
        "max_body_bytes; a request that finds no room within a second is refused with 429")
    max_line_bytes: int = fixed(256 * KIB, values.size(KIB, 64 * MIB),
        "The largest line on lines_socket, and the largest datagram")
    max_connections: int = fixed(1024, values.integer(1, 65_536),
        "The most connections of each listener (always 64 of admin.http); at the limit, those that never completed a "
        "request are closed first")
    header_timeout_seconds: float = fixed(10.0, values.seconds(600),
        "The longest that an app may take from connecting, or from a request's first byte, to the end of its headers; then "
        "408")
    body_timeout_seconds: float = fixed(10.0, values.seconds(600),
        "The longest that an app may take to send a body or a line, or to read its answers; a slower body is refused with "
        "408")
    duplicate_window_seconds: float = fixed(3600.0, values.seconds(2_592_000, zero=True),
        "How long an app's own key (Idempotency-Key) is remembered; an event that repeats it meanwhile counts as a "
        "duplicate; 0 is off")
    duplicate_max_keys: int = fixed(100_000, values.integer(1, 10_000_000),
        "The most such keys to remember; beyond that the oldest are forgotten")


@attrs.frozen(kw_only=True)
class ContractSettings:
    """How far the forwarder goes to meet Growlytics' contract."""

    attribute_types: ConflictAction = live("observe", values.choice(ConflictAction),
        "What to do when an attribute comes with another type than the first time, which Growlytics silently ignores: "
        "forward and count it, convert it where its text stays the same, remove it, or refuse the event with 422")
    types_file: str | None = fixed(None, values.FILE,
        "The types that your team agreed on, as attribute-types export writes them; they override learned types")
    max_attribute_types: int = fixed(10_000, values.integer(1, 1_000_000),
        "The most attribute types to remember, at most a tenth of them for one event name; beyond that, types that were "
        "seen once make room")
    fill_missing_time: bool = live(False, values.FLAG,
        "Give an event without a time the time of its arrival, instead of refusing it")


@attrs.frozen(kw_only=True)
class BufferSettings:
    """What is kept between an app's post and Growlytics' yes. Whichever limit is reached first counts."""

    kind: BufferKind = fixed("disk", values.choice(BufferKind),
        "Where accepted events wait: disk outlives the process, memory is lost when the process ends")
    directory: str = fixed(places.BUFFER_DIRECTORY, values.DIRECTORY,
        "The directory of the disk buffer, for one daemon alone; under systemd, unless set, the unit's StateDirectory")
    max_events: int = fixed(100_000, values.integer(1),
        "The most events to hold; beyond that see when_full")
    max_bytes: int = fixed(256 * MIB, values.size(KIB),
        "The most bytes of events to hold")
    when_full: WhenFull = live("reject", values.choice(WhenFull),
        "What to do with new events when full: refuse them with 429, or drop the oldest that are not being sent")
    fsync: bool = fixed(False, values.FLAG,
        "What acknowledged events in the disk buffer survive: false: the death of the process; true: also that of the "
        "machine, but each commit waits for the disk")


@attrs.frozen(kw_only=True)
class DeliverySettings:
    """How events are sent and retried."""

    max_concurrency: int = live(64, values.integer(1, 4096),
        "The most attempts on the wire at the same time; the forwarder adapts between 1 and this")
    order: Order = fixed("customer", values.choice(Order),
        "customer: the events of one customer are sent one after the other, in the order accepted; none: as soon as "
        "possible")
    rate_limit_per_second: float = live(0.0, values.rate(0.001, 1_000_000),
        "The most attempts in a second, retries and probes included, evenly spread; 0 is no limit")
    retry_initial_seconds: float = live(0.5, values.seconds(3600),
        "The longest wait before the first retry; the limit doubles with each retry, and each wait is random up to it")
    retry_max_seconds: float = live(60.0, values.seconds(86_400),
        "Where that doubling ends; at least retry_initial_seconds")
    max_age_seconds: float = live(86_400.0, values.seconds(31_536_000),
        "How long after its acceptance an event is retried; an attempt that fails later makes it a dead letter")
    on_ambiguous: OnAmbiguous = live("retry", values.choice(OnAmbiguous),
        "What to do with an event that may or may not have arrived: send it again, perhaps a second time, or keep it as a "
        "dead letter")
    on_ambiguous_events: Mapping[str, OnAmbiguous] = live(
        MappingProxyType({}),
        values.choice_table(get_args(OnAmbiguous), names="event names", example='{ "Order Completed" = "dead_letter" }'),
        "The same for events of these names, for example for a purchase, which must not be counted twice")
    breaker_failures: int = live(10, values.integer(1),
        "How many failures in a row, of any events, pause delivery; then only one probe at a time is sent")
    systemic_rejections: int = live(10, values.integer(1),
        "How many rejections, or refused customers, in a row without a delivery mean that the events are not at fault; "
        "then only probes are sent")
    systemic_seconds: float = live(60.0, values.seconds(86_400),
        "A rejection is final only if an event was delivered within this time before it, else the event is tried again; "
        "also how long an event must be refused, while others are delivered, to become a dead letter")
    probe_initial_seconds: float = live(1.0, values.seconds(3600),
        "The time from the pause of delivery to the first probe; it doubles with each probe that fails")
    probe_max_seconds: float = live(60.0, values.seconds(86_400),
        "Where that doubling ends; at least probe_initial_seconds")


@attrs.frozen(kw_only=True)
class DeadLettersSettings:
    """Events that Growlytics rejected, kept with the reason. Beyond either limit the oldest are dropped, and counted."""

    max_events: int = fixed(100_000, values.integer(1),
        "The most dead letters to keep; beyond that the oldest are dropped first")
    max_bytes: int = fixed(64 * MIB, values.size(KIB),
        "The most bytes of dead letters to keep")


@attrs.frozen(kw_only=True)
class ReceiptsSettings:
    """What became of events, for apps that ask."""

    max_events: int = fixed(10_000, values.integer(0, 1_000_000),
        "How many finished events GET /v1/events/{id} remembers, to tell what became of them; 0 is off")


@attrs.frozen(kw_only=True)
class AdminSettings:
    """Metrics and health checks, on an address of their own."""

    http: Address | None = fixed(Address(*places.ADMIN_HTTP), values.LISTEN_ADDRESS,
        "Where /metrics, /livez and /readyz answer, to IP addresses and the names in intake.allowed_hosts; they show no "
        "events and change nothing")
    page: bool = live(False, values.FLAG,
        "Show the status page there, too, at /status, for all who reach it: read-only, and without the names of events, "
        "customers and attributes")


@attrs.frozen(kw_only=True)
class ControlSettings:
    """Who may operate the daemon over a Unix socket: see the contents of dead letters, and change something."""

    socket: str | None = fixed("auto", values.CONTROL_SOCKET,
        "The Unix socket of the commands, for the daemon's own user and root; auto is control.sock in buffer.directory, or "
        "under systemd in a RuntimeDirectory of the unit in which no socket of [intake] is")
    group: Group | None = live(None, values.GROUP,
        "A group whose members may operate the daemon over control.socket and intake.unix_socket, besides the daemon's own "
        "user and root")


@attrs.frozen(kw_only=True)
class ShutdownSettings:
    """How the daemon stops."""

    accept_seconds: float = live(0.0, values.seconds(86_400, zero=True),
        "How long to go on accepting events after a request to stop, so that an app that stops too can post its last "
        "events")
    drain_seconds: float = live(20.0, values.seconds(86_400, zero=True),
        "How long to go on delivering after that; keep the sum below what the supervisor grants")


@attrs.frozen(kw_only=True)
class LogSettings:
    """The daemon's log."""

    level: LogLevel = live("info", values.choice(LogLevel),
        "The least severe lines to write")
    format: LogFormat = fixed("auto", values.choice(LogFormat),
        "The form of a line; auto is text on a terminal, else json")


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
    loop: LoopName = fixed("auto", values.choice(LoopName),
        "The event loop; auto is uvloop, which is faster, if it is installed, else asyncio")
