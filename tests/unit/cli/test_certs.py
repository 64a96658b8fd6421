from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from fedpredict.cli.certs import app
from fedpredict.errors import CertificateError, NameRefusedError
from fedpredict.security.tls import TlsFiles, read_tls


def certs(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def usage_error(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    return result.output


def flat(text: str) -> str:
    return "".join(text.split())


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certs("ca", tmp_path / "ca")
    return tmp_path / "ca"


def test_a_party_gets_its_certificate_by_a_request(ca: Path, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    made = json.loads(certs("request", "--party", "lab", "--out", lab, "--json"))
    assert made["request"] == str(lab / "lab.csr")
    signed = json.loads(
        certs("sign", lab / "lab.csr", "--ca", ca, "--key-fingerprint", made["key_fingerprint"], "--json")
    )
    assert signed["identity"] == "fedpredict://party/lab"
    assert signed["path"] == str(lab / "lab.pem")
    assert read_tls(TlsFiles(ca / "ca.pem", lab / "lab.pem", lab / "lab.key")).identity.name == "lab"


@pytest.mark.parametrize(("kind", "name"), [("--party", "hospital"), ("--client", "risk-desk")])
def test_a_trial_s_certificate_is_issued_in_one_step(ca: Path, tmp_path: Path, kind: str, name: str) -> None:
    files = json.loads(certs("issue", "--ca", ca, kind, name, "--out", tmp_path / "out", "--json"))
    assert set(files) == {"ca", "certificate", "key"}
    material = read_tls(TlsFiles(Path(files["ca"]), Path(files["certificate"]), Path(files["key"])))
    assert f"--{material.identity.kind}" == kind
    assert material.identity.name == name


def test_every_step_says_what_it_wrote_and_what_comes_next(ca: Path, tmp_path: Path) -> None:
    text = certs("ca", tmp_path / "second", "--name", "second")
    assert str(tmp_path / "second" / "ca.key") in text
    assert "offline" in text
    text = certs("request", "--party", "lab", "--out", tmp_path / "lab")
    assert "Send" in text
    assert "lab.csr" in text
    text = certs("sign", tmp_path / "lab" / "lab.csr", "--ca", ca)
    assert "ask party lab for the fingerprint" in text
    text = certs("issue", "--ca", ca, "--party", "hospital", "--out", tmp_path / "hospital")
    assert "[tls]" in text


def test_certificates_are_shown_as_a_table_or_json(ca: Path) -> None:
    certs("issue", "--ca", ca, "--party", "lab", "--out", ca.parent)
    text = flat(certs("show", ca / "ca.pem", ca.parent / "lab.pem"))
    assert "fedpredict://party/lab" in text
    assert "lab.party.fedpredict" in text
    shown = json.loads(certs("show", ca / "ca.pem", ca.parent / "lab.pem", "--json"))
    assert [each["identity"] for each in shown] == ["CA", "fedpredict://party/lab"]
    assert shown[1]["days_left"] == 824
    assert len(shown[1]["fingerprint"]) == 64


def test_no_key_is_ever_printed(ca: Path, tmp_path: Path) -> None:
    for flags in ([], ["--json"]):
        text = certs("issue", "--ca", ca, "--party", "lab", "--out", tmp_path / "lab", "--force", *flags)
        text += certs("request", "--party", "lab", "--out", tmp_path / "lab", "--force", *flags)
        assert "PRIVATE" not in text


def test_what_is_there_is_kept_unless_forced(ca: Path) -> None:
    before = (ca / "ca.key").read_bytes()
    with pytest.raises(CertificateError, match=r"ca\.key: exists already.*--force"):
        certs("ca", ca)
    assert (ca / "ca.key").read_bytes() == before
    certs("ca", ca, "--force")
    assert (ca / "ca.key").read_bytes() != before


def test_exactly_one_identity_is_asked_for(ca: Path, tmp_path: Path) -> None:
    assert "either --party" in usage_error("issue", "--ca", ca, "--out", tmp_path)
    both = ("--party", "a", "--client", "b")
    assert "either --party" in usage_error("request", *both, "--out", tmp_path)
    with pytest.raises(NameRefusedError, match="'Lab' is not a party id"):
        certs("request", "--party", "Lab", "--out", tmp_path)


def test_days_set_the_lifetime(ca: Path, tmp_path: Path) -> None:
    certs("issue", "--ca", ca, "--party", "lab", "--out", tmp_path / "lab", "--days", 7)
    (shown,) = json.loads(certs("show", tmp_path / "lab" / "lab.pem", "--json"))
    assert shown["days_left"] == 6


def test_the_keeper_of_the_ca_revokes_and_everybody_can_see_it(ca: Path, tmp_path: Path) -> None:
    for party in ("lab", "shop"):
        certs("issue", "--ca", ca, "--party", party, "--out", tmp_path)
    made = json.loads(certs("revoke", tmp_path / "lab.pem", "--ca", ca, "--days", "30", "--json"))
    assert made["path"] == str(ca / "ca.crl")
    copy = tmp_path / "copy.crl"
    again = json.loads(certs("revoke", "--ca", ca, "--serial", "0A:BC", "--out", copy, "--json"))
    assert copy.read_bytes() == (ca / "ca.crl").read_bytes()
    assert (made["number"], again["number"]) == (1, 2)
    assert again["revoked"] == [*made["revoked"], "ABC"]
    shown = certs("show", ca / "ca.crl", tmp_path / "lab.pem", tmp_path / "shop.pem", "--json")
    lab, shop, listed = json.loads(shown)
    of_lab = x509.load_pem_x509_certificate((tmp_path / "lab.pem").read_bytes())
    assert int(listed["revoked"][0], 16) == of_lab.serial_number
    assert (lab["identity"], shop["identity"]) == ("fedpredict://party/lab", "fedpredict://party/shop")
    text = certs("revoke", "--ca", ca)
    assert "for `crl` in [tls]" in text
    assert "nobody of this CA is believed" in text
    assert "fedpredict federation CA" in certs("show", ca / "ca.crl")


@pytest.mark.parametrize("serial", ["who?", "-5", "0", "f" * 50, "80" + 38 * "0", "1_0"])
def test_what_is_no_serial_number_is_refused(ca: Path, serial: str) -> None:
    told = " ".join(usage_error("revoke", "--ca", ca, f"--serial={serial}").replace("│", " ").split())
    assert "is no serial number in hex" in told
