"""Which settings a file holds, and what of the environment counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedpredict.cli import wiring
from fedpredict.errors import ConfigError
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.warehouse.open import hive_settings
from fedpredict.warehouse.settings import WarehouseSettings

BASE = 'party = "lab"\ninsecure = true\n'
WAREHOUSE = '[warehouse]\npath = "w"\n'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("participant.toml", BASE + WAREHOUSE, ParticipantSettings),
        ("initiator.toml", BASE + WAREHOUSE, InitiatorSettings),
        ("settings.toml", BASE + WAREHOUSE, ParticipantSettings),
        ("settings.toml", BASE + WAREHOUSE + "[clients.desk]\nmodels = []", InitiatorSettings),
        ("settings.toml", BASE + 'state = "sqlite:///s.db"\n', InitiatorSettings),
        ("initiator.toml", BASE + WAREHOUSE + "[callers.bank]\nmodels = []", ParticipantSettings),
    ],
)
def test_a_file_is_of_the_role_that_its_keys_or_its_name_say(
    name: str, text: str, expected: type[object], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)

    assert isinstance(wiring.load_party(path).settings, expected)


def test_without_a_name_the_file_in_the_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no participant\.toml or initiator\.toml in this folder"):
        wiring.load_party(None)
    (tmp_path / "initiator.toml").write_text(BASE)
    assert wiring.load_party(None).path == Path("initiator.toml")


def test_an_initiator_without_a_warehouse_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "initiator.toml").write_text(BASE)

    with (
        pytest.raises(ConfigError, match=r"has no \[warehouse\]"),
        wiring.opened_warehouse(tmp_path / "initiator.toml"),
    ):
        pass


@pytest.mark.parametrize(
    ("warehouse", "is_apart"),
    [(WAREHOUSE, False), ('[warehouse]\nkind = "hive"\nhost = "127.0.0.1"\nport = 9\nauth = "none"\n', True)],
    ids=["local", "hive"],
)
def test_long_statements_of_tasks_have_a_connection_of_their_own_on_a_server(
    tmp_path: Path, warehouse: str, is_apart: bool
) -> None:
    path = tmp_path / "initiator.toml"
    path.write_text(BASE + warehouse)
    with wiring.opened_tasks(wiring.load_initiator(path), None) as parts:  # and nothing is connected: nobody is there
        assert (parts.statements is not None) == is_apart
        assert parts.statements is not parts.warehouse


def test_each_role_has_its_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPREDICT_PARTICIPANT_POLL_S", "7")
    monkeypatch.setenv("FEDPREDICT_INITIATOR_POLL_S", "8")
    monkeypatch.setenv("FEDPREDICT_CLIENT_TIMEOUT_S", "9")
    path = tmp_path / "participant.toml"
    path.write_text(BASE + WAREHOUSE)

    assert wiring.load_participant(path).settings.poll_s == 7.0
    assert wiring.load_initiator(path).settings.poll_s == 8.0
    assert wiring.load_client(None).settings.timeout_s == 9.0


def test_the_local_warehouse_is_beside_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "participant.toml"
    path.write_text(BASE + WAREHOUSE)

    from fedpredict.tables.schemas import MODELS

    with wiring.opened_warehouse(path) as party:
        party.warehouse.ensure(MODELS)

    assert party.party == "lab"
    assert (tmp_path / "w").is_dir()


HIVE = {"kind": "hive", "host": "hive.example", "auth": "ldap", "username": "me"}


def test_the_password_of_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from file\nsecond line\n")
    settings = WarehouseSettings.model_validate({**HIVE, "password_file": "secret"})

    found = [hive_settings(settings, tmp_path, given).password for given in (None, "from environment")]
    assert found == ["from file", "from environment"]


def test_the_password_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPREDICT_HIVE_PASSWORD", "secret")

    assert wiring.password() == "secret"


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = WarehouseSettings.model_validate({**HIVE, "password_file": "secret"})

    with pytest.raises(ConfigError, match=r"warehouse\.password_file: .*secret cannot be read"):
        hive_settings(settings, tmp_path)


def test_hive_gets_what_is_set_and_its_own_defaults_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    settings = WarehouseSettings.model_validate(
        {"kind": "hive", "host": "hive.example", "port": 10001, "transport": "http", "tls": True, "tls_ca": "ca.pem"}
    )

    hive = hive_settings(settings, tmp_path)

    assert (hive.host, hive.port, hive.transport, hive.tls, hive.tls_verify) == (
        "hive.example",
        10001,
        "http",
        True,
        True,
    )
    assert hive.tls_ca == tmp_path / "ca.pem"
    assert (hive.database, hive.auth, hive.password) == ("default", "none", None)


def test_a_daemon_that_reads_its_warehouse_loads_only_what_it_needs(tmp_path: Path) -> None:
    code = f"""
import sys
from fedpredict.cli import main, wiring
wiring.spare_memory()
from pathlib import Path
import pyarrow as pa
import fedpredict.participant.server
from fedpredict.tables.schemas import MODELS
from fedpredict.warehouse.local import LocalWarehouse
warehouse = LocalWarehouse(Path({str(tmp_path / "w")!r}))
warehouse.ensure(MODELS)
assert warehouse.read(MODELS.name, ["model_id"], {{}}).num_rows == 0
assert pa.array([1.5]).to_numpy().tolist() == [1.5]
assert pa.default_memory_pool().backend_name == "system"
print(sorted({{"pandas", "duckdb", "pyarrow.dataset", "pyarrow._s3fs", "rich"}} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert found.stdout == "[]\n"


def test_features_are_served_from_a_folder_beside_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "participant.toml"
    path.write_text(BASE + WAREHOUSE + "[store]\npath = 'features'\n")

    assert isinstance(wiring.open_loaded_store(wiring.load_participant(path)), MappedStore)
    path.write_text(BASE + WAREHOUSE + "[store]\nkind = 'memory'\n")
    assert isinstance(wiring.open_loaded_store(wiring.load_participant(path)), MemoryStore)
