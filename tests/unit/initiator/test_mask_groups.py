"""Groups of links for masked sums: workers of all parties stand together, and a lost link takes its group away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedpredict.errors import PartyRefusedError, PartyUnavailableError
from fedpredict.initiator.masking import MaskedSums


class Link:
    """A link that is there, or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.usable = True


def sums_over(**links: list[Link]) -> Any:
    sums = cast(Any, MaskedSums({}))
    sums._remotes = {
        party: SimpleNamespace(
            pool=SimpleNamespace(masking=tuple(each), carriers={"socket": len(each)} if each else {})
        )
        for party, each in links.items()
    }
    return sums


def links_of(group: Any) -> tuple[str, ...]:
    return tuple(link.name for link in group.links.values())


async def test_every_worker_of_every_party_is_in_some_group_in_turn() -> None:
    lab, shop = [Link("lab-0"), Link("lab-1"), Link("lab-2")], [Link("shop-0"), Link("shop-1")]
    sums = sums_over(lab=lab, shop=shop)
    groups = [sums._group(("lab", "shop")) for _ in range(6)]
    assert {links_of(each) for each in groups} == {("lab-0", "shop-0"), ("lab-1", "shop-1"), ("lab-2", "shop-0")}
    assert groups[:3] == groups[3:]  # the same, with their sessions


async def test_a_link_that_is_gone_takes_its_group_and_its_sessions_away() -> None:
    lab, shop = [Link("lab-0")], [Link("shop-0")]
    sums = sums_over(lab=lab, shop=shop)
    before = sums._group(("lab", "shop"))
    lab[0].usable = False
    sums._remotes["lab"].pool.masking = (Link("lab-1"),)
    after = sums._group(("lab", "shop"))
    assert links_of(after) == ("lab-1", "shop-0")
    assert after.sessions == {}
    assert before not in sums._groups.values()


async def test_a_party_without_links_is_away_and_one_that_does_not_mask_is_told_so() -> None:
    sums = sums_over(lab=[Link("lab-0")], shop=[])
    with pytest.raises(PartyUnavailableError, match="party shop: no link"):
        sums._group(("lab", "shop"))
    sums._remotes["shop"].pool.carriers = {"socket": 1}
    with pytest.raises(PartyRefusedError, match="masks no shares"):
        sums._group(("lab", "shop"))
