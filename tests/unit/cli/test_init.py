"""`init` writes settings that are valid as they are, and overwrites nothing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedpredict.cli import wiring
from fedpredict.cli.main import run
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import read_tls
from fedpredict.tables.views import list_snapshots


def test_a_participants_settings_are_valid_and_name_files_that_are_there(tmp_path: Path) -> None:
    assert run(["init", "participant", str(tmp_path / "lab"), "--initiator", "hospital"]) == 0

    loaded = wiring.load_participant(tmp_path / "lab" / "participant.toml")
    tls = wiring.tls_files(loaded)
    assert (loaded.settings.party, list(loaded.settings.callers)) == ("lab", ["hospital"])
    assert tls is not None
    assert read_tls(tls).identity == Identity(IdentityKind.PARTY, "lab")
    with wiring.opened_warehouse(loaded.path) as party:
        assert list_snapshots(party.warehouse) == []


def test_an_initiator_and_its_client_trust_the_same_ca_as_a_participant(tmp_path: Path) -> None:
    assert run(["init", "participant", str(tmp_path / "lab")]) == 0
    assert run(["init", "initiator", str(tmp_path / "bank"), "--client", "desk", "--listen", "127.0.0.1:7001"]) == 0

    initiator = wiring.load_initiator(tmp_path / "bank" / "initiator.toml")
    client = wiring.load_client(tmp_path / "bank" / "client.toml")
    theirs, ours = wiring.tls_files(initiator), wiring.tls_files(client)
    assert theirs is not None
    assert ours is not None
    assert read_tls(ours).identity == Identity(IdentityKind.CLIENT, "desk")
    assert (client.settings.server, client.settings.server_party) == ("127.0.0.1:7001", "bank")
    assert list(initiator.settings.clients) == ["desk"]
    assert len({(tmp_path / name / "certs" / "ca.pem").read_bytes() for name in ("lab", "bank")}) == 1


@pytest.mark.parametrize(
    ("role", "settings_type"), [("participant", ParticipantSettings), ("initiator", InitiatorSettings)]
)
def test_what_is_written_is_the_default_or_says_otherwise(
    role: str, settings_type: type[ParticipantSettings | InitiatorSettings], tmp_path: Path
) -> None:
    run(["init", role, str(tmp_path / "lab"), "--no-certs"])

    written = tomllib.loads((tmp_path / "lab" / f"{role}.toml").read_text())
    fields = settings_type.model_fields
    differing = {
        name: value
        for name, value in written.items()
        if not isinstance(value, dict) and value != fields[name].default and name not in {"party", "http_listen"}
    }
    assert differing == ({"link_listen": "127.0.0.1:7444"} if role == "participant" else {})


@pytest.mark.parametrize("role", ["participant", "initiator"])
def test_nothing_is_overwritten(role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / f"{role}.toml").write_text("mine")

    assert run(["init", role, str(folder)]) == 4

    assert "already there" in capsys.readouterr().err
    assert (folder / f"{role}.toml").read_text() == "mine"
    assert {path.name for path in tmp_path.rglob("*")} == {"lab", f"{role}.toml"}


def test_certificates_that_are_there_are_kept(tmp_path: Path) -> None:
    run(["certs", "ca", str(tmp_path / "own-ca")])
    out = tmp_path / "lab" / "certs"
    run(["certs", "issue", "--ca", str(tmp_path / "own-ca"), "--party", "lab", "--out", str(out)])
    before = (out / "lab.key").read_bytes()

    assert run(["init", "participant", str(tmp_path / "lab")]) == 0

    assert (out / "lab.key").read_bytes() == before
    assert not (tmp_path / "ca").exists()


def test_without_certificates_the_next_step_is_told_and_serving_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "participant", str(tmp_path / "lab"), "--no-certs"]) == 0
    assert "fedpredict certs request --party lab" in capsys.readouterr().out

    assert run(["participant", "serve", "--config", str(tmp_path / "lab" / "participant.toml")]) == 8
    assert "`fedpredict certs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["My Lab", "lab_1", "-lab"])
def test_a_folder_whose_name_is_no_party_id_needs_one(name: str, tmp_path: Path) -> None:
    assert run(["init", "participant", str(tmp_path / name)]) == 4
    assert run(["init", "participant", str(tmp_path / name), "--party", "lab"]) == 0


def test_a_local_warehouse_needs_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init", "participant", str(tmp_path / "lab"), "--no-certs"])

    assert run(["init", "database", "--config", str(tmp_path / "lab" / "participant.toml")]) == 3
    assert "needs no database" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listen", "link_listen"), [("127.0.0.1:9000", "127.0.0.1:9001"), ("127.0.0.1:0", "127.0.0.1:0")]
)
def test_links_are_taken_at_the_port_after_the_first(listen: str, link_listen: str, tmp_path: Path) -> None:
    run(["init", "participant", str(tmp_path / "lab"), "--no-certs", "--listen", listen])
    assert wiring.load_participant(tmp_path / "lab" / "participant.toml").settings.link_listen == link_listen


def test_a_listen_that_is_no_address_writes_nothing(tmp_path: Path) -> None:
    assert run(["init", "participant", str(tmp_path / "lab"), "--no-certs", "--listen", "here"]) == 4
    assert not (tmp_path / "lab" / "participant.toml").exists()


@pytest.mark.parametrize(
    ("role", "settings_type", "names"),
    [
        ("participant", ParticipantSettings, ("leases", "tasks", "populations")),
        ("initiator", InitiatorSettings, ("leases", "tasks", "tasks.tables.customers")),
    ],
)
def test_the_commented_sections_of_background_work_are_valid_and_show_the_defaults(
    role: str, settings_type: type[ParticipantSettings | InitiatorSettings], names: tuple[str, ...], tmp_path: Path
) -> None:
    run(["init", role, str(tmp_path / "lab"), "--no-certs"])
    text = (tmp_path / "lab" / f"{role}.toml").read_text()
    plain = tomllib.loads(text)

    for name in names:
        section = re.search(rf"^# \[{re.escape(name)}\].*\n((?:# [a-z_]+ = .*\n)+)", text, re.M)
        assert section is not None, name
        uncommented = re.sub("^# ", "", section[0], flags=re.M)
        given = tomllib.loads(uncommented)
        checked = settings_type.model_validate({**plain, **given})
        if name in ("tasks", "populations"):
            defaults, shown = settings_type.model_validate(plain), given[name]
            differing = {key for key, value in shown.items() if getattr(getattr(defaults, name), key) != value}
            assert differing <= {"keep_days", "keep_parameters"}  # which has none
        assert checked is not None
