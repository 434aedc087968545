"""From what people write to settings: the TOML file, the environment, `--set` and secret files, merged and structured.

Nothing here knows a setting by name, except the convenience variables and systemd's. The settings come from a class of
sections, which are attrs classes; each setting is declared with its reader and its description. Errors are collected, one
message for each name, so that all of them can be shown at once. Only `forwarder.settings` imports this module.
"""

import stat
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import attrs

from forwarder.places import CONFIG_VARIABLE
from forwarder.settings import mistakes
from forwarder.settings.values import KIB, SECRET, SECRET_FILE, About, Reader, RefusedError, Secret, Text

Root = TypeVar("Root", bound=attrs.AttrsInstance)

_MAX_FILE_BYTES = 4096 * KIB
_MAX_SECRET_FILE_BYTES = 64 * KIB


Name = tuple[str, ...]
"""A setting's name: `("delivery", "max_concurrency")`, or `("loop",)` at the top level."""

Failures = dict[Name, str]
"""What is wrong and how to fix it, by the name of the setting or the source."""


@dataclass(frozen=True)
class Given:
    """A value as it was given, not checked yet."""

    value: object = field(repr=False)  # may be a secret
    origin: str
    """Where it was given, such as "in FORWARDER_LOOP"."""


Layer = dict[Name, Given]
"""What one source gave, or several merged."""


@dataclass(frozen=True)
class KnownSetting:
    """One setting that exists."""

    section: str
    """Empty at the top level."""
    key: str
    reader: Reader[Any]
    description: str
    default: str | None
    """As TOML text; None if there is none."""
    live: bool
    """Whether a running daemon takes it up on SIGHUP."""

    @property
    def name(self) -> Name:
        return (self.section, self.key) if self.section else (self.key,)

    @property
    def path(self) -> str:
        return ".".join(self.name)

    @property
    def type(self) -> str:
        """What it must be, with unit and range."""
        return self.reader.type_text

    def of(self, settings: attrs.AttrsInstance) -> object:
        """Return its value in `settings`."""
        return getattr(getattr(settings, self.section) if self.section else settings, self.key)


def known_settings(root: type[attrs.AttrsInstance]) -> list[KnownSetting]:
    """Return every setting of a class of sections, in order."""
    found = []
    for outer in attrs.fields(root):
        is_section = attrs.has(outer.type)
        for each in attrs.fields(outer.type) if is_section else [outer]:
            about: About = each.metadata[About]
            section, default = outer.name if is_section else "", about.reader.toml(each.default)
            found.append(KnownSetting(section, each.name, about.reader, about.description, default, about.live))
    return found


def gather(
    config: Path | None, environ: Mapping[str, str], overrides: Sequence[str], root: type[attrs.AttrsInstance]
) -> tuple[Layer, Failures, list[str]]:
    """Read and merge all sources; return what they give, what is wrong with them, and warnings."""
    fields = known_settings(root)
    sections = {each.section for each in fields} - {""}
    from_file, failures, warnings = _from_file(config, sections) if config is not None else ({}, {}, [])
    from_environ, ignored = _from_environ(environ, sections, {each.key for each in fields if not each.section})
    from_overrides, malformed = _from_overrides(overrides, sections)
    explicit = from_environ | from_overrides
    given = _from_systemd(environ) | from_file | _from_convenience(environ, explicit) | explicit
    failures |= malformed
    for name in [name for name in given if len(name) == 1 and name[0] in sections]:
        failures[name] = f"is a section, [{name[0]}] in the file; set what is in it ({given.pop(name).origin})"
    return given, failures, warnings + _about_variables(environ, ignored, fields)


def _about_variables(environ: Mapping[str, str], ignored: Sequence[str], fields: Sequence[KnownSetting]) -> list[str]:
    """Return warnings about variables that are not settings: what was probably meant, or else just their names."""
    paths = {
        (each.section, each.key): f"FORWARDER_{'__'.join(each.name).upper()}"
        for each in fields
        if not each.reader.table_example
    }
    others = sorted(name for name in environ if not name.startswith("FORWARDER_"))
    meant = dict(mistakes.misspelt(ignored, others, paths))
    warnings = [
        f"{printable_path((variable,))} is not a setting and was ignored. Did you mean {setting}?"
        for variable, setting in meant.items()
    ]
    if rest := [variable for variable in ignored if variable not in meant]:
        names = printable_path(tuple(rest), ", ")
        warnings.append(f"ignored, as they are not settings, which are FORWARDER_<SECTION>__<KEY>: {names}")
    return warnings


def _from_file(config: Path, sections: Collection[str]) -> tuple[Layer, Failures, list[str]]:
    warnings = []
    try:
        with config.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if fault := _fault_of_file(content):
            return {}, {(str(config),): fault}, []
        text = mistakes.without_boms(content)
        if text != content:
            warnings.append(f"{config} begins with a byte-order mark, which was ignored; save it as UTF-8 without BOM")
        document = tomllib.loads(text.decode())
    except OSError as error:
        return {}, {(str(config),): f"cannot be read: {error.strerror}"}, []
    except UnicodeDecodeError as error:
        return {}, {(str(config),): f"is not UTF-8, as TOML must be; look at byte {error.start}"}, []
    except RecursionError:
        return {}, {(str(config),): "is nested too deeply to be a file of settings"}, []
    except ValueError as error:  # TOMLDecodeError, which tells line and column; or a number of thousands of digits
        return {}, {(str(config),): f"is not TOML: {error}"}, warnings
    layer: Layer = {}
    for name, value in document.items():
        if name in sections and isinstance(value, dict):
            layer |= {(name, key): Given(each, f"in {config}") for key, each in value.items()}
        else:
            layer[name,] = Given(value, f"in {config}")
    return layer, {}, warnings


def _fault_of_file(content: bytes) -> str:
    """Return why the content of a file cannot be TOML; empty if it may be."""
    if len(content) > _MAX_FILE_BYTES:
        return "is larger than 4 MiB, too large for settings"
    return "is UTF-16, and TOML must be UTF-8; save it as that" if mistakes.is_utf_16(content) else ""


def _from_environ(
    environ: Mapping[str, str], sections: Collection[str], top_level: Collection[str]
) -> tuple[Layer, list[str]]:
    """Return what the `FORWARDER_…` variables give, and the names of those that are not settings."""
    layer: Layer = {}
    ignored = []
    for variable in sorted(environ):
        if not variable.startswith("FORWARDER_") or variable == CONFIG_VARIABLE:
            continue
        rest = variable.removeprefix("FORWARDER_").lower()
        section, separator, key = rest.partition("__")
        given = Given(Text(environ[variable]), f"in {printable_path((variable,))}")
        if separator and section in sections:
            layer[section, key] = given
        elif rest in top_level:
            layer[rest,] = given
        else:
            # Kubernetes gives every container the address of each Service; one may be called "forwarder".
            ignored.append(variable)
    return layer, ignored


def _from_convenience(environ: Mapping[str, str], explicit: Layer) -> Layer:
    """Return what `GROWLYTICS_API_KEY` and `GROWLYTICS_API_KEY_FILE` give: nothing if `explicit` has a key or key file.

    An empty variable counts as missing: a compose file passes one on for a variable that is not set.
    """
    names = {f"GROWLYTICS_{key.upper()}": ("growlytics", key) for key in ("api_key", "api_key_file")}
    if not explicit.keys().isdisjoint(names.values()):
        return {}
    return {name: Given(Text(environ[key]), f"in {key}") for key, name in names.items() if environ.get(key)}


def _from_systemd(environ: Mapping[str, str]) -> Layer:
    """Return what the unit's `StateDirectory=` gives, which systemd passes on; nothing if there is none.

    Colons separate several directories; the first one counts.
    """
    directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return {("buffer", "directory"): Given(Text(directory), "in STATE_DIRECTORY")} if directory else {}


def _from_overrides(overrides: Sequence[str], sections: Collection[str]) -> tuple[Layer, Failures]:
    layer: Layer = {}
    malformed: Failures = {}
    for number, override in enumerate(overrides, start=1):
        path, equals, value = override.partition("=")
        section, dot, key = path.partition(".")
        if equals and path:
            layer[(section, key) if dot and section in sections else (path,)] = Given(Text(value), "in --set")
        else:  # it is not shown, as it may hold a key
            malformed[f"--set (number {number})",] = "must be written section.key=value"
    return layer, malformed


def read_secrets(given: Layer, root: type[attrs.AttrsInstance]) -> Failures:
    """Add to `given` each secret that is given as a file."""
    failures: Failures = {}
    known = [each.name for each in known_settings(root)]
    for secret in known:
        file = (*secret[:-1], f"{secret[-1]}_file")
        if file not in known or file not in given:
            continue
        if secret in given:
            failures[secret] = f"is given twice, also as {'.'.join(file)} {given[file].origin}; keep one"
            continue
        try:
            given[secret] = Given(read_secret_file(given[file].value), given[file].origin)
        except RefusedError as refused:
            failures[file] = str(refused)
    return failures


def read_secret_file(path: object) -> Secret:
    """Return the secret in a file, without the newline at its end, or raise `RefusedError` with the reason.

    A relative path is relative to the working directory. At most 64 KiB are read, so that even /dev/zero does no harm.
    """
    try:
        with Path(SECRET_FILE.read(path)).open("rb") as file:
            content = file.read(_MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"names a file that cannot be read: {error.strerror}") from None
    if len(content) > _MAX_SECRET_FILE_BYTES:
        raise RefusedError("names a file that is larger than 64 KiB, too large for a secret")
    if mistakes.is_utf_16(content):
        raise RefusedError("names a file in UTF-16; save it as plain text, in UTF-8 without BOM")
    # Bytes that are not UTF-8 become characters that are refused like all that are not ASCII.
    text = content.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not text:
        raise RefusedError("names a file that is empty; write the secret into it")
    try:
        return SECRET.read(text)
    except RefusedError as refused:
        raise RefusedError(f"names a file whose content {refused}") from None


def certificates_fault(path: str) -> str | None:
    """Return what is wrong with a file of certificates in PEM form; None if it can be used."""
    import ssl  # noqa: PLC0415  # few need it, and it would make every command start slower

    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # reading a device or a pipe might never end
            return "names something that is no file"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "names a file that does not hold certificates in PEM form"
    except OSError as error:
        return f"names a file that cannot be read: {error.strerror}"
    # The file may hold nothing but revocation lists.
    return None if context.cert_store_stats()["x509"] else "names a file that holds no certificate"


def structure(given: Layer, root: type[Root]) -> tuple[Root, Failures, list[str]]:
    """Return the settings that `given` makes, failures and warnings. A refused setting has its default, and a failure."""
    fields = known_settings(root)
    known = {each.name: each for each in fields}
    failures: Failures = {}
    warnings = []
    sections: dict[str, dict[str, Any]] = {"": {}, **{each.section: {} for each in fields}}
    for name, value in given.items():
        if name not in known:
            failures[name] = _unknown("".join(name[:-1]), name[-1], fields)
            continue
        reader = known[name].reader
        try:
            sections[known[name].section][name[-1]] = read = reader.read(value.value)
        except RefusedError as refused:
            failures[name] = str(refused)
            if isinstance(value.value, Text) and mistakes.is_quoted(value.value) and "quotes" not in failures[name]:
                failures[name] += "; the quotes around it belong to the value, so leave them out"
            continue
        if doubt := reader.doubt(read):
            warnings.append(f"{known[name].path} {doubt} ({value.origin})")
    top_level = sections.pop("")
    kinds = {each.name: each.type for each in attrs.fields(root) if each.type}
    return root(**top_level, **{name: kinds[name](**values) for name, values in sections.items()}), failures, warnings


def _unknown(section: str, key: str, fields: Sequence[KnownSetting]) -> str:
    """Return the message for a setting that does not exist; it names the setting that was probably meant."""
    for each in fields:
        inside_of_it = key.startswith((f"{each.key}.", f"{each.key}__"))
        if each.reader.table_example and each.section == section and inside_of_it:
            return f"{each.path} is a table, which can be set in the file only, like {each.reader.table_example}"
    siblings = {each.key: each.path for each in fields if each.section == section}
    if not section:
        # At the top level it may be a misspelt section or, in `--set`, a misspelt path.
        siblings |= {each.section: each.section for each in fields if each.section}
        siblings |= {each.path: each.path for each in fields}
    import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

    near = [siblings[each] for each in difflib.get_close_matches(key, siblings, n=1)]
    meant = near or [each.path for each in fields if each.key == key]
    if meant:
        return f"does not exist; did you mean {' or '.join(meant)}?"
    return f"does not exist; the settings here are {', '.join(each for each in siblings if '.' not in each)}"


def printable_path(name: Name, separator: str = ".") -> str:
    """Return a name as a dotted path, safe to print even if a stranger chose it."""
    return separator.join(part if part.isprintable() else ascii(part) for part in name)
