"""A version of a model: its row in `fp_models`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from fedpredict.errors import FedPredictError, TableCorruptError
from fedpredict.model.ids import check_digest, check_model_id, check_party_id, check_view_name
from fedpredict.model.kinds import Kind, check_link, check_widths
from fedpredict.model.links import Link
from fedpredict.model.part import Family
from fedpredict.tables.layouts import ENGINES, LAYOUTS
from fedpredict.tables.names import column_names
from fedpredict.tables.schemas import MODELS
from fedpredict.warehouse.base import Partition

SALT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One published version of this party's part of a model: everything but the numbers.

    Attributes:
        model_id: The model.
        version: From 1; the highest is the current one.
        params_sha256: The digest of the parameters; two versions may have the same (a rollback).
        kind: What raw scores mean.
        link: What relates raw scores and predictions.
        n_scores: The width of a share.
        n_outputs: The width of a prediction.
        classes: Class labels, in the order of the scores; empty for a regression.
        view: The feature view of the features.
        view_version: And its version.
        training_run: The run that made all parts.
        party: This party.
        fit_intercept: Whether the joint model has an intercept.
        holds_intercept: Whether it is in this part.
        features: Original names of the features used, in the order of the model file.
        salt: What keeps the digest from telling the parameters.
        metadata: From the model file, for people.
        certificate: What was checked at conversion, for people; JSON values.
        created_at: When this version was published, UTC.
        source_sha256: The digest of the model file.
        family: How the part computes.
        categories: For each text feature, the texts that the part knows, in the order of their codes.
        options: What else its layout needs to read its rows; JSON values.
        engines: Those of `ENGINES` that can compute the part.
    """

    model_id: str
    version: int
    params_sha256: str
    kind: Kind
    link: Link
    n_scores: int
    n_outputs: int
    classes: tuple[str, ...]
    view: str
    view_version: int
    training_run: str
    party: str
    fit_intercept: bool
    holds_intercept: bool
    features: tuple[str, ...]
    salt: bytes = field(repr=False)
    metadata: Mapping[str, str]
    certificate: Mapping[str, object]
    created_at: datetime
    source_sha256: str
    family: Family = Family.LINEAR
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    engines: tuple[str, ...] = ENGINES

    def __post_init__(self) -> None:
        check_model_id(self.model_id)
        check_digest(self.params_sha256)
        check_view_name(self.view)
        check_party_id(self.party)
        check_link(self.kind, self.link)
        check_widths(self.kind, self.n_raw, self.classes, self.link)
        column_names(self.features)
        if len(self.salt) != SALT_BYTES:
            raise ValueError(f"a salt of {len(self.salt)} bytes")

    @property
    def n_raw(self) -> int:
        """The number of raw scores per sample of the model."""
        options = self.options.get("core_options") if self.family is Family.STEPS else self.options
        unsaid = None if self.family is Family.SPLIT_TREES else self.n_scores
        n_raw = options.get("n_outputs", unsaid) if isinstance(options, Mapping) else unsaid
        return n_raw if isinstance(n_raw, int) else 0

    @property
    def parameter_tables(self) -> tuple[str, ...]:
        """The tables that hold the parameters."""
        return tuple(schema.name for schema in LAYOUTS[self.family].schemas(self.view, ()))

    @property
    def partition(self) -> Partition:
        """Where those tables hold them."""
        return {"model_id": self.model_id, "params_sha256": self.params_sha256}


VERSION_COLUMNS = [column.name for column in (*MODELS.columns, *MODELS.partitioned_by)]


def version_to_rows(version: ModelVersion) -> pa.Table:
    """Return the one row of `fp_models` for a version, without its partition columns."""
    row = {
        "params_sha256": version.params_sha256,
        "kind": version.kind.value,
        "link": version.link.name,
        "link_parameter": version.link.parameter,
        "n_scores": version.n_scores,
        "n_outputs": version.n_outputs,
        "classes": json.dumps(version.classes),
        "base_score": json.dumps([]),
        "view": version.view,
        "view_version": version.view_version,
        "training_run": version.training_run,
        "party": version.party,
        "fit_intercept": version.fit_intercept,
        "holds_intercept": version.holds_intercept,
        "options": json.dumps(_options(version)),
        "salt": version.salt.hex(),
        "certificate": json.dumps(dict(version.certificate)),
        "created_at": version.created_at.astimezone(UTC),
        "source_sha256": version.source_sha256,
    }
    return pa.Table.from_pylist([row], schema=MODELS.arrow_schema)


def _options(version: ModelVersion) -> dict[str, object]:
    """Return the options; those of a linear part are what they were before there were other families."""
    options: dict[str, object] = {"features": version.features, "metadata": dict(version.metadata)}
    if version.family is not Family.LINEAR:
        options["family"] = version.family.value
        options["engines"] = version.engines
    if version.family is not Family.LINEAR or version.options:
        options["part"] = dict(version.options)
    if version.link.numbers:
        options["link_numbers"] = version.link.numbers
    if version.categories:
        options["categories"] = {name: list(texts) for name, texts in version.categories.items()}
    return options


def versions_from_rows(rows: pa.Table) -> list[ModelVersion]:
    """Return the versions in rows of `fp_models` (`VERSION_COLUMNS`), by model id and version.

    Raises:
        TableCorruptError: A row that no version gives, or two rows for one version.
    """
    versions = [_parse(row) for row in rows.to_pylist()]
    counts = Counter((each.model_id, each.version) for each in versions)
    repeated = sorted(f"{model_id} {version}" for (model_id, version), count in counts.items() if count > 1)
    if repeated:
        raise TableCorruptError(f"{MODELS.name} has more than one row for {', '.join(repeated)}; delete the model")
    return sorted(versions, key=lambda each: (each.model_id, each.version))


def _parse(row: Mapping[str, object]) -> ModelVersion:
    try:
        options = json.loads(_text(row, "options"))
        return ModelVersion(
            model_id=_text(row, "model_id"),
            version=_number(row, "version"),
            params_sha256=_text(row, "params_sha256"),
            kind=Kind(_text(row, "kind")),
            link=_link(row, options.get("link_numbers", ())),
            n_scores=_number(row, "n_scores"),
            n_outputs=_number(row, "n_outputs"),
            classes=tuple(json.loads(_text(row, "classes"))),
            view=_text(row, "view"),
            view_version=_number(row, "view_version"),
            training_run=_text(row, "training_run"),
            party=_text(row, "party"),
            fit_intercept=bool(row["fit_intercept"]),
            holds_intercept=bool(row["holds_intercept"]),
            features=tuple(options["features"]),
            salt=bytes.fromhex(_text(row, "salt")),
            metadata=dict(options["metadata"]),
            certificate=dict(json.loads(_text(row, "certificate"))),
            created_at=_instant(row, "created_at"),
            source_sha256=_text(row, "source_sha256"),
            family=Family(options.get("family", Family.LINEAR)),
            categories={name: tuple(texts) for name, texts in options.get("categories", {}).items()},
            options=dict(options.get("part", {})),
            engines=tuple(options.get("engines", ENGINES)),
        )
    except (ValueError, KeyError, TypeError, FedPredictError) as error:
        raise TableCorruptError(
            f"{MODELS.name} has a damaged row for version {row['version']} of {row['model_id']} ({error}); convert the"
            " model again, or roll back"
        ) from error


def _link(row: Mapping[str, object], numbers: Sequence[float]) -> Link:
    parameter = row["link_parameter"]
    if parameter is not None and not isinstance(parameter, float):
        raise TypeError("link_parameter is no number")
    return Link(_text(row, "link"), parameter, tuple(numbers))


def _instant(row: Mapping[str, object], name: str) -> datetime:
    value = row[name]
    if not isinstance(value, datetime):
        raise TypeError(f"{name} is no instant")
    return value.astimezone(UTC)


def _text(row: Mapping[str, object], name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _number(row: Mapping[str, object], name: str) -> int:
    value = row[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is no number")
    return value
