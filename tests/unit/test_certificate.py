"""What is read of a certificate, and that no bytes make trouble."""

import ssl
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.certificate import MAX_NAMES, Certificate, StrangeCertificateError, read_certificate

AUTHORITY = trustme.CA(organization_name="The Wörks", organization_unit_name="Tests")


def der_of(*names: str, not_before: datetime | None = None, not_after: datetime | None = None) -> bytes:
    pem = AUTHORITY.issue_cert(*names, not_before=not_before, not_after=not_after).cert_chain_pems[0].bytes().decode()
    return ssl.PEM_cert_to_DER_cert(pem)


def test_names_dates_and_issuer_of_a_certificate_are_read() -> None:
    begin, end = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2051, 2, 3, 4, 5, 6, tzinfo=UTC)
    found = read_certificate(
        der_of("dc.growlytics.in", "*.example", "10.0.0.1", "::1", not_before=begin, not_after=end)
    )
    assert set(found.names) == {"dc.growlytics.in", "*.example", "10.0.0.1", "::1"}
    assert (found.valid_from, found.valid_to) == (begin.timestamp(), end.timestamp())
    assert found.issuer == "The Wörks"


def test_a_certificate_without_alternative_names_has_its_common_name() -> None:
    authority = AUTHORITY.cert_pem.bytes().decode()
    found = read_certificate(ssl.PEM_cert_to_DER_cert(authority))
    assert isinstance(found, Certificate)
    assert found.issuer == found.subject == "The Wörks"


def test_of_very_many_names_only_some_are_read() -> None:
    found = read_certificate(der_of(*(f"host-{number}.example" for number in range(500))))
    assert len(found.names) == MAX_NAMES


def test_what_the_system_trusts_can_be_read() -> None:
    context = ssl.create_default_context()
    certificates = context.get_ca_certs(binary_form=True)
    if not certificates:
        pytest.skip("this machine has no file of authorities")
    for der in certificates:
        found = read_certificate(der)
        assert found.issuer, der
        assert found.valid_from < found.valid_to


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_told(data: bytes) -> None:
    with pytest.raises(StrangeCertificateError):
        read_certificate(data)


@given(st.data())
def test_a_damaged_certificate_is_read_or_told(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_certificate(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except StrangeCertificateError:
        return
    assert len(found.names) <= MAX_NAMES


WHOLE = der_of("dc.growlytics.in")
