from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedpredict.errors import InputError, PopulationRefusedError, ProtocolError, TooManySamplesError
from fedpredict.model.buckets import buckets_of
from fedpredict.model.populations import PopulationRows, buckets_for, digest_of, in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import BucketDelta, BucketIds, PopulationNotice, PopulationState, delta_of
from fedpredict.participant import populations
from fedpredict.participant.acceptance import accept, revoke
from fedpredict.participant.populations import StandingPopulations
from fedpredict.participant.settings import CallerSettings, PopulationSettings
from fedpredict.tables.populations import bucket_sizes, known_buckets, list_versions, remove_versions, write_version
from fedpredict.warehouse.local import LocalWarehouse

PEOPLE = [b"u%d" % number for number in range(40)]
N_BUCKETS = 4


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


class Lab:
    """A participant that takes populations, and what an initiator sends it."""

    def __init__(self, folder: Path, **settings: int) -> None:
        folder.mkdir()
        self.warehouse = LocalWarehouse(folder)
        self.clock = Clock()
        self.settings = PopulationSettings(**settings)
        self.taken = self.process()

    def process(self, *, accepts: bool = False) -> StandingPopulations:
        callers = {"bank": CallerSettings(models=("*",), accept_populations=accepts)}
        return StandingPopulations(self.warehouse, self.settings, callers, poll_s=5.0, now=self.clock)

    def send(self, version: int, ids: list[bytes], *, to: StandingPopulations | None = None) -> PopulationState | None:
        taken = to or self.taken
        notice = notice_of(version, ids)
        for bucket in taken.notice("bank", notice).missing:
            taken.put("bank", put_of(version, ids, bucket))
        return taken.notice("bank", notice).state

    def ids(self, version: int, ids: list[bytes], bucket: int = 1, first: int = 0, rows: int = 0) -> list[bytes]:
        part = cut(ids)[bucket]
        asked = PopulationRows(
            population="p", version=version, bucket_sha256=digest_of(part), first=first, rows=rows or len(part)
        )
        found, digest = self.taken.ids("bank", asked, bucket, N_BUCKETS)
        assert digest == digest_of(SampleIds.of(list(found)))
        return list(found)


def cut(ids: list[bytes]) -> list[SampleIds]:
    """Return buckets of ids."""
    ordered = list(in_order(SampleIds.of(ids)))
    numbers = buckets_of(ordered, N_BUCKETS).tolist()
    of_bucket = [[each for each, at in zip(ordered, numbers, strict=True) if at == bucket] for bucket in range(4)]
    return [SampleIds.of(each) for each in of_bucket]


def most(rows: int) -> Callable[[int], None]:
    """Return what refuses more rows."""

    def check(n_rows: int) -> None:
        if n_rows > rows:
            raise TooManySamplesError(f"{n_rows} rows", limit=rows)

    return check


def notice_of(version: int, ids: list[bytes], population: str = "p") -> PopulationNotice:
    digests = tuple(map(digest_of, cut(ids)))
    return PopulationNotice(
        request_id="r-1", population=population, version=version, n_ids=len(set(ids)), digests=digests
    )


def put_of(version: int, ids: list[bytes], bucket: int) -> BucketIds:
    part = cut(ids)[bucket]
    return BucketIds(
        request_id="r-1", population="p", version=version, bucket=bucket, sha256=digest_of(part), content=part
    )


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "warehouse")
    yield made
    made.warehouse.close()


def test_a_version_is_told_sent_accepted_and_read(lab: Lab) -> None:
    told = lab.taken.notice("bank", notice_of(1, PEOPLE))
    assert (told.state, told.missing, told.accepted_version) == (PopulationState.RECEIVING, (0, 1, 2, 3), 0)
    with pytest.raises(PopulationRefusedError, match="it is not complete here"):
        lab.ids(1, PEOPLE)

    assert lab.send(1, PEOPLE) is PopulationState.PROPOSED
    with pytest.raises(PopulationRefusedError, match="its operator has not accepted it"):
        lab.ids(1, PEOPLE)

    accept(lab.warehouse, "bank", "p", None, "ada", keep_versions=3)
    lab.clock.at += 1.5
    assert lab.ids(1, PEOPLE) == list(cut(PEOPLE)[1])
    assert lab.ids(1, PEOPLE, first=2, rows=3) == list(cut(PEOPLE)[1])[2:5]
    look = PopulationNotice(request_id="r-2", population="p", version=1)
    asked = lab.taken.notice("bank", look)
    assert (asked.state, asked.missing, asked.accepted_version) == (PopulationState.ACCEPTED, (), 1)


def test_what_is_revoked_counts_no_more_and_its_ids_are_gone(lab: Lab) -> None:
    lab.send(1, PEOPLE)
    accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    lab.clock.at += 1.5
    assert lab.ids(1, PEOPLE)

    (revoked,) = revoke(lab.warehouse, "bank", "p", None, "ada")

    assert (revoked.state, revoked.changed_by) == (PopulationState.REVOKED, "ada")
    assert known_buckets(lab.warehouse, "bank", "p") == set()
    lab.clock.at += 6.0
    with pytest.raises(PopulationRefusedError, match="it was revoked here"):
        lab.ids(1, PEOPLE)
    assert lab.taken.notice("bank", notice_of(1, PEOPLE)).state is PopulationState.REVOKED
    with pytest.raises(PopulationRefusedError, match="revoked"):
        lab.taken.put("bank", put_of(1, PEOPLE, 0))
    with pytest.raises(InputError, match="revoked here, for good; accept a version that bank makes anew"):
        accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    assert revoke(lab.warehouse, "bank", "p", 1, "ada") == []

    lab.send(2, PEOPLE)  # the same ids, proposed anew
    accept(lab.warehouse, "bank", "p", None, "ada", keep_versions=3)
    lab.clock.at += 6.0
    assert lab.ids(2, PEOPLE)


def test_buckets_that_another_version_has_stay_when_one_is_revoked(lab: Lab) -> None:
    lab.send(1, PEOPLE)
    accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    lab.send(2, [*PEOPLE, b"u1000"])

    revoke(lab.warehouse, "bank", "p", 2, "ada")

    assert lab.ids(1, PEOPLE) == list(cut(PEOPLE)[1])
    assert known_buckets(lab.warehouse, "bank", "p") == set(enumerate(notice_of(1, PEOPLE).digests))


def test_only_what_is_missing_is_asked_for_after_a_crash_and_of_a_new_version(lab: Lab) -> None:
    lab.taken.notice("bank", notice_of(1, PEOPLE))
    lab.taken.put("bank", put_of(1, PEOPLE, 2))

    other = lab.process()
    assert other.notice("bank", notice_of(1, PEOPLE)).missing == (0, 1, 3)
    lab.send(1, PEOPLE, to=other)

    more = [*PEOPLE, b"u1000"]
    changed = int(buckets_of([b"u1000"], N_BUCKETS)[0])
    assert other.notice("bank", notice_of(2, more)).missing == (changed,)


def test_a_bucket_may_be_sent_again_and_as_what_changed(lab: Lab) -> None:
    lab.send(1, PEOPLE)
    lab.taken.put("bank", put_of(1, PEOPLE, 0))  # complete already: nothing happens
    more = [*PEOPLE[1:], b"u1000"]
    wanted = lab.taken.notice("bank", notice_of(2, more)).missing

    for bucket in wanted:
        before, after = cut(PEOPLE)[bucket], cut(more)[bucket]
        delta = delta_of(digest_of(before), before, after)
        assert len(delta.added) < len(after)
        with pytest.raises(TooManySamplesError):  # what counts is what the bucket has then
            lab.taken.put("bank", replace(put_of(2, more, bucket), content=delta), most(len(after) - 1))
        lab.taken.put("bank", replace(put_of(2, more, bucket), content=delta), most(len(after)))

    assert lab.taken.notice("bank", notice_of(2, more)).state is PopulationState.PROPOSED
    accept(lab.warehouse, "bank", "p", 2, "ada", keep_versions=3)
    lab.clock.at += 1.5
    for bucket in range(N_BUCKETS):
        assert lab.ids(2, more, bucket) == list(cut(more)[bucket])


def test_what_does_not_fit_a_version_is_refused_and_nothing_of_it_stored(lab: Lab) -> None:
    lab.taken.notice("bank", notice_of(1, PEOPLE))
    good = put_of(1, PEOPLE, 0)
    other = cut(PEOPLE)[1]

    for bad, told in (
        (replace(good, sha256="00" * 32), "none of version 1"),
        (replace(good, bucket=9), "none of version 1"),
        (replace(good, version=2), "none of version 2"),
        (replace(good, population="q"), "none of version 1"),
        (replace(good, content=other), "belongs to another bucket"),
        (replace(good, content=SampleIds.of(list(good.content)[::-1])), "not in order"),  # type: ignore[arg-type]
        (replace(good, content=SampleIds.of(list(good.content)[1:])), "do not have the digest"),  # type: ignore[arg-type]
        (replace(good, content=BucketDelta("00" * 32, other, other)), "was changed from is not here"),
    ):
        with pytest.raises(PopulationRefusedError, match=told):
            lab.taken.put("bank", bad)

    assert known_buckets(lab.warehouse, "bank", "p") == set()


def test_a_version_that_is_told_anew_with_other_ids_is_refused(lab: Lab) -> None:
    lab.send(1, PEOPLE)

    with pytest.raises(PopulationRefusedError, match="told with other ids before"):
        lab.taken.notice("bank", notice_of(1, PEOPLE[1:]))
    with pytest.raises(PopulationRefusedError, match="told with other ids before"):
        lab.taken.notice("bank", replace(notice_of(1, PEOPLE), n_ids=41))


def test_a_version_that_was_revoked_may_be_told_with_other_ids(lab: Lab) -> None:
    lab.send(1, PEOPLE)
    revoke(lab.warehouse, "bank", "p", 1, "ada")

    assert lab.send(1, PEOPLE[1:]) is PopulationState.PROPOSED


def test_a_version_of_more_ids_than_were_told_is_never_complete(lab: Lab) -> None:
    lab.taken.notice("bank", replace(notice_of(1, PEOPLE), n_ids=30))
    lab.taken.put("bank", put_of(1, PEOPLE, 0))
    lab.taken.put("bank", put_of(1, PEOPLE, 1))
    sizes = [len(each) for each in cut(PEOPLE)]
    assert sum(sizes[:2]) <= 30 < sum(sizes[:3])

    with pytest.raises(PopulationRefusedError, match="more ids than the 30 that were told"):
        lab.taken.put("bank", put_of(1, PEOPLE, 2))

    assert [each.state for each in list_versions(lab.warehouse)] == [PopulationState.RECEIVING]


def test_a_version_of_fewer_ids_than_were_told_is_not_proposed(lab: Lab) -> None:
    notice = replace(notice_of(1, PEOPLE), n_ids=41)
    lab.taken.notice("bank", notice)
    for bucket in range(N_BUCKETS):
        lab.taken.put("bank", put_of(1, PEOPLE, bucket))

    with pytest.raises(PopulationRefusedError, match="has 40 ids; 41 were told"):
        lab.taken.notice("bank", notice)


def test_no_more_is_taken_than_the_settings_say(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "warehouse", max_ids=60)
    lab.send(1, PEOPLE)

    assert lab.send(2, [*PEOPLE, b"u1000"]) is PopulationState.PROPOSED  # what they share counts once
    with pytest.raises(PopulationRefusedError, match="more than 60 would be kept here"):
        lab.taken.notice("bank", notice_of(1, PEOPLE, "q"))
    none = Lab(tmp_path / "none", max_ids=0)
    with pytest.raises(PopulationRefusedError, match="no populations are taken here"):
        none.taken.notice("bank", notice_of(1, PEOPLE))
    with pytest.raises(PopulationRefusedError, match="no populations are taken here"):
        lab.taken.notice("stranger", notice_of(1, PEOPLE))


def test_what_was_told_and_has_not_come_counts_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "warehouse", max_ids=60)
    lab.taken.notice("bank", notice_of(1, PEOPLE))

    with pytest.raises(PopulationRefusedError, match="with its 40 ids more than 60 would be kept here"):
        lab.taken.notice("bank", notice_of(1, PEOPLE, "q"))
    assert lab.taken.notice("bank", notice_of(2, PEOPLE[1:])).missing  # its first version is brought no more


def test_no_bucket_is_taken_beyond_what_the_settings_say(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "warehouse", max_ids=60)
    others = [b"v%d" % number for number in range(40)]
    for version, ids in ((1, PEOPLE), (2, others)):
        lab.taken.notice("bank", notice_of(version, ids))
    for bucket in range(N_BUCKETS):
        lab.taken.put("bank", put_of(1, PEOPLE, bucket))

    with pytest.raises(PopulationRefusedError, match="more ids than 60 would be kept here"):
        lab.send(2, others)

    assert 40 <= sum(bucket_sizes(lab.warehouse, "bank").values()) <= 60


def test_a_notice_of_more_buckets_than_such_a_population_can_have_is_refused(lab: Lab) -> None:
    few = PopulationNotice(request_id="r", population="p", version=1, n_ids=1, digests=("ab" * 32,) * 65_536)

    with pytest.raises(PopulationRefusedError, match="65536 buckets are too many for 1 ids"):
        lab.taken.notice("bank", few)

    # 50 million of the longest ids were in it before all but one left
    shrunk = replace(few, digests=few.digests[: buckets_for(50_000_000, 256 * 50_000_000)])
    assert len(lab.taken.notice("bank", shrunk).missing) == 2048


def test_versions_of_so_many_buckets_are_kept_and_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "MAX_DIGESTS", 7)
    lab.send(1, PEOPLE)

    with pytest.raises(PopulationRefusedError, match="its versions would have 8 buckets here"):
        lab.taken.notice("bank", notice_of(2, PEOPLE[1:]))


def test_so_many_versions_are_kept_for_an_initiator_and_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "MAX_VERSIONS", 1)
    lab.send(1, PEOPLE)

    with pytest.raises(PopulationRefusedError, match="1 versions of populations are kept here"):
        lab.taken.notice("bank", notice_of(2, PEOPLE[1:]))


def test_a_caller_whose_populations_count_by_themselves(lab: Lab) -> None:
    trusting = lab.process(accepts=True)

    assert lab.send(1, PEOPLE, to=trusting) is PopulationState.ACCEPTED

    assert lab.ids(1, PEOPLE)
    assert list_versions(lab.warehouse)[0].changed_by == "settings"


def test_the_newest_versions_stay_when_one_is_accepted(lab: Lab) -> None:
    for version in range(1, 5):
        lab.send(version, PEOPLE[version:])
        accept(lab.warehouse, "bank", "p", None, "ada", keep_versions=2)

    assert [each.version for each in list_versions(lab.warehouse)] == [3, 4]
    kept = [*enumerate(notice_of(3, PEOPLE[3:]).digests), *enumerate(notice_of(4, PEOPLE[4:]).digests)]
    assert known_buckets(lab.warehouse, "bank", "p") == set(kept)


def test_rows_of_another_bucket_version_or_initiator_are_refused(lab: Lab) -> None:
    lab.send(1, PEOPLE)
    accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    lab.clock.at += 1.5
    digest = digest_of(cut(PEOPLE)[1])
    good = PopulationRows(population="p", version=1, bucket_sha256=digest, first=0, rows=1)
    assert len(lab.taken.ids("bank", good, 1, N_BUCKETS)[0]) == 1

    for asked, bucket, n_buckets, told in (
        (good, 0, 4, "bucket 0 of version 1 has another digest here"),
        (good, 1, 2, "bucket 1 of version 1 has another digest here"),
        (replace(good, bucket_sha256="00" * 32), 1, 4, "has another digest here"),
        (replace(good, version=7), 1, 4, "version 7 is not known here"),
        (replace(good, population="q"), 1, 4, "population q: version 1 is not known here"),
    ):
        with pytest.raises(PopulationRefusedError, match=told):
            lab.taken.ids("bank", asked, bucket, n_buckets)
    with pytest.raises(PopulationRefusedError, match="not known here"):
        lab.taken.ids("shop", good, 1, N_BUCKETS)
    with pytest.raises(ProtocolError, match="of a bucket of"):
        lab.taken.ids("bank", replace(good, first=1000), 1, N_BUCKETS)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(lab: Lab) -> None:
    with pytest.raises(InputError, match="there is no population p of bank; there is none at all"):
        accept(lab.warehouse, "bank", "p", None, "ada", keep_versions=3)
    lab.send(1, PEOPLE)

    with pytest.raises(InputError, match="no version 2 of population p of bank; there is p of bank"):
        revoke(lab.warehouse, "bank", "p", 2, "ada")
    lab.taken.notice("bank", notice_of(2, PEOPLE[1:]))
    with pytest.raises(InputError, match=r"version 2 .* cannot be accepted: it is not complete"):
        accept(lab.warehouse, "bank", "p", 2, "ada", keep_versions=3)
    assert accept(lab.warehouse, "bank", "p", None, "ada", keep_versions=3).version == 1


def test_who_accepts_a_version_that_has_just_gone_is_told_the_next_one_and_how_to_look(lab: Lab) -> None:
    look = "look at it with `fedpredict population show p --from bank`"
    for version in (1, 2):
        lab.send(version, PEOPLE[version:])
    (first, _) = list_versions(lab.warehouse)
    write_version(lab.warehouse, replace(first, state=PopulationState.RECEIVING))  # half removed: its row goes last
    with pytest.raises(InputError) as half:
        accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    remove_versions(lab.warehouse, [first])
    with pytest.raises(InputError) as gone:
        accept(lab.warehouse, "bank", "p", 1, "ada", keep_versions=3)
    with pytest.raises(InputError) as none:
        accept(lab.warehouse, "bank", "p", 3, "ada", keep_versions=3)

    assert str(gone.value) == (
        "there is no version 1 of population p of bank: it went, as a person was erased from it or newer ones took its"
        f" place; there is p of bank, whose newest version is 2 (proposed): {look}"
    )
    assert str(half.value).endswith(f"not all of its ids have come; the newest version is 2 (proposed): {look}")
    assert str(none.value) == (
        "there is no version 3 of population p of bank;"
        f" there is p of bank, whose newest version is 2 (proposed): {look}"
    )
    assert accept(lab.warehouse, "bank", "p", 2, "ada", keep_versions=3).version == 2
