"""A TOML file and the environment -> checked settings; a mistake is named with its key and the nearest right one."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from fedpredict.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)
Location = tuple[str | int, ...]

_SECRET = re.compile(r"(://[^/@:\s]*:|[?&]password=)[^@/&\s'\"]+")
"""A password in a URL, which a message must not repeat."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Settings]):
    """Settings, and where they came from.

    Attributes:
        path: The file.
        settings: What it says, with the environment's overrides.
    """

    path: Path
    settings: Settings

    @property
    def base(self) -> Path:
        """The folder that relative paths in the file start at."""
        return self.path.absolute().parent


def read_toml(path: Path) -> dict[str, Any]:
    """Return a file's content.

    Raises:
        ConfigError: There is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file (`fedpredict init` writes the settings of a party)") from error
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def load_settings(
    path: Path | None, settings_type: type[Settings], *, prefix: str, environment: Mapping[str, str]
) -> Loaded[Settings]:
    """Return the settings in a file, with what the environment overrides.

    Args:
        path: The TOML file; None: the environment alone, its paths starting at the current folder.
        settings_type: What it must hold.
        prefix: Of the environment's names, such as "FEDPREDICT_PARTICIPANT_". What follows is the key in upper case,
            `__` between a table and its key; `POLL_S` is `poll_s`, `WAREHOUSE__PORT` is `[warehouse] port`.
        environment: Name -> text.

    Raises:
        ConfigError: With the first mistake; the others are its notes.
    """
    content = read_toml(path) if path is not None else {}
    path = path or Path("environment")
    source = _Source(path.name)
    for name in sorted(environment):
        if name.startswith(prefix):
            location = tuple(name.removeprefix(prefix).lower().split("__"))
            _put(content, location, _value(name, environment[name]))
            source.variables[location] = name
    try:
        return Loaded(path, settings_type.model_validate(content))
    except ValidationError as error:
        # a misspelt key often makes the right one "missing" as well: say the misspelling first
        mistakes = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
        problems = [_tell(details, settings_type, source) for details in mistakes]
        raised = ConfigError(problems[0])
        for further in problems[1:]:
            raised.add_note(further)
        raise raised from None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where values came from: a file, but for some variables of the environment."""

    file: str
    variables: dict[Location, str] = field(default_factory=dict)

    def of(self, location: Location) -> str:
        """Return the name of the file or of the variable."""
        return self.variables.get(location, self.file)


def _put(content: dict[str, Any], location: Sequence[str], value: object) -> None:
    table = content
    for name in location[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # the file's own mistake is told when the whole is checked
        table = inner
    table[location[-1]] = value


def _value(name: str, text: str) -> object:
    if not text.startswith(("[", "{")):
        return text  # the settings' types turn text into numbers and booleans
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not a TOML value: {error}") from error


def _tell(details: Mapping[str, Any], settings_type: type[BaseModel], source: _Source) -> str:
    location: Location = tuple(part for part in details["loc"] if part != "[key]")
    where = f"{_key(location)} in {source.of(location)}" if location else source.file
    if details["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(
            str(location[-1]), _known_keys(settings_type, location[:-1]), n=1, cutoff=0.5
        )
        hint = (
            f"; did you mean {nearest[0]}?"
            if nearest
            else f"; known: {', '.join(_known_keys(settings_type, location[:-1]))}"
        )
        return f"unknown key {where}{hint}"
    if details["type"] == "missing":
        return f"{where} is missing"
    message = str(details["msg"]).removeprefix("Value error, ")
    value = details["input"]
    if isinstance(value, dict | BaseModel):
        return f"{where}: {message}"
    shown = _SECRET.sub(r"\1***", repr(value))
    return f"{where} is {shown:.100}: {message[0].lower() + message[1:]}"


def _key(location: Location) -> str:
    """Return a location as the file writes it: `[table.inner] key`.

    >>> _key(("warehouse", "port")), _key(("listen",)), _key(("callers", "bank", "models", 0))
    ('[warehouse] port', 'listen', '[callers.bank] models.0')
    """
    names = [str(part) for part in location]
    position = next((i for i, part in enumerate(location) if isinstance(part, int)), len(names)) - 1
    tables, key = names[:position], ".".join(names[position:])
    return f"[{'.'.join(tables)}] {key}" if tables else key


def _known_keys(settings_type: type[BaseModel], location: Location) -> list[str]:
    """Return the keys of the table at a location."""
    annotation: Any = settings_type
    for name in location:
        model = _model_in(annotation)
        annotation = model.model_fields[str(name)].annotation if model is not None else _element(annotation)
    model = _model_in(annotation)
    return sorted(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *_optional(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _optional(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if type(None) in typing.get_args(annotation) else ()


def _element(annotation: Any) -> Any:
    return (typing.get_args(annotation) or (object,))[-1]
