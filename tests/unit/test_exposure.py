"""Settings that let strangers in are warned of, with the setting and the fix, and without the token."""

from pathlib import Path

import pytest

from forwarder.settings import SettingsError, load

REMOTE = "intake.http=0.0.0.0:8920"
RANDOM = "9f3a6c1e5b7d2084"


def warnings(*overrides: str) -> tuple[str, ...]:
    return load(None, environ={}, overrides=overrides).warnings


@pytest.mark.parametrize(
    "token",
    [
        *("x", "s3cr3t", "9f3a6c1e5b7d208", "a" * 16, "a" * 100, "1111222233334444", "abcabcabcabcabcabcabc", "ababab" * 20),
        *("passwordpassword", "12345678" * 4, "9f3a6c1e5b7d208" * 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "http", [REMOTE, "intake.http=[::]:8920", "intake.http=192.0.2.1:1", "intake.http=forwarder:8920"]
)
def test_a_token_that_can_be_guessed_is_warned_of_where_others_reach_the_intake(http: str, token: str) -> None:
    (warning,) = (each for each in warnings(http, f"intake.token={token}") if "placeholder" not in each)
    assert warning.startswith("intake.token: the token ")
    assert "intake.http can be reached from other machines" in warning
    assert "openssl rand -hex 32" in warning
    assert f" {token}" not in warning


@pytest.mark.parametrize("token", [RANDOM, RANDOM * 2, "Zt8/kQ2vLw+9xB4m=", "correct horse battery staple"])
def test_a_long_token_of_many_characters_is_not(token: str) -> None:
    assert [each for each in warnings(REMOTE, f"intake.token={token}") if "guess" in each] == []


@pytest.mark.parametrize("http", ["127.0.0.1:8920", "[::1]:8920", "localhost:8920", "127.9.9.9:1"])
def test_a_weak_token_is_of_no_account_where_only_this_machine_reaches_the_intake(http: str) -> None:
    assert warnings(f"intake.http={http}", "intake.token=q") == ()


def test_a_weak_token_is_of_no_account_without_tcp() -> None:
    assert warnings("intake.http=", "intake.unix_socket=/tmp/s", "intake.token=q") == ()


def test_a_weak_token_in_a_file_is_warned_of_by_the_name_of_that_setting(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("q0q\n")
    (warning,) = warnings(REMOTE, f"intake.token_file={file}")
    assert warning.startswith("intake.token_file: ")
    assert "q0q" not in warning


@pytest.mark.parametrize("hosts", ["*", "localhost,*", "*,forwarder"])
@pytest.mark.parametrize(
    "others", [(), ("admin.http=",), ("intake.http=", "intake.unix_socket=/tmp/s"), (f"intake.token={RANDOM}",)]
)
def test_any_host_is_warned_of_where_anything_listens_on_tcp(hosts: str, others: tuple[str, ...]) -> None:
    (warning,) = warnings(f"intake.allowed_hosts={hosts}", *others)
    assert warning.startswith('intake.allowed_hosts has "*"')
    assert "DNS rebinding" in warning
    assert "list the names" in warning


def test_any_host_is_of_no_account_without_tcp() -> None:
    assert warnings("intake.allowed_hosts=*", "intake.http=", "admin.http=", "intake.unix_socket=/tmp/s") == ()


@pytest.mark.parametrize("hosts", ["localhost", "", "forwarder,10.0.0.1"])
def test_names_that_are_listed_are_not_warned_of(hosts: str) -> None:
    assert warnings(f"intake.allowed_hosts={hosts}", "admin.http=0.0.0.0:9920") == ()


def test_any_origin_cannot_be_allowed_at_all() -> None:
    with pytest.raises(SettingsError) as caught:
        warnings("intake.allowed_origins=*")
    assert [problem.path for problem in caught.value.problems] == ["intake.allowed_origins"]
