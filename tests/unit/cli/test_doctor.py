"""The doctor names what is wrong and what to do, and exits with 9 exactly then."""

from __future__ import annotations

import json
import shutil
import socket
import tomllib
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.cli.main import run
from fedpredict.convert.write import write_partial
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.offline import OfflineState
from fedpredict.model.partial import PartialModel
from fedpredict.model.sample_ids import SampleIds
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.state.distinct_digests import CallerDay
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.state.task_base import Why
from fedpredict.state.tasks import open_task_store
from fedpredict.tables.schedule_runs import FAILED, Run, write_run
from fedpredict.warehouse.local import LocalWarehouse
from tests.contract.test_task_store import new


class Clinic:
    """A party in a folder, and what the doctor says of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def setup(self, *words: str) -> None:
        assert run(list(words)) == 0

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def examine(self, file: str, code: int) -> list[dict[str, Any]]:
        self._capsys.readouterr()
        assert run(["doctor", "--config", str(self.folder / file), "--json"]) == code
        found: list[dict[str, Any]] = json.loads(self._capsys.readouterr().out)
        return found

    def problems(self, file: str) -> list[tuple[str, str, str]]:
        return [
            (each["topic"], each["what"], each["fix"]) for each in self.examine(file, 9) if each["level"] == "problem"
        ]


@pytest.fixture
def clinic(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Clinic:
    monkeypatch.chdir(tmp_path)
    clinic = Clinic(tmp_path, capsys)
    clinic.setup("init", "participant", "lab", "--listen", "127.0.0.1:0")
    return clinic


def load_and_convert(clinic: Clinic, party: str = "lab", config: str = "lab/participant.toml") -> None:
    (clinic.folder / "people.csv").write_text("id,age\nu1,40\n")
    part = LinearPart(("age",), np.array([[0.5]]), None, np.zeros(1))
    partial = PartialModel(
        model_id="credit",
        training_run="run-1",
        party=party,
        kind=Kind.LINEAR,
        classes=(),
        fit_intercept=False,
        part=part,
    )
    write_partial(clinic.folder / "part.json", partial)
    clinic.setup("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", config)
    clinic.setup("model", "convert", "part.json", "--config", config)


def test_a_party_at_work_has_no_problem(clinic: Clinic) -> None:
    load_and_convert(clinic)

    found = clinic.examine("lab/participant.toml", 0)

    assert {each["level"] for each in found} == {"ok"}


def test_a_fresh_party_is_told_the_next_steps_as_warnings(clinic: Clinic) -> None:
    found = clinic.examine("lab/participant.toml", 0)

    assert [(each["topic"], each["fix"]) for each in found if each["level"] == "warning"] == [
        ("features", "fedpredict features load FILE ..."),
        ("models", "fedpredict model convert FILE ..."),
    ]


def test_every_mistake_in_the_settings_is_a_finding(clinic: Clinic) -> None:
    clinic.edit("lab/participant.toml", "poll_s", "pol_s")
    clinic.edit("lab/participant.toml", 'level = "info"', 'level = "loud"')

    told = [what for topic, what, _ in clinic.problems("lab/participant.toml") if topic == "settings"]

    assert told[0] == "unknown key pol_s in participant.toml; did you mean poll_s?"
    assert told[1].startswith("[log] level in participant.toml is 'loud'")


def test_missing_certificates_are_a_problem(clinic: Clinic) -> None:
    (clinic.folder / "lab" / "certs" / "lab.pem").unlink()

    topic, what, _ = clinic.problems("lab/participant.toml")[0]

    assert topic == "certificates"
    assert "lab.pem" in what


def test_a_certificate_of_another_party_is_a_problem(clinic: Clinic) -> None:
    clinic.edit("lab/participant.toml", 'party = "lab"', 'party = "imaging"')

    told = [what for topic, what, _ in clinic.problems("lab/participant.toml") if topic == "certificates"]

    assert any("party lab" in what and "party imaging" in what for what in told)


def test_plain_text_is_a_warning(clinic: Clinic) -> None:
    clinic.edit("lab/participant.toml", 'party = "lab"', 'party = "lab"\ninsecure = true')

    found = clinic.examine("lab/participant.toml", 0)

    assert ["insecure = true" in each["what"] for each in found if each["topic"] == "certificates"] == [True]


def test_a_warehouse_that_is_gone_is_a_problem(clinic: Clinic) -> None:
    (clinic.folder / "lab" / "warehouse").rmdir()

    topic, what, fix = clinic.problems("lab/participant.toml")[0]

    assert topic == "warehouse"
    assert "does not exist" in what
    assert fix


def in_redis(clinic: Clinic, address: str) -> None:
    clinic.edit("lab/participant.toml", 'kind = "mapped"', f'kind = "redis"\nurl = "redis://{address}/0"')
    clinic.edit("lab/participant.toml", 'path = "store"\n', "")


def test_a_redis_that_is_away_is_a_problem(clinic: Clinic) -> None:
    in_redis(clinic, "127.0.0.1:1")

    ((what, fix),) = [each[1:] for each in clinic.problems("lab/participant.toml") if each[0] == "store"]

    assert "Redis at 127.0.0.1:1: cannot be reached" in what
    assert "[store]" in fix


@pytest.mark.redis
def test_a_redis_that_answers_is_told_with_what_it_holds(clinic: Clinic, redis_address: str) -> None:
    in_redis(clinic, redis_address)

    (said,) = [each["what"] for each in clinic.examine("lab/participant.toml", 0) if each["topic"] == "store"]

    assert said == f"Redis at {redis_address} holds no features yet"


def test_damaged_parameters_are_a_problem_of_that_model(clinic: Clinic) -> None:
    load_and_convert(clinic)
    files = [each for each in clinic.folder.glob("lab/warehouse/fp_linear_people/**/*.parquet") if each.is_file()]
    import pyarrow.parquet as pq

    for path in files:
        table = pq.read_table(path, partitioning=None)
        position = table.column_names.index("w_age")
        path.chmod(0o644)
        pq.write_table(table.set_column(position, "w_age", [[0.75]]), path)

    problems = clinic.problems("lab/participant.toml")

    assert [(topic, fix) for topic, _, fix in problems] == [
        ("models", "convert the model again, or fedpredict model rollback credit")
    ]


def test_a_caller_with_a_misspelt_model_is_a_warning(clinic: Clinic) -> None:
    load_and_convert(clinic)
    clinic.edit("lab/participant.toml", 'models = ["*"]', 'models = ["credti"]')

    found = clinic.examine("lab/participant.toml", 0)

    assert [(each["what"], each["fix"]) for each in found if each["topic"] == "callers"] == [
        ("bank may ask for credti, which is not here", "did you mean credit?")
    ]


def test_a_port_that_another_process_has_is_a_problem(clinic: Clinic) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{other.getsockname()[1]}"
        clinic.edit("lab/participant.toml", "127.0.0.1:0", address)
        told = [what for topic, what, _ in clinic.problems("lab/participant.toml") if topic == "port"]

    assert told == [f"{address} cannot be bound: Address already in use"]


def test_a_peer_that_is_away_and_a_model_without_a_pin_are_found(clinic: Clinic) -> None:
    clinic.setup("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = clinic.folder / "bank" / "initiator.toml"
    peers = f'[parties.lab]\naddress = "{address}"\n[models.credit]\nparties = ["lab"]\n'
    path.write_text(f"{path.read_text()}\n{peers}")

    found = clinic.examine("bank/initiator.toml", 9)

    by_topic = {each["topic"]: each for each in found}
    assert "nothing listens" in by_topic["peer lab"]["what"]
    assert by_topic["catalogue"]["what"] == "credit: no version is pinned"


def test_people_read_lines_with_the_fix_below(clinic: Clinic, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run(["doctor", "--config", "lab/participant.toml"])

    lines = capsys.readouterr().out.splitlines()
    position = lines.index("WARNING  models: no model is converted")
    assert lines[position + 1].strip() == "→ fedpredict model convert FILE ..."
    assert lines[-1].startswith("0 problems, 2 warnings,")


def test_a_participant_that_dials_is_told_whom_it_does_not_reach_and_who_may_not_ask(clinic: Clinic) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        clinic.edit("lab/participant.toml", 'link_listen = "127.0.0.1:0"', 'connect = "out"')
        path = clinic.folder / "lab" / "participant.toml"
        path.write_text(f'{path.read_text()}\n[initiators.shop]\naddresses = ["127.0.0.1:{port}"]\n')
        found = [each for each in clinic.examine("lab/participant.toml", 9) if each["topic"] == "initiator shop"]

    assert [each["level"] for each in found] == ["warning", "problem"]
    assert "shop is dialled, but may ask for nothing" in found[0]["what"]
    assert f"127.0.0.1:{port}" in found[1]["what"]


def test_a_party_that_dials_an_initiator_is_not_looked_for(clinic: Clinic) -> None:
    clinic.setup("init", "initiator", "bank", "--listen", "127.0.0.1:0")
    path = clinic.folder / "bank" / "initiator.toml"
    path.write_text(f'{path.read_text()}\n[parties.lab]\nconnect = "in"\n')

    found = [each for each in clinic.examine("bank/initiator.toml", 0) if each["topic"] == "peer lab"]

    assert [(each["level"], each["what"]) for each in found] == [("ok", "dials us: nothing can be asked from here")]


def of_topic(found: list[dict[str, Any]], topic: str) -> list[tuple[str, str]]:
    return [(each["level"], each["what"]) for each in found if each["topic"] == topic]


def test_leases_are_taken_where_they_are_kept(clinic: Clinic) -> None:
    found = clinic.examine("lab/participant.toml", 0)
    assert of_topic(found, "leases") == [("ok", "one was taken and given back, in the warehouse's folder")]

    shutil.rmtree(clinic.folder / "lab" / "warehouse" / ".leases")
    (clinic.folder / "lab" / "warehouse" / ".leases").write_text("a file where the folder was")
    assert [topic for topic, _, _ in clinic.problems("lab/participant.toml")] == ["leases"]


def test_a_place_for_leases_is_missed_where_there_is_none_and_a_database_that_is_away_is_a_problem(
    clinic: Clinic,
) -> None:
    hive = 'kind = "hive"\nhost = "127.0.0.1"\nport = 9\ndatabase = "d"\nauth = "none"'
    clinic.edit(
        "lab/participant.toml",
        'kind = "local"               # a folder of Parquet files, queried in this process\npath = "warehouse"',
        hive,
    )
    assert of_topic(clinic.examine("lab/participant.toml", 9), "leases")[0][0] == "warning"
    path = clinic.folder / "lab" / "participant.toml"
    plain = path.read_text()

    path.write_text(f'{plain}\n[schedule]\ntimezone = "UTC"\npeople = "0 * * * *"\n')
    problems = {topic: fix for topic, _, fix in clinic.problems("lab/participant.toml")}
    assert "[leases] url" in problems["leases"]
    assert problems["schedule"] == "see what is said about the warehouse"

    path.write_text(f'{plain}\n[leases]\nurl = "sqlite:///{clinic.folder}/no/such/folder/leases.db"\n')
    assert "leases" in {topic for topic, _, _ in clinic.problems("lab/participant.toml")}


def test_what_is_scheduled_is_told_with_how_it_ended(clinic: Clinic) -> None:
    path = clinic.folder / "lab" / "participant.toml"
    path.write_text(f'{path.read_text()}\n[schedule]\ntimezone = "UTC"\npeople = "0 * * * *"\nothers = "5 * * * *"\n')
    at = datetime(2026, 11, 27, 12, tzinfo=UTC)
    warehouse = LocalWarehouse(clinic.folder / "lab" / "warehouse")
    job, _ = ParticipantSettings.model_validate(tomllib.loads(path.read_text())).schedule.jobs
    write_run(
        warehouse,
        Run(
            job=job.name,
            due=at,
            outcome=FAILED,
            problem="no room",
            started_at=at,
            finished_at=at,
            done_due=None,
            host="h",
        ),
    )
    warehouse.close()

    unknown, other, failed, never = of_topic(clinic.examine("lab/participant.toml", 9), "schedule")

    assert unknown == ("problem", "no view people is registered, so the daemon does not start")
    assert other == ("problem", "no view others is registered, so the daemon does not start")
    assert failed[0] == "warning"
    assert "failed at 2026-11-27 12:00 UTC: no room" in failed[1]
    assert never[1].endswith("never done yet")


def test_the_tasks_of_an_initiator_are_looked_at(clinic: Clinic) -> None:
    clinic.setup("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    fresh = clinic.examine("bank/initiator.toml", 0)
    assert of_topic(fresh, "tasks") == [
        ("ok", "the database answers: none yet"),
        ("ok", "ids and results: the warehouse is readable, with 0 populations"),
    ]

    tasks = open_task_store("sqlite:///state.db", clinic.folder / "bank")
    task_id = tasks.submit(new()).task_id
    claim = tasks.claim("w")
    assert claim is not None
    tasks.settle(claim, OfflineState.WAITING, Why(problem="party lab is away, or not ready", party="lab"))
    tasks.close()
    waiting = of_topic(clinic.examine("bank/initiator.toml", 0), "tasks")

    assert waiting[0] == ("ok", "the database answers: 1 waiting")
    assert waiting[1][0] == "warning"
    assert waiting[1][1].startswith(f"task {task_id} of credit waits since ")
    assert waiting[1][1].endswith("party lab is away, or not ready")


def test_a_task_database_and_a_warehouse_that_cannot_be_used_are_problems(clinic: Clinic) -> None:
    clinic.setup("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    (clinic.folder / "bank" / "state.db").write_text("no database at all, but long enough to be looked at" * 10)
    (clinic.folder / "bank" / "warehouse").rmdir()

    problems = [(topic, fix) for topic, _, fix in clinic.problems("bank/initiator.toml") if topic == "tasks"]

    assert [fix.split(",")[0] for _, fix in problems] == ["correct `state`", "start it"]


def test_limits_of_distinct_ids_are_told_and_what_cannot_be_counted_is_a_problem(clinic: Clinic) -> None:
    load_and_convert(clinic)
    settings = "lab/participant.toml"
    clinic.edit(settings, "# distinct_ids_per_day = 10000 ", "distinct_ids_per_day = 2 ")
    folder = clinic.folder / "lab" / "distinct-ids" / "lab"

    def told(code: int) -> tuple[str, str]:
        ((level, what),) = [
            (each["level"], each["what"]) for each in clinic.examine(settings, code) if each["topic"] == "distinct ids"
        ]
        return level, what

    level, what = told(0)
    assert (level, "asked about 0 of 2 sample ids" in what) == ("ok", True)
    assert not folder.parent.exists()

    with closing(DistinctIds(folder)) as counts:
        who = CallerDay("bank", counts.today())
        new = counts.look(who, SampleIds.of([b"u1", b"u2"]), 2)
        assert new is not None
        counts.count(who, [new])
    level, what = told(0)
    assert (level, "asked about 2 of 2 sample ids" in what) == ("warning", True)
    (folder / "ids.key").unlink()
    level, what = told(9)
    assert (level, "bring it back" in what) == ("problem", True)

    shutil.rmtree(folder.parent)
    folder.parent.write_text("")
    level, what = told(9)
    assert (level, "cannot be written" in what) == ("problem", True)


def test_masked_sums_that_nobody_can_ask_for_are_found(clinic: Clinic) -> None:
    load_and_convert(clinic)
    settings = clinic.folder / "lab" / "participant.toml"
    settings.write_text(
        settings.read_text()
        .replace("# [masked.credit] ", "[masked.credit] ")
        .replace('# parties = ["post", "shop"]', 'parties = ["post", "shop"]')
    )

    def told(old: str, new: str, code: int) -> tuple[str, str]:
        clinic.edit("lab/participant.toml", old, new)
        found = clinic.examine("lab/participant.toml", code)
        ((level, what),) = [(each["level"], each["what"]) for each in found if each["topic"] == "masked sums"]
        return level, what

    level, what = told("[masked.credit]", "[masked.credit]", 0)
    assert (level, what) == ("ok", "credit leaves masked, with the masks of post, shop")
    level, what = told('parties = ["post", "shop"]', 'may_lack = ["post"]\nparties = ["post", "shop"]', 0)
    assert (level, what) == ("ok", "credit leaves masked, with the masks of post, shop; a sum may lack post")
    told('may_lack = ["post"]\nparties', "parties", 0)
    level, what = told('["post", "shop"]', '["bank", "shop"]', 9)
    assert (level, "every sum is refused" in what) == ("problem", True)
    level, what = told('models = ["*"]', 'models = ["other"]', 0)
    assert (level, "nobody may ask" in what) == ("warning", True)
    level, what = told("[masked.credit]", "[masked.credti]", 0)
    assert (level, "no such model here" in what) == ("warning", True)
