"""Common mistakes in values, files and names of variables, and what to say about them.

A fault is never right, so the value is refused. A doubt may be right, so it is a warning. Both say what to do, and never
show a value, as it may be a secret. Pure. Only the modules of this package import this one.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

_QUOTED: Final = re.compile(r"""(["'`]).*\1""", re.DOTALL)
_QUOTES: Final = ('"', "'", "`")
_VARIABLE: Final = r"\$(?:\{[^}]*\}|\([^)]*\)|[A-Za-z_]\w*)"
_PLACEHOLDER: Final = re.compile(
    r"\$(?:\{[^}]*\}|\([^)]*\)|[A-Z_][A-Z0-9_]*)|%[A-Z_][A-Z0-9_]*%|\{\{.*\}\}|<.*>", re.DOTALL
)
_SPECIFIER: Final = r"%(?:\w+%|[A-Za-z](?![A-Za-z]))"
_OUR_NAME: Final = r"(?:GROWLYTICS|FORWARDER)_[A-Z_]+|(?i:(?:[\w.]+[-_.])?api[-_]?key|growlytics[-_.]key)"
_GIVEN: Final = r"\W?\s*(?:=[^=]|:\s*[\"'\s])"
_ASSIGNMENT: Final = re.compile(
    rf"(?:(?:export|set)\s+\w+=|\W{{0,2}}(?:(?i:x-growlytics-key)\W?\s*[=:]|(?:{_OUR_NAME}){_GIVEN})).*", re.DOTALL
)
"""Text that begins with a name of ours or with a shell command; it is never a secret."""
_NAMED: Final = re.compile(rf"(?:[A-Z_][A-Z0-9_]{{2,}}|\w*(?:key|token|secret|proxy)\w*){_GIVEN}.*", re.DOTALL)
"""Text that begins with another name; it may be a secret, as some have an equals sign in them."""
_SAMPLE: Final = re.compile(
    r"(?:your|my|the)?[-_ ]?(?:growlytics[-_ ])?(?:api|app)[-_ ]?key|(?:change|replace)[-_ ]?me\w*|\.+|x+|"
    r"\$\w+|%\w+%|\[.*\]|__\w+__"
)
_SAMPLE_WORDS: Final = frozenset(
    (
        "a", "access", "account", "add", "an", "api", "apikey", "app", "be", "change", "changeit", "changeme", "credential",
        "done", "dummy", "enter", "example", "fake", "fill", "fixme", "growlytics", "here", "in", "insert", "it", "key",
        "keys", "me", "my", "nil", "none", "null", "our", "password", "paste", "placeholder", "project", "put", "replace",
        "replaceme", "sample", "secret", "set", "tbd", "the", "this", "to", "todo", "token", "undefined", "use", "value",
        "with", "your", "yourapikey", "yourkey",
    )
)  # fmt: skip
_KUBERNETES: Final = re.compile(
    r"\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_BOMS: Final = re.compile(rb"(?:\xef\xbb\xbf)*")


def is_quoted(text: str) -> bool:
    """Whether text has quotes around it, which `docker --env-file` keeps and a shell removes."""
    return len(text) > 1 and _QUOTED.fullmatch(text) is not None


def is_utf_16(content: bytes) -> bool:
    """Whether a file is UTF-16 or UTF-32, as Windows sometimes writes it: it has the mark, or zeros between its letters."""
    return content.startswith(_UTF_16) or b"\0" in content[:4]


def without_boms(content: bytes) -> bytes:
    """Return a file's content without its byte-order marks: each program that saved it may have added one."""
    return _BOMS.sub(b"", content, count=1)


def path_fault(text: str) -> str:
    """Return what is wrong with a path; empty if nothing is."""
    if is_quoted(text):
        return "has quotes around it, which would be part of the path; leave them out"
    if text.startswith("~"):
        return "begins with ~, which only a shell makes a home directory; write the whole path (or ./~ if you mean it)"
    if re.match(rf"{_VARIABLE}|{_SPECIFIER}", text):
        return "begins with a variable, which settings do not replace; write the whole path (or ./ before it if you mean it)"
    return ""


def path_doubt(text: str) -> str:
    """Return what may be wrong with a path that can be used; empty if nothing is."""
    if re.search(rf"{_VARIABLE}|(?<=/){_SPECIFIER}", text):
        return "seems to hold a variable, which settings do not replace; is this path correct?"
    if text != text.strip():
        return "begins or ends with a space; is this path correct?"
    return ""


def secret_fault(text: str) -> str:
    """Return what is wrong with a secret; empty if nothing is."""
    if is_quoted(text):
        return "has quotes around it, which would be sent too; leave them out (docker --env-file keeps them)"
    if _PLACEHOLDER.fullmatch(text):
        return "is a placeholder, which settings and files do not replace; give the secret itself"
    if _ASSIGNMENT.fullmatch(text):
        return "begins with a name, as in NAME=secret; give the secret itself and nothing else"
    if text.isascii() and text.isprintable() and text == text.strip():
        return ""
    return (
        f"cannot be sent in an HTTP header: {_unsendable(text)}; only printable ASCII can be, without spaces around it"
    )


def key_doubt(text: str) -> str:
    """Return what may be wrong with an API key, besides the doubts about every secret; empty if nothing is."""
    if _stands_for_a_key(text.lower()):
        return "looks like a placeholder; give the key itself, as Growlytics shows it for your project"
    if _NAMED.fullmatch(text):
        return "looks like NAME=secret: is it the secret and nothing else?"
    return ""


def _stands_for_a_key(text: str) -> bool:
    """Whether a text is made of nothing but words that say "put your key here", or of one character."""
    words = [word for word in re.split(r"[\W_]+", text) if word]
    if len(words) == 1 and text != words[0]:  # as in "key=="
        words = [text.strip("<>[]{}()_-. ")]
    return len(text) > 1 and (all(word in _SAMPLE_WORDS for word in words) or (len(text) > 2 and len(set(text)) == 1))


def url_doubt(url: str) -> str:
    """Return what may be wrong with the URL that events are posted to; empty if nothing is."""
    path = urlsplit(url).path
    if not path.strip("/"):
        return "has no path, and Growlytics accepts events at /track/event: is that missing?"
    if path.endswith("/"):
        return "has a path that ends with a slash, and Growlytics accepts events at /track/event: is the slash meant?"
    return ""


def _unsendable(text: str) -> str:
    """Return what in a text cannot be in a header."""
    inner = text.rstrip("\r\n")
    faults = {
        "it begins with a byte-order mark (save it as UTF-8 without BOM)": text.startswith("\ufeff"),
        "it has several lines": "\n" in inner or "\r" in inner,
        "it ends with a line break (does the file have the line ends of Windows?)": inner != text,
        "it holds a character that is not ASCII (copy it again, as plain text)": not text.isascii()
        and text.isprintable(),
        "it holds an invisible character (copy it again, as plain text)": not text.isprintable(),
        "it begins or ends with a space": True,
    }
    return next(fault for fault, found in faults.items() if found)


def secret_doubt(text: str) -> str:
    """Return what may be wrong with a secret that can be sent; empty if nothing is."""
    if _SAMPLE.fullmatch(text.lower()):
        return "looks like a placeholder; give the secret itself"
    if text.startswith(("/", "./", "~")):
        return "looks like the path of a file; a path belongs in the setting of the same name with _file"
    if len(text) > 1 and (text.startswith(_QUOTES) or text.endswith(_QUOTES)):
        return "begins or ends with a quote, which is sent too; leave it out if it is not part of the secret"
    if " " in text:
        return "holds a space: is it the secret and nothing else?"
    return ""


# Names of variables


def misspelt(
    ignored: Sequence[str], others: Collection[str], paths: Mapping[tuple[str, str], str]
) -> Iterator[tuple[str, str]]:
    """Yield each misspelt variable, with the names of the settings that were probably meant, joined by "or".

    `ignored` begin with FORWARDER_ and are not settings; `others` are all other variables. `paths` has the variable of
    each setting by section and key. The variables that Kubernetes makes for a Service are never misspelt ones.
    """
    for variable in ignored:
        if not _KUBERNETES.fullmatch(variable) and (meant := _meant(variable[len("FORWARDER_") :], paths)):
            yield variable, meant
    for variable in others:
        # It may have lower case, dots or hyphens, or begin with a byte-order mark of its file.
        name = re.sub("[-.]", "_", variable.lstrip("\ufeff").strip()).upper().removeprefix("GROWLYTICS_FORWARDER_")
        if _KUBERNETES.fullmatch(name) or variable in _CONVENIENT:
            continue
        if name.startswith("GROWLYTICS_"):
            meant = _meant_of_growlytics(name.removeprefix("GROWLYTICS_"), paths)
        elif name.startswith("FORWARDER_") or variable.upper().startswith("GROWLYTICS_FORWARDER_"):
            meant = _meant(name.removeprefix("FORWARDER_"), paths)
        else:
            # A word before the whole name is intended, as in OTHER_GROWLYTICS_API_KEY.
            meant = "" if name.endswith(_WITH_A_WORD_BEFORE) else _nearest_convenient(name, cutoff=0.9)
        if meant:
            yield variable, meant


_MOST_APART: Final = 4
_CONVENIENT: Final = ("GROWLYTICS_API_KEY", "GROWLYTICS_API_KEY_FILE")
_WITH_A_WORD_BEFORE: Final = tuple(f"_{name}" for name in _CONVENIENT)
_OTHER_WORDS: Final = {
    "apikey": "api_key", "key": "api_key", "token": "api_key", "secret": "api_key", "api_token": "api_key",
    "apikey_file": "api_key_file", "key_file": "api_key_file", "api_key_path": "api_key_file", "key_path": "api_key_file",
    "endpoint": "url", "uri": "url", "api_url": "url", "base_url": "url", "timeout": "timeout_seconds",
}  # fmt: skip


_OTHER_NAMES: Final = {
    **dict.fromkeys(("key", "apikey", "secret", "growlytics_key", "growlytics_apikey"), ("growlytics", "api_key")),
    **dict.fromkeys(("endpoint", "uri", "api_url", "base_url", "growlytics_endpoint"), ("growlytics", "url")),
    **dict.fromkeys(
        ("dir", "directory", "buffer_dir", "buffer_path", "data_dir", "data_directory", "state_dir", "state_directory"),
        ("buffer", "directory"),
    ),
    **dict.fromkeys(("debug", "verbose", "verbosity"), ("log", "level")),
    **dict.fromkeys(("listen", "address", "addr", "bind", "intake_address", "intake_listen"), ("intake", "http")),
    **dict.fromkeys(("metrics", "metrics_http", "admin", "admin_address"), ("admin", "http")),
}
"""What else the part after FORWARDER_ is called; never as Kubernetes calls it, which ends with _PORT and the like."""


def _meant(name: str, paths: Mapping[tuple[str, str], str]) -> str:
    """Return the variables that the part after FORWARDER_ probably meant; empty if none is near."""
    flat = re.sub("__+", "_", name.lower().strip("_"))
    whole = {f"{section}_{key}".strip("_"): variable for (section, key), variable in paths.items()}
    if flat in whole:
        return whole[flat]
    if flat in {"config_file", "config_path", "configuration", "settings", "settings_file"}:
        return "FORWARDER_CONFIG"
    if (other := _OTHER_NAMES.get(flat)) is not None and other in paths:
        return paths[other]
    last = name.lower().rpartition("__")[2]
    if alike := [variable for (_, key), variable in paths.items() if key in {flat, last}]:
        return " or ".join(alike)
    import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

    return next((whole[each] for each in difflib.get_close_matches(flat, whole, n=1, cutoff=0.8)), "")


def _meant_of_growlytics(name: str, paths: Mapping[tuple[str, str], str]) -> str:
    flat = re.sub("__+", "_", name.lower().strip("_"))
    key = _OTHER_WORDS.get(flat, flat)
    if key in {"api_key", "api_key_file"}:
        return f"GROWLYTICS_{key.upper()}"
    if ("growlytics", key) in paths:
        return paths["growlytics", key]
    return _meant(name, paths) if "__" in name else _nearest_convenient(f"GROWLYTICS_{flat.upper()}", cutoff=0.85)


def _nearest_convenient(name: str, *, cutoff: float) -> str:
    """Return which of the two variables for the key a name almost is; empty if it is near neither."""
    if not any(_letters_apart(name, each) <= _MOST_APART for each in _CONVENIENT):
        return ""
    import difflib  # noqa: PLC0415  # few need it, and it takes memory for ever

    return next(iter(difflib.get_close_matches(name, _CONVENIENT, n=1, cutoff=cutoff)), "")


def _letters_apart(one: str, other: str) -> int:
    """Return how many letters only one of the two has, in any order: quick, and at most twice the typing errors."""
    letters, others = Counter(one), Counter(other)
    return (letters - others).total() + (others - letters).total()
