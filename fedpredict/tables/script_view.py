"""What a feature view's TOML file says: its sources and their types, its features, and what it must run on."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpredict.errors import FeatureNamesError, NameRefusedError
from fedpredict.model.durations import parse_duration
from fedpredict.model.ids import check_view_name
from fedpredict.tables.names import column_names
from fedpredict.tables.script_types import ScriptType, parse_type
from fedpredict.tables.views import FeatureView, ViewFeature
from fedpredict.warehouse.base import ColumnType, check_identifier

EngineName: TypeAlias = Literal["duckdb", "spark", "hive"]


def _identifier(name: str) -> str:
    try:
        return check_identifier(name)
    except NameRefusedError as error:
        raise ValueError(str(error)) from None


def _view_name(name: str) -> str:
    try:
        return check_view_name(name)
    except NameRefusedError as error:
        raise ValueError(str(error)) from None


def _type(text: str) -> str:
    parse_type(text)
    return text


def _age(text: str) -> str:
    parse_duration(text)
    return text


Identifier: TypeAlias = Annotated[str, AfterValidator(_identifier)]
Age: TypeAlias = Annotated[str, AfterValidator(_age)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptSource(_Table):
    """A raw table, under the name that the script calls it by."""

    kind: Literal["table", "dimension"] = "table"
    """`table`: events, one row each. `dimension`: what the script joins to them, one row for each key."""
    table: Identifier
    """The table in the warehouse."""
    database: Identifier | None = None
    """hive: its database; default: the warehouse's own."""
    event_id: Identifier | None = None
    """table: the column that tells events of one instant apart; text or int."""
    event_time: Identifier | None = None
    """table: the column that says when an event happened; a timestamp, UTC."""
    unique: bool = False
    """table: its operator promises that no two rows have the same id and key, so that nothing looks for such rows."""
    key: tuple[Identifier, ...] = ()
    """dimension: the columns that no two rows share."""
    columns: dict[Identifier, Annotated[str, AfterValidator(_type)]]
    """Column -> type: text, int, decimal(p,s), double, timestamp, date, boolean."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ScriptSource:
        types = self.types
        if self.kind == "table":
            wanted = {"event_id": ("text", "int"), "event_time": ("timestamp",)}
            for role, allowed in wanted.items():
                name = getattr(self, role)
                if name is None:
                    raise ValueError(f'kind = "table" needs {role}')
                if name not in types or types[name].kind not in allowed:
                    raise ValueError(f"{role} must be one of its columns, of type {' or '.join(allowed)}, not {name}")
            if self.key:
                raise ValueError('key does not belong to kind = "table"')
            return self
        if self.event_id or self.event_time or self.unique:
            raise ValueError('event_id, event_time and unique do not belong to kind = "dimension"')
        if not self.key or not set(self.key) <= set(types):
            raise ValueError('kind = "dimension" needs key, a list of its columns that no two rows share')
        return self

    @property
    def types(self) -> dict[str, ScriptType]:
        """Column -> type."""
        return {name: parse_type(text) for name, text in self.columns.items()}


class ScriptFeature(_Table):
    """A feature that the script gives."""

    type: Literal["number", "text"]
    min: float | None = Field(default=None, allow_inf_nan=False)
    """number: a smaller value is not valid; such a sample gets no score."""
    max: float | None = Field(default=None, allow_inf_nan=False)
    """number: a larger value is not valid."""
    texts: tuple[str, ...] = ()
    """text: the only ones allowed; empty: any."""
    description: str = ""
    """For people."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> ScriptFeature:
        if self.type == "text" and (self.min is not None or self.max is not None):
            raise ValueError('min and max do not belong to type = "text"')
        if self.type == "number" and self.texts:
            raise ValueError('texts does not belong to type = "number"')
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min:g} is above max = {self.max:g}")
        return self


class MaxAge(_Table):
    """How old features may be in each mode, as of the instant that they were computed for."""

    realtime: Age | None = None
    """Without effect, as these are of the question's instant; kept for views that were registered with it."""
    nearline: Age | None = None
    offline: Age | None = None


class ScriptView(_Table):
    """A feature view that a script computes."""

    name: Annotated[str, AfterValidator(_view_name)]
    key: Identifier
    """The output of the script that is the sample id: a column of the source after FROM, text or int."""
    owner: str = ""
    """Whom to ask, for people."""
    description: str = ""
    """For people."""
    targets: tuple[EngineName, ...] = Field(default=("duckdb", "spark", "hive"), min_length=1)
    """The engines that the script must give the same answer in."""
    max_age: MaxAge = MaxAge()
    sources: dict[Identifier, ScriptSource] = Field(min_length=1)
    features: dict[str, ScriptFeature] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_give_columns(self) -> ScriptView:
        try:
            column_names(list(self.features))
        except FeatureNamesError as error:
            raise ValueError(str(error)) from None
        return self

    def feature_view(self, version: int) -> FeatureView:
        """Return the view as snapshots know it."""
        columns = column_names(list(self.features))
        kinds = {"number": ColumnType.DOUBLE, "text": ColumnType.STRING}
        features = tuple(ViewFeature(name, columns[name], kinds[each.type]) for name, each in self.features.items())
        return FeatureView(self.name, version, features, self.key, "as_of")
