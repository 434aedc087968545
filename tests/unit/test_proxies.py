"""A proxy that only the environment names is not used, which is said once; where it would not be meant, nothing is said."""

import pytest

from forwarder.settings import SettingsError, load
from forwarder.settings.rules import ignored_proxy

PROXY = "http://CANARY:CANARY@proxy.example:3128"
GROWLYTICS = "https://dc.growlytics.in/track/event"
LOCAL = "http://127.0.0.1:8080/track/event"


def warnings(environ: dict[str, str], *overrides: str) -> tuple[str, ...]:
    return load(None, environ=environ, overrides=overrides).warnings


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_one_warning_that_names_the_setting_and_shows_no_password(name: str) -> None:
    (warning,) = warnings({name: PROXY})
    assert warning.startswith(f"{name} is set and ignored")
    assert "growlytics.proxy" in warning
    assert "dc.growlytics.in" in warning
    assert "CANARY" not in warning


def test_several_are_one_warning() -> None:
    assert len(warnings(dict.fromkeys(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "http_proxy"], PROXY))) == 1


def test_an_error_brings_the_warning_along() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, environ={"HTTPS_PROXY": PROXY}, overrides=["log.level=loud"])
    assert len(caught.value.warnings) == 1


@pytest.mark.parametrize("url", [GROWLYTICS, LOCAL])
def test_a_proxy_for_plain_http_concerns_plain_http_only(url: str) -> None:
    assert bool(warnings({"http_proxy": PROXY}, f"growlytics.url={url}")) == (url == LOCAL)


@pytest.mark.parametrize("environ", [{}, {"HTTPS_PROXY": ""}, {"FTP_PROXY": PROXY}, {"NO_PROXY": "a"}])
def test_without_a_proxy_nothing_is_said(environ: dict[str, str]) -> None:
    assert warnings(environ) == ()


def test_where_the_setting_names_a_proxy_nothing_is_said() -> None:
    assert warnings({"HTTPS_PROXY": PROXY}, "growlytics.proxy=http://other.example:3128") == ()
    environ = {"HTTPS_PROXY": PROXY, "FORWARDER_GROWLYTICS__PROXY": "http://other.example:3128"}
    assert warnings(environ) == ()


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(
    ("exceptions", "url", "is_covered"),
    [
        ("*", GROWLYTICS, True),
        ("dc.growlytics.in", GROWLYTICS, True),
        ("DC.Growlytics.IN", GROWLYTICS, True),
        ("a,.growlytics.in , b", GROWLYTICS, True),
        ("a growlytics.in", GROWLYTICS, True),
        ("*.growlytics.in", GROWLYTICS, True),
        ("dc.growlytics.in:443", GROWLYTICS, True),
        ("dc.growlytics.in:8443", GROWLYTICS, False),
        ("growlytics.in", "https://dc.growlytics.in.:443/", True),
        ("", GROWLYTICS, False),
        (",", GROWLYTICS, False),
        (".", GROWLYTICS, False),
        ("rowlytics.in", GROWLYTICS, False),
        ("xdc.growlytics.in", GROWLYTICS, False),
        ("127.0.0.1", LOCAL, True),
        ("127.0.0.0/8", LOCAL, True),
        ("127.0.0.1:8080", LOCAL, True),
        ("127.0.0.1:80", LOCAL, False),
        ("10.0.0.0/8", LOCAL, False),
        ("::1", "http://[::1]:8080/", True),
        ("[::1]", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("fd00::/8", "https://[fd00::2:1]/", True),
        ("fd00::2:1", "https://[fd00::2:1]/", True),
    ],
)
def test_a_host_that_needs_no_proxy_is_not_warned_of(name: str, exceptions: str, url: str, is_covered: bool) -> None:
    assert (ignored_proxy({"HTTPS_PROXY": PROXY, name: exceptions}, url) is None) == is_covered
