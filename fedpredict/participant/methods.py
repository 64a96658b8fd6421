"""Every way to call a participant, and what it asks of its caller: what is not named here is not there."""

from __future__ import annotations

from collections.abc import Mapping

from fedpredict.security.policy import Needs

SERVICE = "fedpredict.wire.v1.ParticipantService"

METHODS: Mapping[str, Needs] = {
    f"{SERVICE}/Hello": Needs.IDENTITY,
    f"{SERVICE}/DescribeModel": Needs.RULE,
    f"{SERVICE}/Score": Needs.CALL,
    # what is asked on a link is a call for itself: see FRAMES
    f"{SERVICE}/ScoreStream": Needs.IDENTITY,
    f"{SERVICE}/ScoreBucket": Needs.CALL,
    f"{SERVICE}/RegisterPopulation": Needs.CALL,
    f"{SERVICE}/PutPopulationBucket": Needs.CALL,
    # of a model it needs a rule with that model
    "grpc.health.v1.Health/Check": Needs.NOTHING,
    "grpc.health.v1.Health/List": Needs.UNSERVED,
    "grpc.health.v1.Health/Watch": Needs.UNSERVED,
}
"""Methods of gRPC."""

FRAMES: Mapping[str, str] = {
    "hello": f"{SERVICE}/Hello",
    "describe": f"{SERVICE}/DescribeModel",
    "score": f"{SERVICE}/Score",
    "masked_score": f"{SERVICE}/Score",
    "score_bucket": f"{SERVICE}/ScoreBucket",
    "masked_bucket": f"{SERVICE}/ScoreBucket",
    # keys for the masked sums of a model say no more of it than a description
    "mask_key": f"{SERVICE}/DescribeModel",
    "mask_keys": f"{SERVICE}/DescribeModel",
    "population": f"{SERVICE}/RegisterPopulation",
    "population_bucket": f"{SERVICE}/PutPopulationBucket",
}
"""The frames that are calls on a link -> the methods that they stand for."""

ROUTES: Mapping[str, Needs] = {
    # of a sender under [events], which is no caller of models
    "POST /v1/events": Needs.PEER,
}
"""What is served over HTTP."""
