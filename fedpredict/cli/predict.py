"""`fedpredict predict`: ask an initiator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from fedpredict.cli.connect import Connection, open_client
from fedpredict.cli.files import check_out, read_ids, write_table
from fedpredict.cli.names import nearest
from fedpredict.cli.options import (
    CaFile,
    CertFile,
    ClientConfig,
    Connect,
    IdentityName,
    Insecure,
    KeyFile,
    ModelOption,
    OutFile,
    ServerParty,
    Timeout,
    TlsDirectory,
)
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.client import Client, Mode, Predictions, SampleStatus
from fedpredict.errors import InputError, ModelNotFoundError
from fedpredict.model.prediction import Origin


def predict(
    sample_ids: Annotated[list[str] | None, typer.Argument(help="Sample ids.", show_default=False)] = None,
    *,
    model_id: ModelOption,
    file: Annotated[Path | None, typer.Option("--in", help="Sample ids in a CSV or Parquet file.")] = None,
    id_column: Annotated[str | None, typer.Option("--id-column", help="Their column in that file.")] = None,
    out: OutFile = None,
    server: Connect = None,
    server_party: ServerParty = None,
    tls_dir: TlsDirectory = None,
    ca: CaFile = None,
    cert: CertFile = None,
    key: KeyFile = None,
    insecure: Insecure = False,
    identity: IdentityName = None,
    config: ClientConfig = None,
    timeout_s: Timeout = None,
    mode: Annotated[Mode, typer.Option("--mode", help="How fresh the features are.")] = Mode.NEARLINE,
    as_json: JsonFlag = False,
) -> None:
    """Ask for predictions; every sample gets a number or a status, in the order given."""
    output = Output(as_json=as_json)
    check_out(out)
    ids = sample_ids_of(sample_ids, file, id_column)
    connection = Connection(server, server_party, tls_dir, ca, cert, key, insecure, identity, timeout_s)
    with open_client(config, connection) as (client, timeout):
        try:
            with output.progress(f"asking for {len(ids)} samples", total=len(ids)) as advance:
                predictions = client.predict(model_id, ids, timeout_s=timeout, mode=mode, on_progress=advance)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{error}; {_nearest_model(client, model_id)}") from error
    if predictions.simulated:
        output.note("SIMULATED: the server makes numbers up; they mean nothing")
    if out is not None:
        write_table(out, _file_rows(predictions, out))
    _print(output, predictions, out)


def list_models(
    *,
    server: Connect = None,
    server_party: ServerParty = None,
    tls_dir: TlsDirectory = None,
    ca: CaFile = None,
    cert: CertFile = None,
    key: KeyFile = None,
    insecure: Insecure = False,
    identity: IdentityName = None,
    config: ClientConfig = None,
    timeout_s: Timeout = None,
    as_json: JsonFlag = False,
) -> None:
    """List the models that an initiator answers for, and why one is not ready."""
    connection = Connection(server, server_party, tls_dir, ca, cert, key, insecure, identity, timeout_s)
    with open_client(config, connection) as (client, timeout):
        models = client.models(timeout_s=timeout)
    rows = [
        {
            "model_id": each.model_id,
            "ready": each.ready,
            "problem": each.problem,
            "kind": each.kind,
            "link": str(each.link) if each.link else None,
            "classes": each.classes,
            "parties": each.parties,
            "manifest": each.manifest_sha256 if as_json else each.manifest_sha256[:12],
            "n_outputs": each.n_outputs,
        }
        for each in models
    ]
    columns = ("model_id", "ready", "problem", "kind", "link", "classes", "parties", "manifest")
    Output(as_json=as_json).rows(columns, rows, empty="No models for this caller.")


def sample_ids_of(given: list[str] | None, file: Path | None, column: str | None) -> list[str | bytes]:
    """Return the ids of the command line, or of a file; raise `InputError` unless it is one of the two."""
    if bool(given) == (file is not None):
        raise InputError("name sample ids, or a file of them with --in: one of the two")
    if file is not None:
        return read_ids(file, column)
    return list(given or ())


def _nearest_model(client: Client, model_id: str) -> str:
    return nearest(model_id, [each.model_id for each in client.models()], "there is none for this caller")


def _print(output: Output, predictions: Predictions, out: Path | None) -> None:
    summary = f"{predictions.n_scored} of {len(predictions)} samples scored"
    if output.as_json:
        details: dict[str, object] = {
            "request_id": predictions.request_id,
            "manifest": predictions.manifest,
            "simulated": predictions.simulated,
            "classes": predictions.classes,
            "parties": [
                {
                    "party": each.party,
                    "oldest_event_time": each.oldest_event_time,
                    "round_trip_s": each.round_trip_s,
                    "elapsed_s": each.elapsed_s,
                    "problem": each.problem,
                }
                for each in predictions.parties
            ],
        }
        shown = {"out": out, "scored": predictions.n_scored} if out else {"samples": _json_rows(predictions)}
        output.fields({**details, **shown})
        return
    if out is None:
        stood_in = np.isin(predictions.origin, (Origin.DEFAULT_PARTIAL, Origin.FALLBACK_MODEL)).any()
        columns = ("sample_id", "status", *predictions.columns, *(("origin",) if stood_in else ()), "reasons")
        columns += ("reason_codes",) if any(predictions.reason_codes) else ()
        output.rows(columns, _text_rows(predictions), empty="")
    for party in predictions.parties:
        if party.problem:
            output.note(f"{party.party}: {party.problem}")
    output.say(f"{summary}{f', written to {out}' if out else ''} (request {predictions.request_id})")


def _json_rows(predictions: Predictions) -> list[dict[str, object]]:
    scored = predictions.status == SampleStatus.OK
    return [
        {
            "sample_id": _text(predictions.sample_ids[row]),
            "status": SampleStatus(int(predictions.status[row])),
            "origin": Origin(int(predictions.origin[row])),
            "prediction": predictions.values[row].tolist() if scored[row] else None,
            "reasons": [{"party": party, "status": status} for party, status in predictions.reasons[row]],
            "reason_codes": [{"party": party, "code": code} for party, code in predictions.reason_codes[row]],
        }
        for row in range(len(predictions))
    ]


def _text_rows(predictions: Predictions) -> list[dict[str, object]]:
    scored = predictions.status == SampleStatus.OK
    return [
        {
            "sample_id": _text(predictions.sample_ids[row]),
            "status": SampleStatus(int(predictions.status[row])),
            **dict(zip(predictions.columns, predictions.values[row].tolist() if scored[row] else (), strict=False)),
            "origin": Origin(int(predictions.origin[row])) if scored[row] else None,
            "reasons": [f"{party}: {status.name.lower()}" for party, status in predictions.reasons[row]],
            "reason_codes": [f"{party}: {code}" for party, code in predictions.reason_codes[row]],
        }
        for row in range(len(predictions))
    ]


def _file_rows(predictions: Predictions, out: Path) -> pa.Table:
    """Return the table to write; in a CSV file, which holds text only, ids that are not UTF-8 stand escaped."""
    table = predictions.to_arrow()
    if out.suffix.lower() == ".csv" and pa.types.is_binary(table.schema.field("sample_id").type):
        table = table.set_column(
            0, "sample_id", pa.array([_text(each) for each in predictions.sample_ids], pa.string())
        )
    return table


def _text(sample_id: str | bytes) -> str:
    text = sample_id if isinstance(sample_id, str) else sample_id.decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace").decode()
