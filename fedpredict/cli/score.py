"""`fedpredict score`: a party's partial scores of its newest snapshot, in process or in the warehouse's engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from fedpredict.cli import wiring
from fedpredict.cli.files import check_out, read_ids, write_table
from fedpredict.cli.names import find_model
from fedpredict.cli.options import ModelOption, OutFile, PartyConfig
from fedpredict.cli.output import JsonFlag, Output
from fedpredict.client.ids import encode_ids
from fedpredict.errors import InputError, ModelNotReadyError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.manifest import PartDescription
from fedpredict.model.part import Part
from fedpredict.model.scorecard import MAX_REASONS, ScorecardPart
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.local_party import LocalParty
from fedpredict.scoring.state import LoadedModel, PartyState
from fedpredict.tables.models import ModelVersion, current_versions, load_model
from fedpredict.tables.names import column_names
from fedpredict.tables.statements import score_in_engine
from fedpredict.tables.views import Snapshot, latest_snapshot, read_snapshot_rows
from fedpredict.warehouse.base import Warehouse

DEADLINE_S = 3600.0
_UNUSED = "0" * 64


class Engine(StrEnum):
    """Who computes."""

    NUMPY = "numpy"
    WAREHOUSE = "warehouse"


def score(
    sample_ids: Annotated[
        list[str] | None, typer.Argument(help="Sample ids; default: all of the snapshot.", show_default=False)
    ] = None,
    *,
    model_id: ModelOption,
    engine: Annotated[
        Engine, typer.Option("--engine", help="numpy: in this process. warehouse: SQL in the warehouse's engine.")
    ] = Engine.NUMPY,
    file: Annotated[Path | None, typer.Option("--in", help="Sample ids in a CSV or Parquet file.")] = None,
    id_column: Annotated[str | None, typer.Option("--id-column", help="Their column in that file.")] = None,
    reasons: Annotated[
        int, typer.Option("--reasons", min=0, max=MAX_REASONS, help="Largest losses of points to list, of a scorecard.")
    ] = 0,
    out: OutFile = None,
    config: PartyConfig = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute this party's partial scores of its newest snapshot: before the link, and for its own eyes."""
    output = Output(as_json=as_json)
    check_out(out)
    if reasons and engine is not Engine.NUMPY:
        raise InputError("--reasons are listed by --engine numpy only")
    asked = encode_ids(read_ids(file, id_column) if file is not None else list(sample_ids or ()))
    with wiring.opened_warehouse(config) as party:
        version = find_model(current_versions(party.warehouse), model_id)
        snapshot = latest_snapshot(party.warehouse, version.view, version.view_version)
        if snapshot is None:
            raise ModelNotReadyError(
                f"view {version.view} version {version.view_version} has no snapshot; see `fedpredict features load`"
            )
        with output.progress(f"scoring {snapshot.n_rows} rows with {engine}"):
            table = _SCORERS[engine](party.warehouse, version, snapshot, asked, reasons)
    if out is not None:
        write_table(out, table)
        output.result(
            {"out": out, "rows": table.num_rows, "snapshot": snapshot.snapshot, "version": version.version},
            f"{table.num_rows} partial scores of snapshot {snapshot.snapshot}, version {version.version}, are in {out}",
        )
        return
    output.rows(table.column_names, table.to_pylist(), empty="The snapshot has no rows.")


def _score_numpy(
    warehouse: Warehouse, version: ModelVersion, snapshot: Snapshot, asked: Sequence[bytes], n_reasons: int
) -> pa.Table:
    """Score as the daemon does: parameters verified, features from an online store."""
    columns = column_names(version.features)
    rows = read_snapshot_rows(warehouse, snapshot, ["sample_id", "event_time", *columns.values()])
    store = MemoryStore()
    store.publish(snapshot, rows)
    model = _loaded(version, load_model(warehouse, version).part, tuple(columns[name] for name in version.features))
    state = PartyState(current={version.model_id: model}, loaded={(version.model_id, version.params_sha256): model})
    ids = list(asked) or [each.encode() for each in sorted(set(rows.column("sample_id").to_pylist()))]
    query = ScoreQuery(
        request_id="score",
        model_id=version.model_id,
        manifest_sha256=_UNUSED,
        params_sha256=version.params_sha256,
        mode=Mode.NEARLINE,
        sample_ids=ids,
    )
    party = LocalParty(version.party, lambda: state, store)
    share = asyncio.run(party.score(query, deadline_s=DEADLINE_S)).share
    statuses = [SampleStatus(int(code)) for code in share.status]
    missing = share.status != SampleStatus.OK
    scores = [pa.array(column.copy(), mask=missing) for column in share.values.T]
    table = _table(ids, statuses, scores)
    if not n_reasons:
        return table
    values = store.lookup(model.view, model.view_version, model.columns, ids).values
    return _with_reasons(table, model.part, values, missing, n_reasons)


def _with_reasons(table: pa.Table, part: Part, features: Floats, missing: Bools, count: int) -> pa.Table:
    """Return a table with the largest losses of points behind it: reason_1, loss_1, reason_2 ..."""
    if not isinstance(part, ScorecardPart):
        raise InputError(f"--reasons are of scorecards; this model's part is of family {part.family}")
    positions, losses = part.losses(features, count)
    positions[missing] = -1
    for at in range(count):
        codes = [None if each < 0 else part.reason_of(each) for each in positions[:, at].tolist()]
        table = table.append_column(f"reason_{at + 1}", pa.array(codes, pa.string()))
        table = table.append_column(f"loss_{at + 1}", pa.array(losses[:, at].copy(), mask=positions[:, at] < 0))
    return table


def _score_warehouse(
    warehouse: Warehouse, version: ModelVersion, snapshot: Snapshot, asked: Sequence[bytes], _n_reasons: int
) -> pa.Table:
    """Score in the engine; here rows are only picked by id and named."""
    scored = score_in_engine(warehouse, version, snapshot)
    statuses = [SampleStatus(code) for code in scored.column("status").to_pylist()]
    ids = [each.encode() for each in scored.column("sample_id").to_pylist()]
    lists = scored.column("scores").combine_chunks()
    scores = [pc.list_element(lists, output) for output in range(version.n_scores)]
    if not asked:
        return _table(ids, statuses, scores)
    position = {sample_id: row for row, sample_id in enumerate(ids)}
    rows = [position.get(sample_id) for sample_id in asked]
    valid = valid_sample_ids(asked)
    absent = [SampleStatus.NOT_FOUND if each else SampleStatus.ID_INVALID for each in valid]
    found = [absent[i] if row is None else statuses[row] for i, row in enumerate(rows)]
    return _table(asked, found, [each.take(pa.array(rows, pa.int64())) for each in scores])


_SCORERS = {Engine.NUMPY: _score_numpy, Engine.WAREHOUSE: _score_warehouse}


def _table(ids: Sequence[bytes], statuses: Sequence[SampleStatus], scores: Sequence[pa.Array]) -> pa.Table:
    names = ["score"] if len(scores) == 1 else [f"score_{output}" for output in range(len(scores))]
    return pa.table(
        {
            "sample_id": [each.decode("utf-8", "backslashreplace") for each in ids],
            "status": [status.name.lower() for status in statuses],
            **dict(zip(names, scores, strict=True)),
        }
    )


def _loaded(version: ModelVersion, part: Part, columns: tuple[str, ...]) -> LoadedModel:
    description = PartDescription(
        party=version.party,
        model_id=version.model_id,
        params_sha256=version.params_sha256,
        training_run=version.training_run,
        kind=version.kind,
        link=version.link,
        classes=version.classes,
        n_scores=version.n_scores,
        holds_intercept=version.holds_intercept,
        fit_intercept=version.fit_intercept,
    )
    return LoadedModel(
        description=description, part=part, view=version.view, view_version=version.view_version, columns=columns
    )
