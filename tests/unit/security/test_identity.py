from __future__ import annotations

import pytest

from fedpredict.errors import NameRefusedError
from fedpredict.security.identity import Identity, IdentityKind, identity_from_uri


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("fedpredict://party/lab", Identity(IdentityKind.PARTY, "lab")),
        ("fedpredict://client/risk-desk-2", Identity(IdentityKind.CLIENT, "risk-desk-2")),
    ],
)
def test_an_identity_and_its_uri_are_one_to_one(uri: str, identity: Identity) -> None:
    assert identity_from_uri(uri) == identity
    assert identity.uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "lab",
        "party/lab",
        "https://party/lab",
        "fedpredict://party",
        "fedpredict://party/",
        "fedpredict://party/lab/",
        "fedpredict://party/lab/x",
        "fedpredict://party/Lab",
        "fedpredict://Party/lab",
        "fedpredict://party/lab ",
        " fedpredict://party/lab",
        "fedpredict://party/lab\n",
        "fedpredict://party/l%61b",
        "fedpredict://admin/lab",
        "fedpredict://party/lab?x",
        "fedpredict://party/" + "a" * 64,
        "FEDPREDICT://party/lab",
    ],
)
def test_anything_else_is_no_identity(uri: str) -> None:
    with pytest.raises(NameRefusedError):
        identity_from_uri(uri)


def test_a_refused_name_says_what_it_should_have_named() -> None:
    with pytest.raises(NameRefusedError, match=r"client.*'Risk Desk'.*lower-case"):
        Identity(IdentityKind.CLIENT, "Risk Desk")


def test_a_client_and_a_party_of_one_name_differ() -> None:
    assert Identity(IdentityKind.CLIENT, "lab") != Identity(IdentityKind.PARTY, "lab")
