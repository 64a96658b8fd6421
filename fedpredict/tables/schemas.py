"""The layouts of all tables, written once; docs/tables.md says what every column means."""

from __future__ import annotations

from collections.abc import Iterable

from fedpredict.model.ids import check_view_name
from fedpredict.tables.names import PLACE
from fedpredict.warehouse.base import Column, ColumnType, TableSchema

_INT, _BIGINT, _DOUBLE = ColumnType.INT, ColumnType.BIGINT, ColumnType.DOUBLE
_STRING, _BOOLEAN, _TIMESTAMP = ColumnType.STRING, ColumnType.BOOLEAN, ColumnType.TIMESTAMP

MODELS = TableSchema(
    "fp_models",
    (
        Column("params_sha256", _STRING),
        Column("kind", _STRING),
        Column("link", _STRING),
        Column("link_parameter", _DOUBLE),
        Column("n_scores", _INT),
        Column("n_outputs", _INT),
        Column("classes", _STRING),
        Column("base_score", _STRING),
        Column("view", _STRING),
        Column("view_version", _INT),
        Column("training_run", _STRING),
        Column("party", _STRING),
        Column("fit_intercept", _BOOLEAN),
        Column("holds_intercept", _BOOLEAN),
        Column("options", _STRING),
        Column("salt", _STRING),
        Column("certificate", _STRING),
        Column("created_at", _TIMESTAMP),
        Column("source_sha256", _STRING),
    ),
    (Column("model_id", _STRING), Column("version", _INT)),
)
"""One row per version of a model, written once and last; the highest version is the current one (ADR 0001)."""

VIEWS = TableSchema(
    "fp_views",
    (
        Column("n_rows", _BIGINT),
        Column("features", _STRING),
        Column("key", _STRING),
        Column("event_time", _STRING),
        Column("created_at", _TIMESTAMP),
        Column("n_ids", _BIGINT),
        Column("has_places", _BOOLEAN),
    ),
    (Column("view", _STRING), Column("view_version", _INT), Column("snapshot", _STRING)),
)
"""One row per snapshot of a feature view, written once and last; without it the snapshot does not exist (ADR 0001)."""

SCRIPTS = TableSchema(
    "fp_view_scripts",
    (
        Column("definition", _STRING),
        Column("script", _STRING),
        Column("script_sha256", _STRING),
        Column("created_at", _TIMESTAMP),
        Column("tried", _STRING),
    ),
    (Column("view", _STRING), Column("view_version", _INT)),
)
"""One row per registered version of a view; its features' snapshots have the same version."""

RUNS = TableSchema(
    "fp_schedule",
    (
        Column("due", _TIMESTAMP),
        Column("outcome", _STRING),
        Column("problem", _STRING),
        Column("started_at", _TIMESTAMP),
        Column("finished_at", _TIMESTAMP),
        Column("done_due", _TIMESTAMP),
        Column("host", _STRING),
    ),
    (Column("job", _STRING),),
)
"""One row per scheduled job: how its last run ended."""

PARAMETER_KEYS = (Column("model_id", _STRING), Column("params_sha256", _STRING))
FEATURE_KEYS = (Column("view_version", _INT), Column("snapshot", _STRING))


HEAD_KEYS = (Column("model_id", _STRING), Column("head_sha256", _STRING))

HEADS = TableSchema(
    "fp_heads",
    (
        Column("party", _STRING),
        Column("training_run", _STRING),
        Column("kind", _STRING),
        Column("link", _STRING),
        Column("link_parameter", _DOUBLE),
        Column("classes", _STRING),
        Column("combining", _STRING),
        Column("structure_sha256", _STRING),
        Column("n_outputs", _INT),
        Column("n_scores", _INT),
        Column("options", _STRING),
        Column("salt", _STRING),
        Column("created_at", _TIMESTAMP),
        Column("source_sha256", _STRING),
    ),
    HEAD_KEYS,
)
"""One row per head of a model, at its initiator; written once and last (ADR 0026)."""

HEAD_LEAVES = TableSchema(
    "fp_head_leaves",
    (Column("tree", _INT), Column("leaf", _INT), Column("output", _INT), Column("value", _DOUBLE)),
    HEAD_KEYS,
)
"""What the leaves of split trees add."""


def weight_column(column: str) -> str:
    """Return the column of a parameter table that holds the weights of a feature column.

    >>> weight_column("mean_radius")
    'w_mean_radius'
    """
    return f"w_{column}"


def linear_schema(view: str, features: Iterable[Column]) -> TableSchema:
    """Return the parameter table of the linear models over a view.

    Args:
        view: The view's name.
        features: The view's feature columns; the numeric ones get a weight.

    Raises:
        NameRefusedError: The view's name breaks the rule.
    """
    weights = (
        Column(weight_column(feature.name), ColumnType.DOUBLE)
        for feature in features
        if feature.type is ColumnType.DOUBLE
    )
    fixed = (Column("output", _INT), Column("intercept", _DOUBLE), Column("constant", _DOUBLE))
    return TableSchema(f"fp_linear_{check_view_name(view)}", (*fixed, *weights), PARAMETER_KEYS)


TREES_COLUMNS = (
    Column("tree", _INT),
    Column("node", _INT),
    Column("level", _INT),
    Column("feature", _STRING),
    Column("input", _INT),
    Column("op", _STRING),
    Column("threshold", _DOUBLE),
    Column("categories", _STRING),
    Column("known", _STRING),
    Column("compare", _STRING),
    Column("missing", _STRING),
    Column("zero_is_missing", _BOOLEAN),
    Column("unknown", _STRING),
    Column("left_child", _INT),
    Column("right_child", _INT),
    Column("output", _INT),
    Column("leaf_value", _DOUBLE),
)


def trees_schema(view: str) -> TableSchema:
    """Return the parameter table of the trees over a view.

    Raises:
        NameRefusedError: The view's name breaks the rule.
    """
    return TableSchema(f"fp_trees_{check_view_name(view)}", TREES_COLUMNS, PARAMETER_KEYS)


def scorecard_schema(view: str) -> TableSchema:
    """Return the parameter table of the scorecards over a view.

    Raises:
        NameRefusedError: The view's name breaks the rule.
    """
    columns = (
        Column("position", _INT),
        Column("rule", _STRING),
        Column("bin", _INT),
        Column("low", _DOUBLE),
        Column("high", _DOUBLE),
        Column("low_closed", _BOOLEAN),
        Column("high_closed", _BOOLEAN),
        Column("text", _STRING),
        Column("points", _DOUBLE),
        Column("reason", _STRING),
    )
    return TableSchema(f"fp_scorecard_{check_view_name(view)}", columns, PARAMETER_KEYS)


def steps_schema(view: str) -> TableSchema:
    """Return the table of the numbers of preprocessing in front of the models over a view.

    Raises:
        NameRefusedError: The view's name breaks the rule.
    """
    columns = (
        Column("step", _INT),
        Column("kind", _STRING),
        Column("feature", _STRING),
        Column("name", _STRING),
        Column("item", _INT),
        Column("output", _INT),
        Column("text", _STRING),
        Column("number", _DOUBLE),
        Column("value", _DOUBLE),
    )
    return TableSchema(f"fp_steps_{check_view_name(view)}", columns, PARAMETER_KEYS)


def features_schema(view: str, features: Iterable[Column]) -> TableSchema:
    """Return the feature table of a view.

    Args:
        view: The view's name.
        features: The view's feature columns, DOUBLE or STRING.

    Raises:
        NameRefusedError: The view's name breaks the rule.
    """
    fixed = (Column("sample_id", _STRING), Column("event_time", _TIMESTAMP), Column(PLACE, _STRING))
    return TableSchema(f"fp_features_{check_view_name(view)}", (*fixed, *features), FEATURE_KEYS)
