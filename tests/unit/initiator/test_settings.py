"""What a configuration of an initiator must say, and what is refused with which words."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedpredict.cli.config_file import load_settings
from fedpredict.errors import ConfigError
from fedpredict.initiator.settings import InitiatorSettings, PinMode, PolicyName
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link

WHOLE = """
party = "bank"
listen = "0.0.0.0:7440"
state = "sqlite:///pins.db"
deadline_s = 1.5
max_samples = 500
poll_s = 2
drain_s = 3
keep_versions = 4

[tls]
ca = "certs/ca.pem"
certificate = "certs/bank.pem"
key = "certs/bank.key"

[warehouse]
path = "warehouse"

[parties.lab]
address = "lab.example:7443"

[models.credit]
parties = ["bank", "lab"]
policy = "default_partial"
pin = "manual"
deadline_s = 0.5

[models.credit.defaults]
lab = [0.25]

[models.credit.simulate]
kind = "multinomial"
classes = ["a", "b", "c"]
n_scores = 3

[models.churn]
parties = ["bank", "lab"]
policy = "fallback_model"
fallback_model = "own"

[models.own]
parties = ["bank"]

[clients.risk]
models = ["credit", "churn"]

[clients.desk]
models = ["*"]
kind = "client"

[log]
level = "debug"
"""


@pytest.fixture
def content() -> dict[str, Any]:
    return tomllib.loads(WHOLE)


def put(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    *folders, name = path.split("/")
    inner = changed
    for folder in folders:
        inner = inner.setdefault(folder, {})
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return changed


def test_a_whole_file_is_read(content: dict[str, Any]) -> None:
    settings = InitiatorSettings.model_validate(content)
    credit = settings.models["credit"]
    assert (credit.policy, credit.pin, credit.deadline_s) == (PolicyName.DEFAULT_PARTIAL, PinMode.MANUAL, 0.5)
    assert credit.defaults == {"lab": (0.25,)}
    assert credit.simulate is not None
    assert credit.simulate.kind is Kind.MULTINOMIAL
    assert credit.simulate.link is None
    assert settings.models["own"].policy is PolicyName.FAIL
    assert settings.models["own"].pin is PinMode.FIRST


def test_a_link_is_written_as_a_text(content: dict[str, Any]) -> None:
    simulate = {"kind": "linear", "classes": [], "link": "power:0.5"}
    content["models"]["credit"]["simulate"] = simulate
    read = InitiatorSettings.model_validate(content).models["credit"].simulate
    assert read is not None
    assert read.link == Link("power", 0.5)


def test_the_smallest_file_has_safe_defaults(content: dict[str, Any]) -> None:
    settings = InitiatorSettings.model_validate({"party": "bank", "tls": content["tls"]})
    assert settings.listen == "127.0.0.1:7440"
    assert settings.insecure is False
    assert settings.deadline_s == 2.0
    assert dict(settings.clients) == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tls", None, "tls: needed"),
        ("insecure", True, "insecure = true is for loopback only, but listen is 0.0.0.0:7440"),
        ("party", "Bank", "not a party id"),
        ("listen", "7440", "write host:port"),
        ("listen", "localhost:70000", "write host:port"),
        ("deadline_s", 0, "greater than 0"),
        ("max_samples", 0, "greater than or equal to 1"),
        ("max_samples", 10**9, "less than or equal to 100000"),
        ("parties/bank", {"address": "x:1"}, "own party needs no address"),
        ("parties/lab", {"adress": "x:1"}, "adress"),
        ("parties/lab", {}, "write either address, or connect"),
        ("parties/lab", {"address": "x:1", "connect": "in"}, "write either address, or connect"),
        ("parties/lab", {"connect": "out"}, "'in'"),
        ("parties/lab", {"address": "x:1", "compression": "lz4"}, "compression"),
        ("link_listen", "7441", "write host:port"),
        ("models/credit/parties", ["bank", "lab", "shop"], r"models.credit.parties: shop is not under \[parties\]"),
        ("models/credit/parties", [], "at least 1 item"),
        ("models/credit/parties", ["lab", "lab"], "listed twice"),
        ("models/cre dit", {"parties": ["lab"]}, "not a model id"),
        ("models/credit/defaults", None, 'defaults: needed by policy = "default_partial"'),
        ("models/own/defaults", {"bank": [0.0]}, "used by no other policy"),
        ("models/credit/defaults", {"shop": [0.0]}, "defaults: shop holds no part"),
        ("models/credit/defaults", {"lab": []}, "at least 1 item"),
        ("models/credit/defaults", {"lab": [0.0], "bank": [0.0, 1.0]}, "differ in width"),
        ("models/credit/defaults", {"lab": [float("nan")]}, "finite"),
        ("models/churn/fallback_model", None, "fallback_model: needed by"),
        ("models/churn/fallback_model", "nosuch", "nosuch must be a model under"),
        ("models/churn/fallback_model", "credit", "whose only party is bank"),
        ("models/own/fallback_model", "own", "used by no other policy"),
        ("models/credit/simulate/n_scores", 2, "needs 3 scores"),
        ("models/credit/simulate/link", "log", "a multinomial model cannot have the link log; it may have softmax"),
        ("models/credit/simulate/link", "loglog", "unknown link 'loglog'"),
        ("models/credit/simulate/link", 2, "write a link as a text"),
        ("models/credit/policy", "guess", "default_partial"),
        ("warehouse", None, r"\[warehouse\] is needed"),
        ("clients/risk", {"models": ["no such"]}, "not a model id"),
        ("clients/risk", {"models": ["credit"], "kind": "robot"}, "client"),
        ("log/level", "loud", "debug"),
        ("polls", 3, "polls"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(content: dict[str, Any], path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InitiatorSettings.model_validate(put(content, path, value))


def test_plain_text_is_for_loopback_at_both_ends(content: dict[str, Any]) -> None:
    local = put(put(put(content, "tls", None), "insecure", True), "listen", "127.0.0.1:7440")
    with pytest.raises(ValidationError, match=r"but parties.lab.address is lab.example:7443"):
        InitiatorSettings.model_validate(local)
    settings = InitiatorSettings.model_validate(put(local, "parties/lab/address", "localhost:7443"))
    assert settings.insecure


def test_settings_do_not_change(content: dict[str, Any]) -> None:
    settings = InitiatorSettings.model_validate(content)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "insecure", True)  # noqa: B010  mypy knows that it must not


@pytest.mark.parametrize("http_listen", ["0.0.0.0:7480", "bank.example:7480", None])
def test_plain_http_stays_on_loopback(http_listen: str | None) -> None:
    content = tomllib.loads(WHOLE) | {"http_insecure": True, "http_listen": http_listen}

    with pytest.raises(
        ValidationError, match=f"http_insecure = true is for loopback only, but http_listen is {http_listen}"
    ):
        InitiatorSettings.model_validate(content)


def test_plain_http_on_loopback_goes_with_tls_everywhere_else() -> None:
    content = tomllib.loads(WHOLE) | {"http_insecure": True, "http_listen": "127.0.0.1:7480"}

    settings = InitiatorSettings.model_validate(content)

    assert (settings.http_insecure, settings.insecure) == (True, False)
    assert settings.tls is not None


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('state = "postgresql+psycopg://ada:geheim@db.example/state"', "state_password_file"),
        ('state = "postgresql+psycopg://ada@db.example/state?password=geheim"', "state_password_file"),
        ('[store]\nkind = "redis"\nurl = "rediss://:geheim@redis.example"', "password_file"),
    ],
)
def test_a_password_in_the_url_of_the_state_is_refused_and_not_repeated(tmp_path: Path, line: str, key: str) -> None:
    file = tmp_path / "initiator.toml"
    file.write_text(f'party = "bank"\ninsecure = true\n{line}\n')
    with pytest.raises(ConfigError, match=key) as raised:
        load_settings(file, InitiatorSettings, prefix="X_", environment={})
    assert "geheim" not in f"{raised.value} {getattr(raised.value, '__notes__', '')}"
