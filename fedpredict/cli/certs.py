"""`fedpredict certs`: a small CA, requests, certificates, and what they say."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedpredict.cli.output import JsonFlag, Output
from fedpredict.security import certs, crls
from fedpredict.security.files import PUBLIC, write_file
from fedpredict.security.identity import Identity, IdentityKind

_END_OF_SERIALS = 1 << 159
"""Serial numbers of X.509 are of 20 bytes at most, and above 0 (RFC 5280, 4.1.2.2)."""

app = typer.Typer(help="Make and read certificates: who a party is to the others.", no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--out", help="Directory for the files; made where it is missing.")]
CaDirectory = Annotated[Path, typer.Option("--ca", help="Directory of the CA: ca.pem and ca.key.")]
Party = Annotated[str | None, typer.Option("--party", help="The party's id.")]
Client = Annotated[str | None, typer.Option("--client", help="A client of an initiator: its name.")]
Days = Annotated[int, typer.Option("--days", help="How long it is valid.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there, keys too.")]


@app.command("ca")
def create_ca(
    directory: Annotated[Path, typer.Argument(help="Directory for ca.pem and ca.key; made where it is missing.")],
    name: Annotated[str, typer.Option("--name", help="The CA's name.")] = "fedpredict federation CA",
    days: Days = certs.CA_DAYS,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a certificate authority: one per federation."""
    files = certs.create_ca(directory, name, days=days, force=force)
    output = Output(as_json=as_json)
    output.fields(asdict(files))
    output.say(f"Give {files.certificate} to every party. Keep {files.key} offline: who has it can be any party.")
    output.say(f"Next: fedpredict certs sign REQUEST --ca {directory}   (trials: fedpredict certs issue)")


@app.command("request")
def create_request(
    out: Directory,
    party: Party = None,
    client: Client = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a key, which stays here, and a request for the CA."""
    identity = _identity(party, client)
    files = certs.create_request(identity, out, force=force)
    output = Output(as_json=as_json)
    output.fields(asdict(files))
    output.say(f"Send {files.request} to the CA, and tell them the key's fingerprint another way. Keep {files.key}.")
    output.say(f"Next: put the certificate that comes back at {out / identity.name}.pem, and the CA's beside it.")


@app.command("sign")
def sign_request(
    request: Annotated[Path, typer.Argument(help="The request (.csr) of a party or client.")],
    *,
    ca: CaDirectory,
    out: Annotated[Path | None, typer.Option("--out", help="The certificate; default: beside the request.")] = None,
    key_fingerprint: Annotated[
        str | None, typer.Option("--key-fingerprint", help="As the party read it to you; refused when it differs.")
    ] = None,
    days: Days = certs.LEAF_DAYS,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign a request. Know that it came from that party: give the fingerprint that it tells you."""
    report = certs.sign_request(
        certs.ca_files(ca),
        request,
        out or request.with_suffix(".pem"),
        key_fingerprint=key_fingerprint,
        days=days,
        force=force,
    )
    output = Output(as_json=as_json)
    output.fields(_shown(report))
    if key_fingerprint is None:
        output.say(f"Before it goes out: ask {report.identity} for the fingerprint of its key, and compare.")
    output.say(f"Next: send {report.path} and {certs.ca_files(ca).certificate} back; neither is secret.")


@app.command("issue")
def issue(
    *,
    ca: CaDirectory,
    out: Directory,
    party: Party = None,
    client: Client = None,
    days: Days = certs.LEAF_DAYS,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Make key and certificate in one step, for trials: real parties make requests, so that keys never travel."""
    identity = _identity(party, client)
    files = certs.issue(certs.ca_files(ca), identity, out, days=days, force=force)
    output = Output(as_json=as_json)
    output.fields({"ca": files.ca, "certificate": files.certificate, "key": files.key})
    output.say(f"Next: name these three files in [tls] of the settings of {identity}.")


@app.command("revoke")
def revoke(
    files: Annotated[list[Path] | None, typer.Argument(help="Certificates that are good no more, in PEM.")] = None,
    *,
    ca: CaDirectory,
    serials: Annotated[
        list[str] | None, typer.Option("--serial", help="The serial number of one, in hex, where no file is at hand.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A copy of the list, which is kept as ca.crl beside the CA.")
    ] = None,
    days: Annotated[int, typer.Option("--days", help="In so many days there must be a newer list.")] = crls.CRL_DAYS,
    as_json: JsonFlag = False,
) -> None:
    """Add certificates to the CA's revocation list; without any, make the list anew before its time is over."""
    numbers = [_serial(each) for each in serials or ()]
    kept = crls.crl_file(ca)
    report = crls.revoke(certs.ca_files(ca), files or (), numbers, kept=kept, days=days)
    if out is not None:
        write_file(out, kept.read_bytes(), mode=PUBLIC, force=True)
    output = Output(as_json=as_json)
    output.fields(asdict(report))
    output.say(f"Next: give {report.path} to every party, for `crl` in [tls]; it counts a moment after it is there.")
    output.say(f"Make a new one before {report.next_update:%Y-%m-%d}: after that nobody of this CA is believed.")


@app.command("show")
def show(
    files: Annotated[list[Path], typer.Argument(help="Certificates and revocation lists in PEM.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what certificates say (who, signed by whom, until when), or what revocation lists do."""
    columns = ("path", "identity", "dns_names", "issuer", "not_before", "not_after", "days_left", "key_fingerprint")
    lists = [path for path in files if crls.is_crl(path)]
    reports = [_shown(certs.describe(path)) for path in files if path not in lists]
    listed = [asdict(report) for path in lists for report in crls.describe_crls(path)]
    output = Output(as_json=as_json)
    if as_json:
        output.rows((), reports + listed, empty="")
        return
    if reports or not lists:
        output.rows(columns, reports, empty="no certificate")
    if listed:
        output.rows(("path", "issuer", "number", "made", "next_update", "days_left", "revoked"), listed, empty="")


def _identity(party: str | None, client: str | None) -> Identity:
    if party is not None and client is None:
        return Identity(IdentityKind.PARTY, party)
    if client is not None and party is None:
        return Identity(IdentityKind.CLIENT, client)
    raise typer.BadParameter("give either --party ID or --client NAME")


def _serial(text: str) -> int:
    digits = text.replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{1,40}", digits) or not 0 < int(digits, 16) < _END_OF_SERIALS:
        raise typer.BadParameter(f"{text!r} is no serial number in hex (`fedpredict certs show` prints them)")
    return int(digits, 16)


def _shown(report: certs.CertificateReport) -> dict[str, object]:
    return {**asdict(report), "identity": report.identity.uri if report.identity else "CA"}
