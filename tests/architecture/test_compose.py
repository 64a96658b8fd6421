"""deploy/compose.yaml describes servers that the settings beside it reach: nothing here starts Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from fedpredict.cli.wiring import load_initiator, load_participant

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = ("redis", "postgres", "hive", "spark")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(content) == {"name", "services", "secrets", "volumes"}
    return dict(content)


def published(compose: dict[str, Any], service: str) -> int:
    """The one port of a service, on the host."""
    (port,) = compose["services"][service]["ports"]
    match = re.fullmatch(r"127\.0\.0\.1:(\d+):(\d+)", port)
    assert match, f"{service} is open beyond loopback"
    return int(match[1])


def test_it_has_the_servers_that_scripts_services_starts(compose: dict[str, Any]) -> None:
    script = (DEPLOY.parent / "scripts/services").read_text()
    started = re.findall(r'^    "(\w+)": Server\(', script, re.MULTILINE)
    assert sorted(compose["services"]) == sorted(started) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_server_is_pinned_checked_and_on_loopback(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert re.fullmatch(r"[a-z/]+:\d+(\.\d+)*", service["image"])
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries"}
    assert published(compose, name)
    for volume in service.get("volumes", []):
        assert volume.partition(":")[0] in compose["volumes"]
    for secret in service.get("secrets", []):
        assert secret in compose["secrets"]
    # a password is read where it is needed, and stands nowhere in the file
    assert not re.search(r"PASSWORD: |--requirepass [^\"]", str(yaml.safe_dump(service)))


def test_ports_of_different_servers_differ(compose: dict[str, Any]) -> None:
    assert len({published(compose, name) for name in SERVICES}) == len(SERVICES)


def test_a_participant_reaches_its_warehouse_and_its_store(compose: dict[str, Any]) -> None:
    loaded = load_participant(DEPLOY / "compose/participant.toml")
    warehouse, store = loaded.settings.warehouse, loaded.settings.store
    assert warehouse.port in (published(compose, "hive"), published(compose, "spark"))
    assert urlsplit(str(store.url)).port == published(compose, "redis")
    assert loaded.base / str(store.password_file) == DEPLOY / compose["secrets"]["redis_password"]["file"]
    assert "--maxmemory-policy noeviction" in str(compose["services"]["redis"]["command"])


def test_an_initiator_reaches_its_state_and_the_participant(compose: dict[str, Any]) -> None:
    loaded = load_initiator(DEPLOY / "compose/initiator.toml")
    state, environment = urlsplit(loaded.settings.state), compose["services"]["postgres"]["environment"]
    assert state.port == published(compose, "postgres")
    assert (state.username, state.path) == (environment["POSTGRES_USER"], f"/{environment['POSTGRES_DB']}")
    assert loaded.base / str(loaded.settings.state_password_file) == (
        DEPLOY / compose["secrets"]["state_password"]["file"]
    )
    participant = load_participant(DEPLOY / "compose/participant.toml").settings
    assert loaded.settings.parties[participant.party].address == participant.listen
    assert loaded.settings.party in participant.callers
