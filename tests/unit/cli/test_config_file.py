"""Every mistake in a settings file is told with its key, and the nearest right one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fedpredict.cli.client_settings import ClientFileSettings
from fedpredict.cli.config_file import load_settings
from fedpredict.errors import ConfigError
from fedpredict.initiator import settings as initiator
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.observe.settings import LogSettings
from fedpredict.participant import settings as participant
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.settings import TlsSettings
from fedpredict.warehouse.settings import WarehouseSettings

TABLES: dict[type[BaseModel], dict[str, type[BaseModel]]] = {
    ParticipantSettings: {
        "": ParticipantSettings,
        "tls": TlsSettings,
        "warehouse": WarehouseSettings,
        "callers.bank": participant.CallerSettings,
        "log": LogSettings,
    },
    InitiatorSettings: {
        "": InitiatorSettings,
        "tls": TlsSettings,
        "warehouse": WarehouseSettings,
        "parties.lab": initiator.PartySettings,
        "models.credit": initiator.ModelSettings,
        "models.credit.simulate": initiator.SimulateSettings,
        "clients.desk": initiator.ClientSettings,
        "log": LogSettings,
    },
    ClientFileSettings: {"": ClientFileSettings, "tls": TlsSettings},
}


def every_key() -> Iterator[tuple[type[BaseModel], str, str]]:
    for settings_type, tables in TABLES.items():
        for table, model in tables.items():
            for key in model.model_fields:
                yield settings_type, table, key


def load(path: Path, text: str, settings_type: type[Any] = ParticipantSettings, **environment: str) -> Any:
    path.write_text(text)
    return load_settings(path, settings_type, prefix="FEDPREDICT_X_", environment=environment).settings


PARTICIPANT = 'party = "lab"\ninsecure = true\n[warehouse]\npath = "w"\n'


@pytest.mark.parametrize(
    ("settings_type", "table", "key"), list(every_key()), ids=lambda value: getattr(value, "__name__", value) or "top"
)
def test_every_misspelt_key_is_named_with_the_right_one(
    settings_type: type[BaseModel], table: str, key: str, tmp_path: Path
) -> None:
    misspelt = f"{key}{key[-1]}"
    text = f"[{table}]\n{misspelt} = 1\n" if table else f"{misspelt} = 1\n"
    where = f"[{table}] {misspelt}" if table else misspelt

    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "settings.toml", text, settings_type)

    assert str(raised.value) == f"unknown key {where} in settings.toml; did you mean {key}?"


def test_a_key_like_no_other_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key \[log\] zzz in p.toml; known: level"):
        load(tmp_path / "p.toml", f"{PARTICIPANT}[log]\nzzz = 1")


def test_further_mistakes_are_notes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "p.toml", "prty = 1\n[warehouse]\nprt = 1")

    assert str(raised.value) == "unknown key [warehouse] prt in p.toml; did you mean port?"
    assert "unknown key prty in p.toml; did you mean party?" in raised.value.__notes__
    assert "party in p.toml is missing" in raised.value.__notes__


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('poll_s = "often"', r"poll_s in p.toml is 'often': input should be a valid number"),
        ("max_samples = 0", r"max_samples in p.toml is 0: input should be greater than or equal to 1"),
        ('listen = "everywhere"', r"listen in p.toml is 'everywhere': .* write host:port"),
        ('party = "No Party"', r"party in p.toml is 'No Party': .*is not a party id"),
        ('[callers.bank]\nmodels = ["*", "no model"]', r"\[callers.bank\] models.1 in p.toml is 'no model'"),
        ('[callers."No Party"]\nmodels = []', r"\[callers\] No Party in p.toml is 'No Party'"),
        ('[log]\nlevel = "loud"', r"\[log\] level in p.toml is 'loud': input should be 'debug', 'info'"),
        ('log = "loud"', r"log in p.toml is 'loud': input should be a valid dictionary"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(line: str, told: str, tmp_path: Path) -> None:
    base = 'insecure = true\nwarehouse = {path = "w"}\n' + ("" if line.startswith("party") else 'party = "lab"\n')
    with pytest.raises(ConfigError, match=told):
        load(tmp_path / "p.toml", f"{base}{line}")


def test_what_does_not_fit_together_is_told_without_the_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^p.toml: tls: needed \(or insecure = true"):
        load(tmp_path / "p.toml", 'party = "lab"\n[warehouse]\npath = "w"')


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file .`fedpredict init`"):
        load_settings(tmp_path / "p.toml", ParticipantSettings, prefix="X_", environment={})


@pytest.mark.parametrize("content", [b"party =", b"\xff\xfe", b'party = "a"\nparty = "b"'])
def test_a_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"p\.toml"):
        load_settings(path, ParticipantSettings, prefix="X_", environment={})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path, ParticipantSettings, prefix="X_", environment={})


def test_the_environment_overrides_keys_and_tables(tmp_path: Path) -> None:
    settings = load(
        tmp_path / "p.toml",
        PARTICIPANT,
        FEDPREDICT_X_POLL_S="0.5",
        FEDPREDICT_X_WAREHOUSE__PATH="elsewhere",
        FEDPREDICT_X_CALLERS__BANK__MODELS='["credit"]',
        FEDPREDICT_X_INSECURE="true",
        OTHER_POLL_S="9",
    )

    assert (settings.poll_s, settings.warehouse.path) == (0.5, Path("elsewhere"))
    assert settings.callers["bank"].models == ("credit",)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key \[warehouse\] pth in FEDPREDICT_X_WAREHOUSE__PTH; did you mean path"
    ):
        load(tmp_path / "p.toml", PARTICIPANT, FEDPREDICT_X_WAREHOUSE__PTH="w")
    with pytest.raises(ConfigError, match=r"poll_s in FEDPREDICT_X_POLL_S is 'often'"):
        load(tmp_path / "p.toml", PARTICIPANT, FEDPREDICT_X_POLL_S="often")
    with pytest.raises(ConfigError, match="FEDPREDICT_X_CALLERS__BANK__MODELS: not a TOML value"):
        load(tmp_path / "p.toml", PARTICIPANT, FEDPREDICT_X_CALLERS__BANK__MODELS="[credit")


def test_the_environment_does_not_hide_a_mistake_in_the_file(tmp_path: Path) -> None:
    text = 'party = "lab"\ninsecure = true\nwarehouse = "w"'

    with pytest.raises(ConfigError, match=r"warehouse in p.toml is 'w'"):
        load(tmp_path / "p.toml", text, FEDPREDICT_X_WAREHOUSE__PATH="w")


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "p.toml").write_text(PARTICIPANT)
    monkeypatch.chdir(tmp_path)

    loaded = load_settings(Path("lab/p.toml"), ParticipantSettings, prefix="X_", environment={})

    assert loaded.base == tmp_path / "lab"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kind = "local"', "needs path"),
        ('kind = "hive"', "needs host"),
        ('kind = "hive"\nhost = "h"\npath = "w"', 'path does not belong to kind = "hive"'),
        ('path = "w"\nhost = "h"\nport = 1', 'host, port does not belong to kind = "local"'),
        ('kind = "hvie"', r"\[warehouse\] kind in p.toml is 'hvie'"),
        ('path = "w"\npassword = "x"', r"unknown key \[warehouse\] password"),
    ],
)
def test_a_warehouse_that_does_not_fit_its_kind_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load(tmp_path / "p.toml", f'party = "lab"\ninsecure = true\n[warehouse]\n{text}')
