"""Targets: settings, files of who is believed, views and their scripts, audit logs, and what comes over HTTP."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedpredict.cli.config_file import load_settings
from fedpredict.errors import ConfigError
from fedpredict.features.event_intake import json_lines, sent_table, table_rows, take_events
from fedpredict.http.application import ProblemError
from fedpredict.initiator import open_inference as oip
from fedpredict.initiator.http import infer
from fedpredict.initiator.http.decode import Terms, parse_task
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.model.share import Mode
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security import certs, crls
from fedpredict.security.audit_chain import parse_checkpoint
from fedpredict.security.audit_keys import PUBLIC_KEY, open_keys, read_public_key
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.audit_log import AuditLog
from fedpredict.security.audit_settings import AuditSettings
from fedpredict.security.audit_verify import verify_chain
from fedpredict.security.certificate import key_fingerprint, parse_certificates
from fedpredict.security.hello import HELLO
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.live import LiveTls
from fedpredict.security.revocation import Lists, parse_crls, parse_denied
from fedpredict.security.tokens import TokenFile, Tokens
from fedpredict.tables.script import compile_script, lint_script
from fedpredict.tables.script_view import ScriptView
from tests.fuzz.engine import Target
from tests.unit.features.test_events import DEFINITION, FEED, GOOD, SCRIPT, Memory

ROOT = Path(__file__).parents[2]


def settings() -> Target:
    """The settings of both daemons, as TOML."""
    path = Path(tempfile.mkdtemp()) / "settings.toml"
    seeds = [file.read_bytes() for file in sorted((ROOT / "deploy").rglob("*.toml"))]
    seeds += [
        b'party = "bank"\nlisten = "127.0.0.1:0"\ninsecure = true\n[models.m]\nparties = ["lab"]\n'
        b'[parties.lab]\naddress = "127.0.0.1:1"\n[clients.desk]\nmodels = ["*"]\n[limits]\n',
        b'party = "lab"\ninsecure = true\n[callers.bank]\nmodels = ["m"]\n[warehouse]\npath = "w"\n[freshness]\n'
        b'v = "1 h"\n[store]\nkind = "memory"\n[events]\nsenders = ["fedpredict://client/a"]\n',
    ]
    keys = [*ParticipantSettings.model_fields, *InitiatorSettings.model_fields]
    words = [each.encode() for each in (*keys, "[", "]", "=", '"', "1 h", "0", "-1", "inf", "2026-01-01", "{", "}")]

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(ConfigError):
            load_settings(path, ParticipantSettings, prefix="P_", environment={})
        load_settings(path, InitiatorSettings, prefix="I_", environment={"I_LIMITS": data[:50].decode("latin-1")})

    return Target(seeds, run, words)


def trust() -> Target:
    """Who is believed: tokens, revocation lists, denied keys, what a peer shows; the first byte says which."""
    folder = Path(tempfile.mkdtemp())
    path, made = folder / "tokens.json", folder / "made.json"
    token = TokenFile(made).create("desk", models=("*",), modes=tuple(Mode), lasts=timedelta(days=9), by="ada")
    TokenFile(made).revoke(TokenFile(made).create("desk", models=("m",), modes=tuple(Mode), lasts=timedelta(days=9),
                                                  by="ada").kept.id, by="ada")  # fmt: skip
    ca = certs.create_ca(folder / "ca", "a CA")
    lab = certs.issue(ca, Identity(IdentityKind.PARTY, "lab"), folder / "lab").certificate
    (authority,), (leaf,) = (parse_certificates(each.read_bytes(), "ca") for each in (ca.certificate, lab))
    crls.revoke(ca, [], kept=folder / "ca.crl")
    empty = (folder / "ca.crl").read_bytes()
    crls.revoke(ca, [lab], [1], kept=folder / "ca.crl")
    whole = (folder / "ca.crl").read_bytes()
    der = x509.load_pem_x509_crl(whole).public_bytes(serialization.Encoding.DER)
    denied = key_fingerprint(leaf).encode()
    seeds = [b"0" + made.read_bytes(), b"0{}", b"0" + made.read_bytes().replace(b"Z", b"+05:00")]
    seeds += [b"1" + each for each in (empty, whole, der, whole + empty, whole.replace(b"X509 CRL", b"CERTIFICATE"))]
    live = LiveTls(certs.leaf_files(folder / "lab", "lab"))
    chain, proof = live.prove(HELLO, "lab", nonce=bytes(32))
    seeds += [b"3" + each for each in (chain, ca.certificate.read_bytes(), chain + ca.certificate.read_bytes())]
    seeds += [b"2" + each for each in (denied, b"# stolen\n" + denied + b" # since today\n", denied.upper(), b"\n\n")]

    def run(data: bytes) -> None:
        kind, content = data[:1], data[1:]
        now = datetime.now(UTC)
        if kind == b"0":
            path.write_bytes(content)
            path.chmod(0o600)
            for each in TokenFile(path).all():
                each.state(now)
            Tokens(path).check(Tokens(path).holder(f"Bearer {token.text}").token)
        elif kind == b"1":
            found = parse_crls(content, "ca.crl", [authority], now)
            # what the CA did not sign is no list, whatever became of the rest
            assert {each.revoked for each in found} <= {frozenset(), frozenset({1, leaf.serial_number})}
            Lists(found).problem_of(leaf, now)
        elif kind == b"2":
            Lists(denied=parse_denied(content.decode("utf-8", "replace"), "denied.txt")).listed(leaf)
        else:
            live.check_proof("lab", HELLO, "lab", nonce=bytes(32), proof=(content, proof))

    words = [b'"tokens":[', b'"revoked_at":null', b"-----BEGIN X509 CRL-----\n", b"\x30\x82", b"[" * 500, denied[:63]]
    return Target(seeds, run, words)


def views() -> Target:
    """A view's definition and its script, with a line of dashes between, compiled for every engine."""
    path = Path(tempfile.mkdtemp()) / "view.toml"
    pairs = [
        (file.read_bytes(), file.with_suffix(".sql").read_bytes())
        for file in sorted((ROOT / "examples" / "views").glob("*.toml"))
        if file.with_suffix(".sql").exists()
    ]
    pairs.append((DEFINITION.encode(), SCRIPT.encode()))
    scripts = [b"SELECT t.who, %s AS n FROM t GROUP BY t.who" % each for each in _EXPRESSIONS]
    seeds = [b"\n----\n".join(each) for each in (*pairs, *((DEFINITION.encode(), script) for script in scripts))]
    words = [b"SELECT ", b" FROM ", b"WITH x AS (", b" JOIN ", b" OVER (PARTITION BY ", b"(" * 200, b"/*", b"--", b"';"]
    words += [b"CASE WHEN ", b"read_csv('/etc/passwd')", b"INTERVAL '1' DAY", b"\n----\n", b"CAST(", b"[sources.t]"]

    def run(data: bytes) -> None:
        definition, _, script = data.partition(b"\n----\n")
        path.write_bytes(definition)
        view = load_settings(path, ScriptView, prefix="V_", environment={}).settings
        text = script.decode("utf-8", "replace")
        lint_script(view, text)
        for engine in view.targets:
            compile_script(view, text, engine)

    return Target(seeds, run, words)


_EXPRESSIONS = (
    b"COUNT(*)",
    b"SUM(t.amount)",
    b"AVG(CASE WHEN t.flag THEN t.share ELSE 0 END)",
    b"MAX(t.at)",
    b"COUNT(DISTINCT t.day)",
    b"COALESCE(MIN(CAST(t.amount AS DOUBLE)), -1e308)",
)


def audit_logs() -> Target:
    """A worker's chain of an audit log, and a checkpoint as it is handed to others."""
    folder = Path(tempfile.mkdtemp())
    with AuditLog(AuditSettings(write_s=0.01), folder / "kept", "lab", 0, open_keys(folder / "kept")) as log:
        for number in range(4):
            log.add(AuditedCall("Score", "party bank", f"r-{number}", "m", rows=1, sample_ids=[b"u1"]))
    key = read_public_key(folder / "kept" / PUBLIC_KEY)
    [name, *_] = [path.name for path in sorted((folder / "kept" / "worker-0").iterdir()) if path.suffix == ".jsonl"]
    whole = (folder / "kept" / "worker-0" / name).read_bytes()
    lines = whole.splitlines(keepends=True)
    seeds = [whole, b"".join(lines[:2]), b"".join(reversed(lines)), lines[-1], whole.replace(b'"n":', b'"n":1e3,"x":')]
    damaged = folder / "damaged"
    damaged.mkdir()

    def run(data: bytes) -> None:
        (damaged / name).write_bytes(data)
        report = verify_chain(damaged, key)
        parse_checkpoint(data[:2000].decode("utf-8", "replace"))
        # whatever was not cut off between two lines, or added behind them, is told
        assert report.problems or report.notes or whole.startswith(data), "a changed log is taken for whole"

    return Target(seeds, run, [b'"n":', b'"h":"', b'{"kind":"checkpoint"', b'"chain":', b"\n", b"[" * 500])


def http_bodies() -> Target:
    """Bodies of the HTTP edges: predictions, the Open Inference Protocol, raw events; the first byte says which."""
    sink = io.BytesIO()
    event = {**GOOD, "at": datetime(2026, 1, 1, tzinfo=UTC), "amount": "1.50"}
    table = pa.table({name: [value] for name, value in event.items()})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    inference = {
        "id": "r",
        "parameters": {"mode": "nearline", "timeout_ms": 5},
        "inputs": [{"name": "sample_id", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
                   {"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [[1.0], [2.0]]}],
        "outputs": [{"name": "prediction", "parameters": {"binary_data": True}}],
    }  # fmt: skip
    predict = {"model": "m", "sample_ids": ["a", "b"], "mode": "nearline", "timeout_ms": 5, "request_id": "r",
               "inputs": {"x": [1, None], "c": ["red", None]}}  # fmt: skip
    seeds = [b"0" + json.dumps(predict).encode(), b"1" + json.dumps(inference).encode()]
    seeds += [b"2" + json.dumps(GOOD).encode() + b"\n" + json.dumps({**GOOD, "amount": None}).encode()]
    seeds += [b"3" + sink.getvalue()]
    terms = Terms(None, None, None, True, None, "")

    def run(data: bytes) -> None:
        kind, body = data[:1], data[1:]
        try:
            if kind == b"0":
                parse_task(body, terms, "r", 1000)
            elif kind == b"1":
                _infer(body)
            elif kind == b"2":
                take_events(Memory(), FEED, json_lines(body))
            else:
                take_events(Memory(), FEED, table_rows(sent_table(body, FEED), FEED))
        except ProblemError:
            return  # what is HTTP's own

    words = [b'"inputs":', b'"shape":[', b'"datatype":"INT64"', b'"parameters":{"binary_data_size":', b"[" * 600]
    return Target(seeds, run, [*words, b"1e400", b'"1e99999999999999999999"', b"\\ud800", b'{"a":' * 300])


@dataclass
class _Body:
    body: bytes
    peer_uris: tuple[str, ...] | None = None

    def header(self, name: bytes) -> str | None:
        return str(len(self.body) * 9 // 10) if name == infer.LENGTH_HEADER and self.body[-1:] == b"\0" else None


def _infer(body: bytes) -> None:
    parts = infer._split(_Body(body))
    parameters = parts.body.parameters or {}
    oip.parse_options(parameters)
    infer._wanted(parts.body, parameters)
    oip.features_of(infer._tensors(parts))
