"""Common mistakes in settings: each is refused or warned of in words that say what to do, and no value is ever shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from forwarder.settings import RefusedError, Secret, SettingsError, load, read_secret_file

KEY = "c0ffee-THE-KEY-ITSELF"
PATHS = [
    "buffer.directory",
    "intake.unix_socket",
    "intake.lines_socket",
    "intake.datagram_socket",
    "contract.types_file",
    "growlytics.ca_file",
    "growlytics.api_key_file",
    "growlytics.proxy_file",
    "intake.token_file",
]


def problems(environ: Mapping[str, str], overrides: Sequence[str] = (), config: Path | None = None) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(config, environ=environ, overrides=overrides)
    return {problem.path: problem.message for problem in caught.value.problems}


def warnings(environ: Mapping[str, str] = {}, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    return load(None, environ=environ, overrides=overrides).warnings


# --- Secrets ---

WRONG_SECRETS = {
    f'"{KEY}"': "quotes around it",
    f"'{KEY}'": "quotes around it",
    f"`{KEY}`": "quotes around it",
    f"GROWLYTICS_API_KEY={KEY}": "begins with a name",
    f"export GROWLYTICS_API_KEY={KEY}": "begins with a name",
    f'export GROWLYTICS_API_KEY="{KEY}"': "begins with a name",
    f"api_key = '{KEY}'": "begins with a name",
    f"api_key: {KEY}": "begins with a name",
    f'{{"api_key":"{KEY}"}}': "begins with a name",
    f"API_KEY={KEY}\nOTHER=1": "begins with a name",
    f"GROWLYTICS_API_KEY_FILE={KEY}": "begins with a name",
    f"FORWARDER_GROWLYTICS__API_KEY={KEY}": "begins with a name",
    f"FORWARDER_INTAKE__TOKEN={KEY}": "begins with a name",
    f"growlytics.api_key={KEY}": "begins with a name",
    f"MY_API_KEY={KEY}": "begins with a name",
    f"apiKey={KEY}": "begins with a name",
    f"api-key: {KEY}": "begins with a name",
    f"export X={KEY}": "begins with a name",
    f"set X={KEY}": "begins with a name",
    f"x-growlytics-key: {KEY}": "begins with a name",
    f"X-Growlytics-Key:{KEY}": "begins with a name",
    f"KEY={KEY}\nOTHER=1": "several lines",
    "${GROWLYTICS_API_KEY}": "placeholder",
    "${KEY:-}": "placeholder",
    "$GROWLYTICS_API_KEY": "placeholder",
    "$(cat /run/key)": "placeholder",
    "%GROWLYTICS_API_KEY%": "placeholder",
    "{{ .Values.key }}": "placeholder",
    "<your key>": "placeholder",
    f"\ufeff{KEY}": "byte-order mark",
    f"{KEY}\u200b": "invisible",
    f"c0ffee\u00a0{KEY}": "invisible",
    f"“{KEY}”": "not ASCII",
    f"{KEY}\n{KEY}": "several lines",
    f" {KEY}": "begins or ends with a space",
    f"{KEY}\t": "invisible",
}


@pytest.mark.parametrize(("secret", "words"), WRONG_SECRETS.items())
def test_what_is_never_a_secret_is_explained_wherever_it_is_given(tmp_path: Path, secret: str, words: str) -> None:
    file, toml = tmp_path / "secret", tmp_path / "config.toml"
    file.write_bytes(secret.encode() + b"\r\n")
    escaped = "".join(f"\\u{ord(c):04x}" for c in secret)
    toml.write_text(f'[growlytics]\napi_key = "{escaped}"\n')
    found = {
        "growlytics.api_key": problems({"GROWLYTICS_API_KEY": secret}),
        "intake.token": problems({"FORWARDER_INTAKE__TOKEN": secret}),
        "growlytics.proxy": problems({}, [f"growlytics.proxy={secret}"]),
        "growlytics.api_key_file": problems({"GROWLYTICS_API_KEY_FILE": str(file)}),
        "intake.token_file": problems({"FORWARDER_INTAKE__TOKEN_FILE": str(file)}),
    }
    for path, message in found.items():
        assert words in message[path], path
        assert KEY not in message[path], path
    assert words in problems({}, config=toml)["growlytics.api_key"]
    with pytest.raises(RefusedError, match=words):
        read_secret_file(str(file))


def test_a_key_whose_line_of_the_environment_ended_as_windows_does_is_explained() -> None:
    (message,) = problems({"GROWLYTICS_API_KEY": f"{KEY}\r"}).values()
    assert "ends with a line break" in message
    assert KEY not in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_key_file_in_utf_16_is_explained(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY.encode(encoding))
    (message,) = problems({"GROWLYTICS_API_KEY_FILE": str(file)}).values()
    assert "UTF-16" in message


@pytest.mark.parametrize(
    "secret",
    ["a=b", "QUJD=", "QUJDRA==", 'a"b', '"', "abc$def", "x:y", "50%", "k_1-2.3~4", "AB=1", "apikey:SG", "myapikey=="],
)
def test_what_may_be_a_secret_is_taken_in_silence(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "key"
    for end in ("", "\n", "\r\n", "\n\n"):
        file.write_bytes((secret + end).encode())
        loaded = load(None, environ={"GROWLYTICS_API_KEY_FILE": str(file), "FORWARDER_INTAKE__TOKEN": secret})
        assert loaded.warnings == ()
        assert loaded.settings.growlytics.api_key == loaded.settings.intake.token


@pytest.mark.parametrize("secret", ["AAAA=BBBB", "QUJDRA==QUJDRA==", "mytoken=abc", "KEY=c0ffee", "SECRET_X=c0ffee"])
def test_a_secret_with_an_equals_sign_within_is_taken_and_only_a_key_that_begins_with_a_name_is_warned_of(
    secret: str,
) -> None:
    loaded = load(None, environ={"GROWLYTICS_API_KEY": secret, "FORWARDER_INTAKE__TOKEN": secret})
    assert loaded.settings.growlytics.api_key == loaded.settings.intake.token == Secret(secret)
    (warning,) = loaded.warnings
    assert warning.startswith("growlytics.api_key looks like NAME=secret")
    assert secret not in warning


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("two words", "holds a space"),
        (f'"{KEY}', "begins or ends with a quote"),
        (f"{KEY}'", "begins or ends with a quote"),
        (f"\"{KEY}'", "begins or ends with a quote"),
        (f"{KEY}`", "begins or ends with a quote"),
        ("YOUR_API_KEY", "looks like a placeholder"),
        ("your-growlytics-api-key", "looks like a placeholder"),
        ("changeme", "looks like a placeholder"),
        ("...", "looks like a placeholder"),
        ("$key", "looks like a placeholder"),
        ("__KEY__", "looks like a placeholder"),
        ("/run/secrets/key", "_file"),
    ],
)
def test_what_may_be_no_secret_is_warned_of_without_being_shown(tmp_path: Path, secret: str, words: str) -> None:
    file = tmp_path / "key"
    file.write_text(secret)
    for environ in ({"GROWLYTICS_API_KEY": secret}, {"GROWLYTICS_API_KEY_FILE": str(file)}):
        (warning,) = warnings(environ)
        assert warning.startswith("growlytics.api_key ")
        assert words in warning
        assert secret not in warning or len(secret) < 5


# --- Paths ---


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("~", "begins with ~"),
        ("~/x", "begins with ~"),
        ("~app/x", "begins with ~"),
        ("$HOME/x", "begins with a variable"),
        ("${HOME}/x", "begins with a variable"),
        ("%h/x", "begins with a variable"),
        ("%S/x", "begins with a variable"),
        ("%APPDATA%/x", "begins with a variable"),
        ('"/srv/x"', "quotes around it"),
        ("'/srv/x'", "quotes around it"),
    ],
)
def test_a_path_that_only_a_shell_or_systemd_would_understand_is_refused_for_every_setting(
    path: str, value: str, words: str
) -> None:
    message = problems({}, [f"{path}={value}"])[path]
    assert words in message
    assert path.endswith("_file") or value in message or value[0] == '"'


@pytest.mark.parametrize("value", ["/run/${POD}/x", "/run/$POD.sock", "/run/%i.sock", "/srv/x "])
def test_a_path_that_may_hold_a_variable_is_warned_of(value: str) -> None:
    (warning,) = warnings({"FORWARDER_BUFFER__DIRECTORY": value})
    assert warning.startswith("buffer.directory ")
    assert "is this path correct?" in warning
    assert "FORWARDER_BUFFER__DIRECTORY" in warning


@pytest.mark.parametrize("value", ["./~/x", "/srv/100%full", "/srv/a$", "/srv/a~b", "x y/z"])
def test_any_other_path_is_taken_in_silence(value: str) -> None:
    assert warnings({"FORWARDER_BUFFER__DIRECTORY": value}) == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("log.level", '"info"'),
        ("buffer.max_bytes", "'1 GiB'"),
        ("buffer.fsync", '"true"'),
        ("intake.http", '"127.0.0.1:1"'),
        ("growlytics.url", '"https://dc.growlytics.in/track/event"'),
    ],
)
def test_a_value_in_quotes_that_the_environment_keeps_is_refused_with_the_fix(path: str, value: str) -> None:
    variable = f"FORWARDER_{path.replace('.', '__').upper()}"
    assert "quotes" in problems({variable: value})[path]


# --- The file ---


@pytest.mark.parametrize("number", [1, 2, 3])
def test_byte_order_marks_before_the_settings_are_ignored_with_a_warning(tmp_path: Path, number: int) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf" * number + b"[log]\r\nlevel = 'debug'\r\n")
    loaded = load(file, environ={})
    assert loaded.settings.log.level == "debug"
    (warning,) = loaded.warnings
    assert "byte-order mark" in warning
    assert str(file) in warning


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_an_error_that_says_so(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes("[log]\nlevel = 'debug'\n".encode(encoding))
    assert "UTF-16" in problems({}, config=file)[str(file)]


# --- Names of variables ---


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FORWARDER_LOG_LEVEL", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER__LOG__LEVEL", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER_LOGLEVEL", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER_LOGGING__LEVEL", "FORWARDER_LOG__LEVEL"),
        ("forwarder_log__level", "FORWARDER_LOG__LEVEL"),
        ("Forwarder_Log_Level", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER_LEVEL", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER_BUFER__DIRECTORY", "FORWARDER_BUFFER__DIRECTORY"),
        ("FORWARDER_BUFFER_DIRECTROY", "FORWARDER_BUFFER__DIRECTORY"),
        ("FORWARDER_BUFFER_MAX_BYTES", "FORWARDER_BUFFER__MAX_BYTES"),
        ("FORWARDER_INTAKE_HTTP", "FORWARDER_INTAKE__HTTP"),
        ("FORWARDER_HTTP", "FORWARDER_INTAKE__HTTP or FORWARDER_ADMIN__HTTP"),
        ("FORWARDER_GROWLYTICS_API_KEY", "FORWARDER_GROWLYTICS__API_KEY"),
        ("FORWARDER_API_KEY", "FORWARDER_GROWLYTICS__API_KEY"),
        ("FORWARDER_TOKEN", "FORWARDER_INTAKE__TOKEN"),
        ("FORWARDER_LOOPS", "FORWARDER_LOOP"),
        ("GROWLYTICS_APIKEY", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS_KEY", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS_TOKEN", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS_API_KEYS", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS__API_KEY", "GROWLYTICS_API_KEY"),
        ("growlytics_api_key", "GROWLYTICS_API_KEY"),
        ("GROWLYTIC_API_KEY", "GROWLYTICS_API_KEY"),
        ("GROWLITICS_API_KEY", "GROWLYTICS_API_KEY"),
        ("GROLWYTICS_API_KEY", "GROWLYTICS_API_KEY"),
        ("growlytic_apikey", "GROWLYTICS_API_KEY"),
        ("GROWLYTICSAPIKEY", "GROWLYTICS_API_KEY"),
        ("GROWLYTIC_API_KEY_FILE", "GROWLYTICS_API_KEY_FILE"),
        ("GROWLYTICS_API_KEY_FLIE", "GROWLYTICS_API_KEY_FILE"),
        ("GROWLYTICS_API_KEY_PATH", "GROWLYTICS_API_KEY_FILE"),
        ("GROWLYTICS_APIKEY_FILE", "GROWLYTICS_API_KEY_FILE"),
        ("GROWLYTICS_KEY_FILE", "GROWLYTICS_API_KEY_FILE"),
        ("GROWLYTICS_URL", "FORWARDER_GROWLYTICS__URL"),
        ("GROWLYTICS_ENDPOINT", "FORWARDER_GROWLYTICS__URL"),
        ("GROWLYTICS_PROXY", "FORWARDER_GROWLYTICS__PROXY"),
        ("GROWLYTICS_CA_FILE", "FORWARDER_GROWLYTICS__CA_FILE"),
        ("GROWLYTICS_LOG__LEVEL", "FORWARDER_LOG__LEVEL"),
        ("GROWLYTICS_FORWARDER_LOG_LEVEL", "FORWARDER_LOG__LEVEL"),
        ("GROWLYTICS_FORWARDER_API_KEY", "FORWARDER_GROWLYTICS__API_KEY"),
        ("forwarder.log.level", "FORWARDER_LOG__LEVEL"),
        ("growlytics-api-key", "GROWLYTICS_API_KEY"),
        ("FORWARDER_KEY", "FORWARDER_GROWLYTICS__API_KEY"),
        ("FORWARDER_BUFFER_DIR", "FORWARDER_BUFFER__DIRECTORY"),
        ("FORWARDER_DATA_DIR", "FORWARDER_BUFFER__DIRECTORY"),
        ("FORWARDER_ENDPOINT", "FORWARDER_GROWLYTICS__URL"),
        ("FORWARDER_DEBUG", "FORWARDER_LOG__LEVEL"),
        ("FORWARDER_LISTEN", "FORWARDER_INTAKE__HTTP"),
        ("FORWARDER_CONFIG_FILE", "FORWARDER_CONFIG"),
    ],
)
def test_a_variable_that_is_almost_a_setting_is_warned_of_with_the_one_that_was_meant(
    variable: str, meant: str
) -> None:
    expected = f"{variable} is not a setting and was ignored. Did you mean {meant}?"
    assert warnings({variable: "c0ffee-value", "HOME": "/"}) == (expected,)


@pytest.mark.parametrize(
    "key",
    [
        "...", "......", "***", "---", "xxx", "XXXXXXXX", "000000", "YOUR_API_KEY", "your-key", "YOUR_KEY", "yourApiKey",
        "<key", "[YOUR KEY]", "changeme", "change-me", "CHANGE_ME!", "todo", "TODO", "tbd", "secret", "dummy",
        "api_key_here", "insert-your-key-here", "YOUR_GROWLYTICS_API_KEY_HERE", "none", "null",
        "MY_SECRET_KEY", "your.api.key", "paste-key-here", "undefined",
    ],
)  # fmt: skip
def test_a_key_that_stands_for_a_key_is_questioned_and_not_shown(key: str) -> None:
    (warning,) = warnings({"GROWLYTICS_API_KEY": key})
    assert warning.startswith("growlytics.api_key looks like a placeholder; give the ")
    assert key not in warning.replace("the secret itself", "").replace("the key itself", "")


@pytest.mark.parametrize(
    "key", ["k", "ab", "c0ffee", "key1", "key-8723", "sk_live_key_here_0", "a1b2", "test", "keykey"]
)
def test_a_key_that_may_be_one_is_taken_in_silence(key: str) -> None:
    assert warnings({"GROWLYTICS_API_KEY": key}) == ()


@pytest.mark.parametrize(
    ("url", "words"),
    {
        "https://dc.growlytics.in": "has no path, ",
        "https://dc.growlytics.in/": "has no path, ",
        "https://dc.growlytics.in//": "has no path, ",
        "http://127.0.0.1:9000?CANARY": "has no path, ",
        "https://dc.growlytics.in/track/event/": "has a path that ends with a slash, ",
    }.items(),
)
def test_a_url_without_a_path_or_with_a_slash_at_its_end_is_questioned_and_not_shown(url: str, words: str) -> None:
    (warning,) = warnings({"FORWARDER_GROWLYTICS__URL": url})
    assert warning.startswith(f"growlytics.url {words}and Growlytics accepts events at /track/event: ")
    assert "CANARY" not in warning
    assert "growlytics.in" not in warning


@pytest.mark.parametrize("path", ["/track/event", "/track/event?x=1", "/proxy/growlytics", "/x"])
def test_a_url_with_any_path_is_taken_in_silence(path: str) -> None:
    assert warnings({"FORWARDER_GROWLYTICS__URL": f"https://dc.growlytics.in{path}"}) == ()


def test_what_kubernetes_makes_for_a_service_is_never_taken_for_a_setting() -> None:
    services = ("GROWLYTICS", "FORWARDER", "GROWLYTICS_FORWARDER", "FORWARDER_HTTP", "GROWLYTICS_API")
    environ = {
        f"{service}_{suffix}": "10.0.0.1"
        for service in services
        for suffix in (
            "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8920_TCP", "PORT_8920_TCP_PROTO",
            "PORT_8920_TCP_PORT", "PORT_8920_TCP_ADDR", "PORT_53_UDP_ADDR",
        )
    }  # fmt: skip
    (warning,) = warnings(environ)
    assert "Did you mean" not in warning
    assert warning.partition(": ")[2].split(", ") == sorted(name for name in environ if name.startswith("FORWARDER_"))


@pytest.mark.parametrize(
    "variable",
    [
        "GROWLYTICS_PROJECT",
        "GROWLYTICS_ENABLED",
        "forwarder_of_mine",
        "GROWL_KEY",
        "MY_GROWLYTICS_API_KEY",
        "ANALYTICS_API_KEY",
        "LOG_LEVEL",
    ],
)
def test_a_variable_of_somebody_else_is_no_reason_for_a_warning(variable: str) -> None:
    assert warnings({variable: "x"}) == ()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GROWLYTICS_URL", "FORWARDER_GROWLYTICS__URL"),
        ("GROWLYTICS_APIKEY", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS_KEY", "GROWLYTICS_API_KEY"),
        ("GROWLYTICS_API_KEY_FLIE", "GROWLYTICS_API_KEY_FILE"),
        ("growlytics_api_key", "GROWLYTICS_API_KEY"),
    ],
)
@pytest.mark.parametrize("key", ["FORWARDER_GROWLYTICS__API_KEY", "GROWLYTICS_API_KEY"])
def test_a_variable_that_is_almost_a_setting_is_warned_of_also_where_the_setting_is_given(
    variable: str, meant: str, key: str
) -> None:
    given = {"FORWARDER_GROWLYTICS__URL": "http://127.0.0.1:1/track/event", key: "c0ffee"}
    expected = f"{variable} is not a setting and was ignored. Did you mean {meant}?"
    assert warnings({variable: "c0ffee-value", **given}) == (expected,)


def test_what_was_meant_explains_what_is_missing_and_shows_nothing() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, environ={"GROWLYTICS_APIKEY": KEY, "FORWARDER_X": KEY}, require_api_key=True)
    first, second = caught.value.warnings
    assert "Did you mean GROWLYTICS_API_KEY?" in first
    assert second.endswith(": FORWARDER_X")
    assert KEY not in f"{caught.value.warnings}"


def test_a_byte_order_mark_before_the_first_variable_of_a_file_explains_why_that_is_missing() -> None:
    (warning,) = warnings({"\ufeffGROWLYTICS_API_KEY": "k"})
    assert "Did you mean GROWLYTICS_API_KEY?" in warning
    assert warning.isascii(), "or nobody would see the difference"
