"""scripts/bench distinct: what the limit of distinct sample ids costs a participant; one JSON object a line.

Times are microseconds of the processor, of all threads of the process; nothing travels, and nothing is scored.

- `answer`: a question's way through a participant, message to message: without a limit, with new ids, a transaction for
  each question, with ids that were counted before, and with such ids that this process does not remember.
- `bucket`: for each id of a bucket of some 262,144: new ids, and the bucket asked for again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from fedpredict.model.buckets import places_of
from fedpredict.model.manifest import PartDescription
from fedpredict.model.populations import BUCKET_ROWS, digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply, PartyScorer, ScoreQuery
from fedpredict.model.share import Mode, SampleStatus, build_share
from fedpredict.participant.answers import Answers
from fedpredict.participant.distinct import DistinctLimit
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.state.distinct_ids import DistinctIds
from fedpredict.wire import codec
from fedpredict.wire.link import Instance
from fedpredict.wire.v1 import participant_pb2

LIMIT = 10**9
BANK = Identity(IdentityKind.PARTY, "bank")


class Ones(PartyScorer):
    """Gives every id the score 1."""

    @property
    def party(self) -> str:
        """Its name."""
        return "lab"

    async def describe(self, model_id: str, *, deadline_s: float) -> PartDescription:
        """Describe nothing: nobody asks."""
        raise NotImplementedError

    async def score(self, query: ScoreQuery, *, deadline_s: float) -> PartyReply:  # noqa: ARG002  the contract's
        """Return ones."""
        n_samples = len(query.sample_ids)
        share = build_share(np.ones((n_samples, 1)), np.full(n_samples, SampleStatus.OK, dtype=np.uint8))
        return PartyReply(share=share, oldest_event_time=None, elapsed_s=0.0)


def main(argv: list[str]) -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(prog="scripts/bench distinct", description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="questions of each kind")
    parser.add_argument("--buckets", type=int, default=4, help="buckets of new ids")
    parser.add_argument("--quick", action="store_true", help="few of both")
    parser.add_argument("--json", action="store_true", help="what is printed anyway")
    arguments = parser.parse_args(argv)
    calls, buckets = (20, 1) if arguments.quick else (arguments.calls, arguments.buckets)
    with tempfile.TemporaryDirectory() as folder, closing(DistinctIds(Path(folder))) as counts:
        asyncio.run(_measure(counts, calls, buckets))
    return 0


async def _measure(counts: DistinctIds, calls: int, buckets: int) -> None:
    for n_ids in (1, 10, 100, 500):
        questions = [[b"person-%d-%d-%d" % (n_ids, at, each) for each in range(n_ids)] for at in range(calls)]
        limited = _answers(counts, {"bank": LIMIT})
        taken = {
            "no limit": await _ask(_answers(counts, {}), questions),
            "new": await _ask(limited, questions),
            "repeated": await _ask(limited, questions),
            "forgotten": await _ask(_answers(counts, {"bank": LIMIT}), questions),
        }
        for ids, us in taken.items():
            _print(work="answer", rows=n_ids, ids=ids, us=round(us, 1))
    limit = DistinctLimit(counts, lambda: {"bank": LIMIT})
    for number in range(buckets):
        ids = _bucket(number)
        sha256 = digest_of(ids)
        for kind in ("new", "again"):
            began = time.process_time()
            await (await limit.check_list(BANK.name, ids, sha256)).count()
            us = (time.process_time() - began) * 1e6 / len(ids)
            _print(work="bucket", bucket=number, ids=kind, us_per_id=round(us, 3))
    limit.close()


def _answers(counts: DistinctIds, limits: Mapping[str, int]) -> Answers:
    policy = CallerPolicy({"bank": CallerSettings(models=("*",))})
    distinct = DistinctLimit(counts, lambda: limits)
    return Answers(Ones(), policy, None, Instance(), max_samples=10_000, distinct=distinct)


async def _ask(answers: Answers, questions: Sequence[Sequence[bytes]]) -> float:
    requests = [codec.query_to_wire(_query(SampleIds.of(each)), 30_000) for each in questions]
    began = time.process_time()
    for each in requests:
        await answers.fill_score(each, BANK, 30.0, participant_pb2.ScoreReply())
    return (time.process_time() - began) * 1e6 / len(requests)


def _query(ids: SampleIds) -> ScoreQuery:
    return ScoreQuery(
        request_id="bench",
        model_id="credit",
        manifest_sha256="ab" * 32,
        params_sha256="ab" * 32,
        mode=Mode.NEARLINE,
        sample_ids=ids,
    )


def _bucket(number: int) -> SampleIds:
    """Return ids that have neighbouring places, as those of a bucket of a large population have."""
    ids = SampleIds.of([b"person-%d-%d" % (number, each) for each in range(4 * BUCKET_ROWS)])
    return ids.select((places_of(ids) >> 30) == number % 4)


def _print(**fields: object) -> None:
    print(json.dumps(fields), flush=True)
