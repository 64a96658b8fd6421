"""The whole job as its users do it: three organisations, processes of their own, mutual TLS, scikit-learn as truth."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedpredict.client import Client, TlsFiles

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PARTIES = ("hospital", "lab", "imaging")


@dataclass
class Federation:
    """Three parties at work.

    Attributes:
        shop: Where they live.
        daemons: By party.
        ids: Patients.
        expected: Shape (n_patients,): scikit-learn's probability of class 1, on the joined table.
    """

    shop: Workshop
    daemons: dict[str, Daemon]
    ids: list[str]
    expected: Any

    @property
    def tls(self) -> TlsFiles:
        certs = self.shop.folder / "hospital" / "certs"
        return TlsFiles(certs / "ca.pem", certs / "risk-system.pem", certs / "risk-system.key")

    def predict(self, *words: object) -> Any:
        return self.shop.json("predict", "--config", "hospital/client.toml", "--model", "cancer", *words)


@pytest.fixture(scope="module")
def federation(shared_workshop: Workshop) -> Federation:
    """Do the README's job, command by command, up to three running daemons."""
    shop = shared_workshop
    data = load_breast_cancer(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target)
    joblib.dump(model, shop.folder / "joint.joblib")
    data.data.head(20).to_csv(shop.folder / "joint.csv", index=False)
    names, ids = list(data.data.columns), [f"p{row}" for row in range(len(data.data))]
    owned = dict(zip(PARTIES, (names[:10], names[10:20], names[20:]), strict=True))
    for party, columns in owned.items():
        table = pa.table({"patient": ids, **{name: data.data[name].to_numpy() for name in columns}})
        pa.csv.write_csv(table, shop.folder / f"{party}.csv")
        (shop.folder / f"{party}.columns").write_text("\n".join(columns))

    shop.run("certs", "ca", "ca")
    shop.run("init", "initiator", "hospital", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    for party in PARTIES[1:]:
        shop.run("init", "participant", party, "--initiator", "hospital", "--listen", "127.0.0.1:0")
    shop.run(
        *("model", "split", "joint.joblib", "--intercept", "hospital", "--model-id", "cancer"),
        *("--training-run", "run-1", "--rows", "joint.csv"),
        *[word for party in PARTIES for word in ("--party", f"{party}=@{party}.columns")],
        *("--out", "parts"),
    )
    daemons: dict[str, Daemon] = {}
    for party in PARTIES:
        config = settings_of(party)
        shop.run("features", "load", f"{party}.csv", "--view", "patients", "--key", "patient", "--config", config)
        shop.run("model", "convert", f"parts/{party}.pkl", "--config", config)
        shop.run("task", "score", "--buckets", "2", "--config", config)
        if party != "hospital":
            daemons[party] = shop.start(party, "participant", "serve", "--config", config)
    extend_initiator(shop, {party: daemon.address for party, daemon in daemons.items()})
    daemons["hospital"] = shop.start("hospital", "initiator", "serve", "--config", "hospital/initiator.toml")
    write_client(shop, daemons["hospital"].address)
    made = Federation(shop, daemons, ids, model.predict_proba(data.data)[:, 1])
    daemons["hospital"].wait_serving("hospital", made.tls, "model/cancer")
    return made


def settings_of(party: str) -> str:
    return "hospital/initiator.toml" if party == "hospital" else f"{party}/participant.toml"


def extend_initiator(shop: Workshop, addresses: dict[str, str]) -> None:
    path = shop.folder / "hospital" / "initiator.toml"
    lines = [f'[parties.{party}]\naddress = "{address}"' for party, address in addresses.items()]
    lines += ["[models.cancer]", f"parties = {list(PARTIES)}"]
    text = path.read_text().replace("poll_s = 5.0", "poll_s = 0.2")
    path.write_text("\n".join([text, *lines, ""]))


def write_client(shop: Workshop, address: str) -> None:
    path = shop.folder / "hospital" / "client.toml"
    path.write_text(path.read_text().replace("127.0.0.1:0", address))


def test_every_patients_prediction_is_scikit_learns(federation: Federation) -> None:
    federation.shop.run(
        *("predict", "--config", "hospital/client.toml", "--model", "cancer", "--in", "lab.csv"),
        *("--id-column", "patient", "--out", "answers.parquet"),
    )

    answers = pa.parquet.read_table(federation.shop.folder / "answers.parquet")
    assert answers.column("sample_id").to_pylist() == federation.ids
    np.testing.assert_allclose(answers.column("prediction").to_numpy(), federation.expected, rtol=0.0, atol=1e-12)


def test_shares_that_were_stored_ahead_give_the_same(federation: Federation) -> None:
    federation.shop.run(
        *("predict", "--config", "hospital/client.toml", "--model", "cancer", "--in", "lab.csv", "--mode", "offline"),
        *("--id-column", "patient", "--out", "stored.parquet"),
    )
    shown = federation.shop.json("shares", "show", "--check", "--config", settings_of("lab"))
    listed = federation.shop.json("shares", "list", "--config", settings_of("lab"))

    answers = pa.parquet.read_table(federation.shop.folder / "stored.parquet")
    np.testing.assert_allclose(answers.column("prediction").to_numpy(), federation.expected, rtol=0.0, atol=1e-12)
    assert (shown[0]["scored"], shown[0]["buckets_done"]) == (len(federation.ids), 2)
    assert shown[0]["damaged_buckets"] == []
    assert [each["model"] for each in listed] == ["cancer"]


def test_the_python_client_gets_the_same(federation: Federation) -> None:
    with Client(
        federation.daemons["hospital"].address, server_party="hospital", tls=federation.tls, chunk_size=100
    ) as client:
        predictions = client.predict("cancer", federation.ids)

    np.testing.assert_allclose(predictions.values[:, 0], federation.expected, rtol=0.0, atol=1e-12)
    assert [answer.party for answer in predictions.parties] == sorted(PARTIES)


def test_an_unknown_patient_gets_a_status_with_reasons_and_no_number(federation: Federation) -> None:
    answer = federation.predict("p0", "nobody", "")["samples"]

    assert [each["status"] for each in answer] == ["ok", "not_found", "id_invalid"]
    assert answer[0]["prediction"] == [pytest.approx(federation.expected[0], abs=1e-12)]
    assert [each["prediction"] for each in answer[1:]] == [None, None]
    assert {reason["party"] for reason in answer[1]["reasons"]} == set(PARTIES)


def test_an_unknown_model_is_five_and_told_with_the_nearest(federation: Federation) -> None:
    done = federation.shop.attempt("predict", "--config", "hospital/client.toml", "--model", "cancre", "p0")

    assert done.returncode == 5
    assert "did you mean cancer?" in done.stderr


def test_the_models_are_listed_as_ready(federation: Federation) -> None:
    listed = federation.shop.json("models", "--config", "hospital/client.toml")

    assert [(each["model_id"], each["ready"], each["parties"]) for each in listed] == [
        ("cancer", True, sorted(PARTIES))
    ]


@pytest.mark.parametrize("party", PARTIES)
def test_the_doctor_finds_nothing(party: str, federation: Federation) -> None:
    found = federation.shop.json("doctor", "--config", settings_of(party))

    assert [each for each in found if each["level"] == "problem"] == []
    assert {"settings", "certificates", "warehouse", "features", "models", "port", "clock"} <= {
        each["topic"] for each in found
    }


def test_partial_scores_of_both_engines_are_the_same(federation: Federation) -> None:
    in_process, in_engine = (
        federation.shop.json("score", "--model", "cancer", "--engine", engine, "--config", settings_of("lab"))
        for engine in ("numpy", "warehouse")
    )

    assert [each["sample_id"] for each in in_process] == [each["sample_id"] for each in in_engine]
    np.testing.assert_allclose(
        [each["score"] for each in in_process], [each["score"] for each in in_engine], rtol=0.0, atol=1e-11
    )


def test_the_catalogue_shows_the_first_pin(federation: Federation) -> None:
    listed = federation.shop.json("catalogue", "list", "--config", "hospital/initiator.toml")

    assert [(each["model_id"], each["state"]) for each in listed] == [("cancer", "pinned")]


def test_a_second_server_on_the_port_is_refused(federation: Federation) -> None:
    path = federation.shop.folder / "lab" / "second.toml"
    settings = (federation.shop.folder / "lab" / "participant.toml").read_text()
    path.write_text(settings.replace('\nlisten = "127.0.0.1:0"', f'\nlisten = "{federation.daemons["lab"].address}"'))

    done = federation.shop.attempt("participant", "serve", "--config", path)

    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: listen:")


def test_no_log_holds_a_sample_id_or_a_score(federation: Federation) -> None:
    federation.predict("p568", "nobody-knows-me")

    logs = "".join(daemon.log.read_text() for daemon in federation.daemons.values())
    assert "score.done" in logs
    assert "p568" not in logs
    assert "nobody-knows-me" not in logs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_with_zero(number: int, workshop: Workshop) -> None:
    workshop.run("init", "participant", "lab", "--listen", "127.0.0.1:0")
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    participant = workshop.start("lab", "participant", "serve", "--config", "lab/participant.toml")
    initiator = workshop.start("bank", "initiator", "serve", "--config", "bank/initiator.toml")

    assert [participant.stop(number), initiator.stop(number)] == [0, 0]


def test_what_init_writes_runs_as_it_is(workshop: Workshop) -> None:
    workshop.run("init", "participant", "lab", "--listen", "127.0.0.1:0")
    daemon = workshop.start("lab", "participant", "serve", "--config", "lab/participant.toml")
    certs = workshop.folder / "lab" / "certs"

    daemon.wait_serving("lab", TlsFiles(certs / "ca.pem", certs / "lab.pem", certs / "lab.key"))


def test_a_simulating_initiator_answers_without_partners_and_says_so(workshop: Workshop) -> None:
    workshop.run("init", "initiator", "bank", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    path = workshop.folder / "bank" / "initiator.toml"
    peers = '[parties.lab]\naddress = "127.0.0.1:1"\n[models.credit]\nparties = ["bank", "lab"]\n'
    path.write_text(f"{path.read_text()}\n{peers}")
    daemon = workshop.start("bank", "initiator", "serve", "--simulate", "--config", "bank/initiator.toml")

    done = workshop.attempt(
        *("predict", "--config", "bank/client.toml", "--server", daemon.address, "--model", "credit", "u1", "--json")
    )

    assert done.returncode == 0
    assert '"simulated": true' in done.stdout
    assert "SIMULATED" in done.stderr
