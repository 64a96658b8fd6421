"""What an operator gets for bad model files, settings, certificates and requests, at the command line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from fedpredict.security import certs
from fedpredict.security.identity import Identity, IdentityKind

if TYPE_CHECKING:
    from tests.e2e.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LAB = "lab/participant.toml"
GOOD: dict[str, Any] = {
    "format": "fedpredict-partial-1",
    "model_id": "credit",
    "training_run": "run-1",
    "party": "lab",
    "kind": "binary",
    "classes": ["no", "yes"],
    "fit_intercept": True,
    "features": ["age", "income"],
    "weights": [-0.25, 0.5],
    "intercept": [0.125],
}
LONG_AGO = datetime.now(UTC) - timedelta(days=60)


@pytest.fixture(scope="module")
def shop(shared_workshop: Workshop) -> Workshop:
    """A laboratory with features and version 1 of a model."""
    shop = shared_workshop
    shop.run("init", "participant", "lab", "--no-certs")
    (shop.folder / "people.csv").write_text("id,age,income\nu1,40,2\nu2,20,4\n")
    shop.run("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", LAB)
    (shop.folder / "good.json").write_text(json.dumps(GOOD))
    shop.run("model", "convert", "good.json", "--config", LAB)
    return shop


def stored(shop: Workshop) -> dict[str, str]:
    """Everything that stands in the laboratory's warehouse: path -> digest of the content."""
    files = [path for path in (shop.folder / "lab" / "warehouse").rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(shop: Workshop, code: int, *words: object) -> str:
    """Run a command that must end with `code`; return the one line that it says."""
    done = shop.attempt(*words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


ATTACKED = Path(tempfile.gettempdir()) / f"fedpredict-attacked-{os.getpid()}"


class Attack:
    """Leaves a file behind when it is unpickled."""

    @override
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {ATTACKED}",)


def portable(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


MODEL_FILES: dict[str, tuple[bytes, str]] = {
    "truncated": (pickle.dumps(GOOD)[:-40], "the file is damaged"),
    "malicious": (pickle.dumps(Attack()), r"the file holds posix\.system; supported are"),
    "empty": (b"", "the file is empty"),
    "text": (b"hello, I am a text\n", "neither a pickle nor a portable partial model"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a pickle nor a portable partial model"),
    "zero-features": (portable(features=[], weights=[]), "the portable model has no features"),
    "no-classes": (portable(classes=[]), "a binary model needs its classes, but none are given"),
    "repeated-classes": (portable(classes=["no", "no"]), "repeated classes: no"),
    "three-classes-one-score": (
        portable(kind="multinomial", classes=["a", "b", "c"]),
        "a multinomial model of 3 classes needs 3 scores a sample, not 1",
    ),
    "binary-of-three": (portable(classes=["a", "b", "c"]), "a binary model with 3 classes"),
    "nan-weight": (portable(weights=[float("nan"), 0.5]), "the JSON text holds NaN; every number of a model is finite"),
    "unknown-feature": (portable(features=["age", "incme"]), r"'incme' \(the nearest is 'income'\)"),
}


@pytest.mark.parametrize("kind", MODEL_FILES)
def test_a_bad_model_file_is_told_in_a_line_that_names_it_and_nothing_is_written(kind: str, shop: Workshop) -> None:
    content, told = MODEL_FILES[kind]
    file = shop.folder / f"{kind}.model"
    file.write_bytes(content)
    before = stored(shop)

    line = refused(shop, 4, "model", "convert", file.name, "--config", LAB)

    if kind != "unknown-feature":  # that file was read, and it is the view that it does not fit
        assert line.startswith(f"{file.name}: ")
    assert re.search(told, line), line
    assert stored(shop) == before
    assert not ATTACKED.exists()


def test_a_model_file_of_two_gigabytes_is_refused_by_its_size(shop: Workshop) -> None:
    file = shop.folder / "large.pkl"
    file.touch()
    os.truncate(file, 2 * 2**30)
    before = stored(shop)

    line = refused(shop, 4, "model", "convert", file.name, "--config", LAB)

    assert line.startswith("large.pkl: the file has 2147483648 bytes; the limit is 536870912: make the model smaller")
    assert stored(shop) == before


def test_a_model_of_one_feature_is_converted_and_scored(workshop: Workshop) -> None:
    workshop.run("init", "participant", "lab", "--no-certs")
    (workshop.folder / "people.csv").write_text("id,age\nu1,40\n")
    (workshop.folder / "one.json").write_bytes(portable(features=["age"], weights=[-0.25]))
    workshop.run("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", LAB)
    workshop.run("model", "convert", "one.json", "--config", LAB)

    rows = workshop.json("score", "--model", "credit", "--config", LAB, "u1")

    assert [(each["sample_id"], each["status"], each["score"]) for each in rows] == [("u1", "ok", 0.125 - 10.0)]


MISSPELT = {
    "participant": (
        'party = "lab"\npol_s = 5.0\ninsecure = true\n[warehouse]\npath = "w"\n',
        ("participant", "serve", "--config", "participant.toml"),
        "unknown key pol_s in participant.toml; did you mean poll_s?",
    ),
    "participant-table": (
        'party = "lab"\ninsecure = true\n[warehouse]\npaht = "w"\n',
        ("features", "list", "--config", "participant.toml"),
        "unknown key [warehouse] paht in participant.toml; did you mean path?",
    ),
    "initiator": (
        'party = "bank"\ninsecure = true\ndedline_s = 1.0\n',
        ("initiator", "serve", "--config", "initiator.toml"),
        "unknown key dedline_s in initiator.toml; did you mean deadline_s?",
    ),
    "initiator-table": (
        'party = "bank"\ninsecure = true\n[models.credit]\npartys = ["bank"]\n',
        ("catalogue", "list", "--config", "initiator.toml"),
        "unknown key [models.credit] partys in initiator.toml; did you mean parties?",
    ),
    "client": (
        'server = "127.0.0.1:7440"\nserver_prty = "bank"\n',
        ("predict", "--config", "client.toml", "--model", "credit", "u1"),
        "unknown key server_prty in client.toml; did you mean server_party?",
    ),
}


@pytest.mark.parametrize("kind", MISSPELT)
def test_a_misspelt_key_is_named_with_the_nearest_right_one_and_nothing_starts(kind: str, workshop: Workshop) -> None:
    content, words, told = MISSPELT[kind]
    file = workshop.folder / words[words.index("--config") + 1]
    file.write_text(content)

    done = workshop.attempt(*words)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[0] == f"error: {told}"
    assert [path.name for path in workshop.folder.iterdir()] == [file.name]


def test_bad_certificates_of_ones_own_are_named_and_nothing_starts(workshop: Workshop) -> None:
    folder = workshop.folder
    old = certs.create_ca(folder / "ca", "test CA", now=LONG_AGO)
    other = certs.create_ca(folder / "other", "another CA")
    lab, desk = Identity(IdentityKind.PARTY, "lab"), Identity(IdentityKind.CLIENT, "desk")
    for name, ca, days in (("expired", old, 10), ("stranger", other, 100)):
        now = LONG_AGO if name == "expired" else None
        for identity in (lab, desk):
            files = certs.issue(ca, identity, folder / name / "made", days=days, now=now)
            for path in (files.certificate, files.key):
                path.rename(folder / name / path.name)
        (folder / name / "ca.pem").write_bytes(old.certificate.read_bytes())
    certs.issue(old, Identity(IdentityKind.PARTY, "mallory"), folder / "another")
    (folder / "another" / "mallory.pem").rename(folder / "another" / "lab.pem")
    (folder / "another" / "mallory.key").rename(folder / "another" / "lab.key")
    told = {
        "expired": (8, "expired/lab.pem: expired at"),
        "stranger": (8, "stranger/lab.pem: the CA does not vouch for it"),
        "another": (3, "tls.certificate is of party mallory, and party is lab"),
    }
    for name, (code, text) in told.items():
        (folder / "participant.toml").write_text(
            f'party = "lab"\nlisten = "127.0.0.1:0"\n[warehouse]\npath = "w"\n[tls]\nca = "{name}/ca.pem"\n'
            f'certificate = "{name}/lab.pem"\nkey = "{name}/lab.key"\n'
        )
        assert text in refused(workshop, code, "participant", "serve", "--config", "participant.toml")
    server = ("--server", "127.0.0.1:1", "--server-party", "bank")
    for name in ("expired", "stranger"):
        ours = ("--ca", f"{name}/ca.pem", "--cert", f"{name}/desk.pem", "--key", f"{name}/desk.key")
        assert f"{name}/desk.pem: " in refused(workshop, 8, "predict", *server, *ours, "--model", "m", "u1")


def test_bad_requests_end_with_four_or_five_and_a_line(workshop: Workshop) -> None:
    (workshop.folder / "initiator.toml").write_text(
        'party = "bank"\nlisten = "127.0.0.1:0"\ninsecure = true\nmax_samples = 3\n'
        '[parties.lab]\naddress = "127.0.0.1:1"\n[models.credit]\nparties = ["lab"]\n'
        '[clients.local]\nmodels = ["*"]\n'
    )
    daemon = workshop.start("bank", "initiator", "serve", "--simulate", "--config", "initiator.toml")
    ask = ("predict", "--insecure", "--server", daemon.address, "--model")
    (workshop.folder / "none.csv").write_text("id\n")

    assert refused(workshop, 4, *ask, "credit").startswith("name sample ids, or a file of them")
    assert refused(workshop, 4, *ask, "credit", "--in", "none.csv", "--id-column", "id")
    assert "the limit is 3" in refused(workshop, 4, *ask, "credit", "u1", "u2", "u3", "u4")
    assert "did you mean credit?" in refused(workshop, 5, *ask, "credti", "u1")
    assert "is not a model id" in refused(workshop, 4, *ask, "credit; DROP TABLE", "u1")
    rows = workshop.json(*ask, "credit", "u1", "", "u1")["samples"]
    assert [row["status"] for row in rows] == ["ok", "id_invalid", "ok"]
    assert rows[1]["prediction"] is None
    assert daemon.stop() == 0
