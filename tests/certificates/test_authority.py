"""What a fleet's authority signs, and what it does not."""

import ipaddress
import ssl
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates.machines import certified

from hooke.base.errors import UsageError
from hooke.certificates.authority import LATE_S, Authority, BadRequest, new_key, request
from hooke.certificates.key_files import CA_KEY, CertificateFacts, Keys

NOW = 1_800_000_000.0
LAB = Authority.make("lab", now=NOW, valid_s=86400.0)


def certificate(pem):
    return x509.load_pem_x509_certificate(pem)


def requested(key, names=(), extensions=()):
    made = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    )
    for each in extensions:
        made = made.add_extension(each, critical=True)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_only_what_is_granted_is_in_the_certificate() -> None:
    asked = requested(
        new_key(),
        ["admission", "root"],
        [
            x509.BasicConstraints(ca=True, path_length=None),
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("admission.lab.hooke.internal"),
                    x509.DNSName("bank.example"),
                    x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
                ]
            ),
        ],
    )
    made = certificate(LAB.grant(asked, "gpu-1", now=NOW, valid_s=3600.0))
    made.verify_directly_issued_by(certificate(LAB.pem))
    assert made.subject.rfc4514_string() == "CN=gpu-1"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("gpu-1.machines.lab.hooke.internal")]
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign
    assert made.not_valid_before_utc.timestamp() == NOW - LATE_S
    assert made.not_valid_after_utc.timestamp() == NOW + 3600.0


def test_nothing_outlives_the_authority() -> None:
    made = certificate(LAB.grant(request(new_key()), "gpu-1", now=NOW, valid_s=1e9))
    assert made.not_valid_after_utc.timestamp() == LAB.until


def test_the_authority_is_good_for_names_of_its_fleet_alone() -> None:
    """Even if its key is stolen, and somebody trusts it for everything."""
    root, key = certificate(LAB.pem), serialization.load_pem_private_key(LAB.key_pem, None)
    good = certificate(LAB.certify_admission(new_key().public_key(), now=NOW, valid_s=60.0))
    for name, valid in (("admission.lab.hooke.internal", True), ("bank.example", False)):
        forged = x509.CertificateBuilder(
            issuer_name=root.subject,
            subject_name=x509.Name([]),
            public_key=good.public_key(),
            serial_number=7,
            not_valid_before=good.not_valid_before_utc,
            not_valid_after=good.not_valid_after_utc,
            extensions=[
                x509.Extension(
                    x509.SubjectAlternativeName.oid, True, x509.SubjectAlternativeName([x509.DNSName(name)])
                ),
                *(each for each in good.extensions if each.oid != x509.SubjectAlternativeName.oid),
            ],
        ).sign(key, hashes.SHA256())
        verifier = (
            PolicyBuilder()
            .store(Store([root]))
            .time(good.not_valid_before_utc)
            .build_server_verifier(x509.DNSName(name))
        )
        if valid:
            verifier.verify(forged, [])
        else:
            with pytest.raises(VerificationError):
                verifier.verify(forged, [])


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"no PEM",
        LAB.pem,
        request(new_key())[:200],
        requested(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        requested(ec.generate_private_key(ec.SECP384R1())),
    ],
)
def test_what_is_no_request_is_refused(asked) -> None:
    with pytest.raises(BadRequest):
        LAB.grant(asked, "gpu-1", now=NOW, valid_s=60.0)


WHOLE = x509.load_pem_x509_csr(request(new_key())).public_bytes(serialization.Encoding.DER)


@given(at=st.integers(0, len(WHOLE) - 1), flipped=st.integers(1, 255))
def test_a_request_that_was_changed_on_the_way_brings_no_other_key(at: int, flipped: int) -> None:
    changed = WHOLE[:at] + bytes([WHOLE[at] ^ flipped]) + WHOLE[at + 1 :]
    pem = ssl.DER_cert_to_PEM_cert(changed).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    try:
        granted = LAB.grant(pem.encode(), "gpu-1", now=NOW, valid_s=60.0)
    except BadRequest:
        return
    # How many bits of the signature's last byte count, for one, is not signed.
    assert certificate(granted).public_key() == x509.load_der_x509_csr(WHOLE).public_key()


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a/b", "../a", "a" * 41, "a\n", "ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a valid machine name"):
        LAB.certify(name, new_key().public_key(), now=NOW, valid_s=60.0)
    with pytest.raises(UsageError, match="is not a valid fleet name"):
        Authority.make(name, now=NOW, valid_s=60.0)
    with pytest.raises(UsageError, match="is not a valid fleet name"):
        Keys.of(Path(), name)


def test_keys_are_for_their_owner_alone_whole_and_never_written_over(tmp_path: Path) -> None:
    keys = certified(LAB, tmp_path, "gpu-1", own=True)
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.folder.iterdir()} == {0o600}
    before = keys.machine.read_bytes()
    with pytest.raises(UsageError, match="already has keys for the fleet lab"):
        certified(LAB, tmp_path, "gpu-2")
    assert keys.machine.read_bytes() == before
    assert [path.name for path in keys.folder.parent.iterdir()] == ["keys"]
    assert Authority.read("lab", keys.folder).fingerprint == LAB.fingerprint


def test_an_authority_whose_key_others_can_read_signs_nothing(tmp_path: Path) -> None:
    keys = certified(LAB, tmp_path, "gpu-1", own=True)
    (keys.folder / CA_KEY).chmod(0o640)
    with pytest.raises(UsageError, match="other users can access"):
        Authority.read("lab", keys.folder)
    (keys.folder / CA_KEY).chmod(0o600)
    (keys.folder / CA_KEY).write_bytes(Authority.make("lab", now=NOW, valid_s=60.0).key_pem)
    with pytest.raises(UsageError, match="files are damaged"):
        Authority.read("lab", keys.folder)


def test_a_certificate_that_has_ended_is_said_with_the_mend(tmp_path: Path) -> None:
    keys = Keys.of(tmp_path, "lab")
    with pytest.raises(UsageError, match="hooke fleet ca lab"):
        keys.facts()
    facts = CertificateFacts(fleet="lab", machine="gpu-1", until=time.time(), valid_s=60.0, at="head:8788")
    keys.create(ca=b"", machine=b"", facts=facts)
    with pytest.raises(
        UsageError, match=r"(?s)expired at.*hooke fleet token lab; here: hooke fleet join head:8788"
    ):
        keys.good(time.time())
