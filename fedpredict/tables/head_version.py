"""A published head: its row in `fp_heads`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from fedpredict.errors import FedPredictError, TableCorruptError
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.ids import check_digest, check_model_id
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.tables.schemas import HEADS
from fedpredict.tables.version import SALT_BYTES
from fedpredict.warehouse.base import Partition

HEAD_COLUMNS = [column.name for column in (*HEADS.columns, *HEADS.partitioned_by)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadVersion:
    """A published head: everything but the numbers.

    Attributes:
        model_id: The model.
        head_sha256: The digest of the parameters, in hex.
        party: Who holds it.
        training_run: The run that made it and all parts.
        kind: What raw scores mean.
        link: What relates raw scores and predictions.
        classes: Class labels; empty for a regression.
        combination: What it has in common with the parts.
        n_scores: The width of a party's share.
        options: What else is needed to read its rows; JSON values by name.
        salt: What keeps the digest from telling the parameters.
        metadata: From the file, for people.
        created_at: When it was published, UTC.
        source_sha256: The digest of the file.
    """

    model_id: str
    head_sha256: str
    party: str
    training_run: str
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    combination: Combination
    n_scores: int
    options: Mapping[str, object]
    salt: bytes = field(repr=False)
    metadata: Mapping[str, str]
    created_at: datetime
    source_sha256: str

    def __post_init__(self) -> None:
        check_model_id(self.model_id)
        check_digest(self.head_sha256)
        if len(self.salt) != SALT_BYTES:
            raise ValueError(f"a salt of {len(self.salt)} bytes")

    @property
    def partition(self) -> Partition:
        """Where the tables of heads hold it."""
        return {"model_id": self.model_id, "head_sha256": self.head_sha256}


def head_to_row(version: HeadVersion) -> pa.Table:
    """Return the one row of `fp_heads` for a head, without its partition columns."""
    row = {
        "party": version.party,
        "training_run": version.training_run,
        "kind": version.kind.value,
        "link": version.link.name,
        "link_parameter": version.link.parameter,
        "classes": json.dumps(version.classes),
        "combining": version.combination.combining.value,
        "structure_sha256": version.combination.structure_sha256,
        "n_outputs": version.combination.n_outputs,
        "n_scores": version.n_scores,
        "options": json.dumps({"metadata": dict(version.metadata), **version.options}),
        "salt": version.salt.hex(),
        "created_at": version.created_at.astimezone(UTC),
        "source_sha256": version.source_sha256,
    }
    return pa.Table.from_pylist([row], schema=HEADS.arrow_schema)


def head_from_row(row: Mapping[str, Any]) -> HeadVersion:
    """Return the head of a row of `fp_heads` (`HEAD_COLUMNS`).

    Raises:
        TableCorruptError: No head gives such a row.
    """

    def text(name: str) -> str:
        value = row[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        return value

    try:
        options = json.loads(text("options"))
        return HeadVersion(
            model_id=text("model_id"),
            head_sha256=text("head_sha256"),
            party=text("party"),
            training_run=text("training_run"),
            kind=Kind(text("kind")),
            link=Link(text("link"), row["link_parameter"]),
            classes=tuple(json.loads(text("classes"))),
            combination=Combination(Combining(text("combining")), text("structure_sha256"), row["n_outputs"]),
            n_scores=row["n_scores"],
            options={name: value for name, value in options.items() if name != "metadata"},
            salt=bytes.fromhex(text("salt")),
            metadata=dict(options["metadata"]),
            created_at=row["created_at"].astimezone(UTC),
            source_sha256=text("source_sha256"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, FedPredictError) as error:
        raise TableCorruptError(
            f"{HEADS.name} has a damaged row for a head of {row['model_id']} ({error}); convert the head again"
        ) from error
