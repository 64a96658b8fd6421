"""A policy that is read again: put in force as a whole, or not at all, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from fedpredict.cli.reload import PolicyReload, heeding, ignore_hangups
from fedpredict.cli.wiring import load_initiator, load_participant
from fedpredict.errors import ConfigError, WarehouseUnavailableError
from fedpredict.observe.policy import PolicyMetrics
from fedpredict.participant.policy import ParticipantPolicy
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import Identity, IdentityKind

BANK = Identity(IdentityKind.PARTY, "bank")
SETTINGS = 'party = "lab"\ninsecure = true\n{more}\n[warehouse]\npath = "w"\n'


class World:
    """A participant's settings in a folder, and the policy that they gave."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "participant.toml"
        self.write('[callers.bank]\nmodels = ["credit"]')
        running = load_participant(self.path).settings
        self.policy, self.metrics = ParticipantPolicy(running), PolicyMetrics()
        self.reload: PolicyReload[ParticipantSettings] = PolicyReload(
            running, lambda: load_participant(self.path).settings, self.policy.replace, self.metrics
        )

    def write(self, rules: str, more: str = "") -> None:
        self.path.write_text(SETTINGS.format(more=more) + rules)

    def counted(self) -> dict[tuple[str, ...], object]:
        reading = next(iter(self.metrics.read()))
        return dict(reading.values)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_good_policy_is_in_force_and_what_else_changed_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(
        '[callers.bank]\nmodels = ["churn"]\n[callers.shop]\nmodels = []\n[events]\nsenders = ["feeder"]',
        more="poll_s = 7.0",
    )

    with caplog.at_level(logging.INFO):
        await world.reload.once()

    assert world.policy.callers.may_ask(BANK, "churn")
    assert not world.policy.callers.may_ask(BANK, "credit")
    world.policy.senders.admit(Identity(IdentityKind.CLIENT, "feeder"))
    (line,) = [each for each in caplog.records if each.message == "policy.reloaded"]
    assert vars(line)["added"] == ["shop", "fedpredict://client/feeder"]
    assert vars(line)["changed"] == ["bank.models"]
    assert vars(line)["needs_restart"] == ["poll_s"]
    assert world.counted() == {("ok",): 1.0}


async def test_of_events_all_but_senders_and_limits_waits_for_a_restart(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rules = '[callers.bank]\nmodels = ["credit"]\n[events]\nsenders = ["feeder"]\n'
    limits = "[events.limits]\ncalls_per_s = 5\n"

    with caplog.at_level(logging.INFO):
        world.write(rules + limits)
        await world.reload.once()
        world.write(rules + "keep_days = 30\n" + limits)
        await world.reload.once()

    told = [vars(each)["needs_restart"] for each in caplog.records if each.message == "policy.reloaded"]
    assert told == [[], ["events"]]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ('[callers.bank]\nmodels = ["churn"]\nrows = 3', "rows"),
        ('[callers.bank]\nmodels = ["churn"]\n[callers.shop]\nmodels = ["a b"]', "[callers.shop] models"),
        ("[callers.bank", "not TOML"),
    ],
)
async def test_a_policy_with_any_mistake_leaves_all_of_the_old_one_in_force(
    world: World, caplog: pytest.LogCaptureFixture, rules: str, said: str
) -> None:
    world.write(rules)

    await world.reload.once()

    assert world.policy.callers.may_ask(BANK, "credit")
    assert not world.policy.callers.may_ask(BANK, "churn")
    (line,) = [each for each in caplog.records if each.message == "policy.refused"]
    assert said in vars(line)["reason"]
    assert world.counted() == {("refused",): 1.0}


async def test_models_that_the_party_does_not_know_are_told_and_the_policy_is_in_force(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[list[str] | Exception] = [["bank may ask for credti"], [], WarehouseUnavailableError("it is away")]

    def unknown(settings: ParticipantSettings) -> list[str]:
        assert settings.callers["bank"].models == ("credti",)
        outcome = told.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    running = load_participant(world.path).settings
    reload = PolicyReload(
        running, lambda: load_participant(world.path).settings, world.policy.replace, world.metrics, unknown
    )
    world.write('[callers.bank]\nmodels = ["credti"]')
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await reload.once()

    assert world.policy.callers.may_ask(BANK, "credti")
    lines = [each for each in caplog.records if each.message.startswith("policy.")]
    reloaded, unknown_models, not_checked = "policy.reloaded", "policy.unknown_models", "policy.models_not_checked"
    assert [each.message for each in lines] == [reloaded, unknown_models, reloaded, reloaded, not_checked]
    assert (lines[1].levelname, vars(lines[1])["unknown"]) == ("WARNING", ["bank may ask for credti"])
    assert "it is away" in vars(lines[4])["reason"]
    assert world.counted() == {("ok",): 3.0}


async def test_a_warehouse_that_does_not_answer_holds_no_further_reload_up(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpredict.cli.reload.UNKNOWN_S", 0.01)
    asked = threading.Event()
    running = load_participant(world.path).settings
    reload = PolicyReload(
        running, lambda: running, world.policy.replace, world.metrics, lambda _: [str(asked.wait(30.0))]
    )
    try:
        with caplog.at_level(logging.INFO):
            await reload.once()
            await reload.once()
    finally:
        asked.set()

    assert caplog.messages == ["policy.reloaded", "policy.models_not_checked"] * 2


async def test_a_defect_is_logged_and_the_next_reload_works(world: World, caplog: pytest.LogCaptureFixture) -> None:
    running = load_participant(world.path).settings
    outcomes: list[Exception | ParticipantSettings] = [RuntimeError("a defect"), running]

    def read() -> ParticipantSettings:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    reload = PolicyReload(running, read, world.policy.replace, world.metrics)
    await reload.once()
    await reload.once()

    assert "policy.failed" in caplog.messages
    assert world.counted() == {("refused",): 1.0, ("ok",): 1.0}


async def test_what_changed_while_the_process_started_is_taken_and_no_change_is_no_news(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await world.reload.once(at_start=True)
        assert caplog.messages == []
        world.write('[callers.bank]\nmodels = ["churn"]')
        await world.reload.once(at_start=True)

    assert caplog.messages == ["policy.reloaded"]
    assert world.policy.callers.may_ask(BANK, "churn")


async def test_a_signal_has_the_policy_read_again_and_one_at_the_end_does_no_harm(world: World) -> None:
    before, began, done = signal.getsignal(signal.SIGHUP), asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        began.set()
        await done.wait()

    try:
        ignore_hangups()
        serving = asyncio.create_task(heeding(serve(), lambda: world.reload))
        await began.wait()
        world.write('[callers.bank]\nmodels = ["churn"]')
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(30):
            while not world.policy.callers.may_ask(BANK, "churn"):
                await asyncio.sleep(0.01)
        done.set()
        await serving
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("name", "table", "load"),
    [("participant.toml", "callers", load_participant), ("initiator.toml", "clients", load_initiator)],
)
def test_rules_may_stand_in_a_file_of_their_own_and_then_only_there(
    tmp_path: Path, name: str, table: str, load: partial[object]
) -> None:
    settings, rules = tmp_path / name, f'[{table}.bank]\nmodels = ["credit"]\n'
    more = '[warehouse]\npath = "w"\n' if name == "participant.toml" else ""
    settings.write_text(f'party = "lab"\ninsecure = true\npolicy = "rules.toml"\n{more}')
    (tmp_path / "rules.toml").write_text(rules)

    loaded = load(settings)

    assert list(getattr(loaded.settings, table)) == ["bank"]  # type: ignore[attr-defined]
    (tmp_path / "rules.toml").write_text(rules + "poll_s = 1\n")
    with pytest.raises(ConfigError, match=r"poll_s in rules\.toml"):
        load(settings)
    settings.write_text(settings.read_text() + rules)
    with pytest.raises(ConfigError, match="there can be none here"):
        load(settings)
