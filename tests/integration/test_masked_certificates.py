"""Masked sums among parties whose certificates are denied and renewed while they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from fedpredict.model.share import SampleStatus
from fedpredict.security.identity import Identity, IdentityKind
from tests.integration.federation import Federation, eventually
from tests.integration.test_certificate_changes import Changing, is_so, serial_of, told
from tests.integration.test_masked_sums import World

pytestmark = pytest.mark.usefixtures("looking_often")


@pytest.fixture
def certificates(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "certificates")


@pytest.fixture
async def world(tmp_path: Path, certificates: Changing) -> AsyncIterator[World]:
    async with Federation(tmp_path, certificates) as federation:
        world = World(federation, ("lab", "post", "shop"))
        await world.start()
        await world.answered(b"id-0")
        yield world


def sessions_of(world: World, party: str) -> int:
    """Return how many sessions a party has."""
    return len(world.servers[party]._answers.masking._held._held)


async def becomes(world: World, status: SampleStatus) -> None:
    """Return when a sample has this status; until then it has the right number or none."""

    async def so() -> bool:
        prediction = await world.federation.predict(b"id-0")
        if prediction.status.tolist() == [SampleStatus.OK]:
            assert np.abs(prediction.predictions - world.expected[[0]]).max() <= world.error_bound
        else:
            assert np.isnan(prediction.predictions).all()
        return bool(prediction.status.tolist() == [status])

    await eventually(so)


async def test_a_participant_that_another_denies_gets_no_mask_session_until_it_has_a_new_key(
    world: World, certificates: Changing, caplog: pytest.LogCaptureFixture
) -> None:
    post = Identity(IdentityKind.PARTY, "post")
    certificates.deny("lab", certificates.of("post"))

    await is_so(lambda: bool(told(caplog, "masking.ended")))  # the session that stood
    assert all("its key is denied here" in each["reason"] for each in told(caplog, "masking.ended"))
    problem = "masked sums: a key of a party whose certificate is not accepted"

    async def is_told() -> bool:
        await becomes(world, SampleStatus.REFUSED)  # the first time as the session is over, then as none is opened
        return any(problem in str(each["reason"]) for each in told(caplog, "masking.not_opened"))

    await eventually(is_told)

    serial = certificates.renew(post)
    await becomes(world, SampleStatus.OK)
    assert serial == serial_of(certificates.of("post"))


async def test_the_sessions_of_an_initiator_that_is_denied_end_with_its_links(
    world: World, certificates: Changing
) -> None:
    assert sessions_of(world, "lab") > 0
    certificates.deny("lab", certificates.of("bank"))
    await is_so(lambda: world.servers["lab"].n_links == 0)
    assert sessions_of(world, "lab") == 0
    await becomes(world, SampleStatus.PARTY_UNAVAILABLE)
    assert sessions_of(world, "lab") == 0

    certificates.deny("lab")
    await becomes(world, SampleStatus.OK)
