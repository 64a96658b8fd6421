from __future__ import annotations

import pytest

from fedpredict.errors import ModelNotFoundError
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import CallerSettings
from fedpredict.security.identity import Identity, IdentityKind

POLICY = CallerPolicy(
    {
        "hospital": CallerSettings(models=("credit", "fraud")),
        "bank": CallerSettings(models=("*",)),
        "shop": CallerSettings(models=()),
    }
)


@pytest.mark.parametrize(
    ("caller", "model_id", "allowed"),
    [
        (Identity(IdentityKind.PARTY, "hospital"), "credit", True),
        (Identity(IdentityKind.PARTY, "hospital"), "churn", False),
        (Identity(IdentityKind.PARTY, "bank"), "anything", True),
        (Identity(IdentityKind.PARTY, "shop"), "credit", False),
        (Identity(IdentityKind.PARTY, "stranger"), "credit", False),
        (Identity(IdentityKind.CLIENT, "hospital"), "credit", False),
        (Identity(IdentityKind.CLIENT, "bank"), "credit", False),
    ],
)
def test_only_listed_parties_may_ask_and_only_for_what_is_listed(
    caller: Identity, model_id: str, *, allowed: bool
) -> None:
    assert POLICY.may_ask(caller, model_id) is allowed
    if allowed:
        POLICY.check(caller, model_id)
    else:
        with pytest.raises(ModelNotFoundError, match=f"{caller.kind} {caller.name}"):
            POLICY.check(caller, model_id)
