"""Who somebody is: the identity that a certificate states and that every policy reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

from fedpredict.errors import NameRefusedError
from fedpredict.model.ids import check_party_id

SCHEME = "fedpredict://"


class IdentityKind(StrEnum):
    """What an identity stands for; the values are the first part of the URI's path."""

    PARTY = "party"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Identity:
    """A party, or a client of an initiator (a risk system, a person).

    Attributes:
        kind: What it is.
        name: A DNS label in lower case: the party id, or the client's name.

    Raises:
        NameRefusedError: The name breaks the rule.

    >>> Identity(IdentityKind.PARTY, "lab").uri
    'fedpredict://party/lab'
    """

    kind: IdentityKind
    name: str

    def __post_init__(self) -> None:
        try:
            check_party_id(self.name)
        except NameRefusedError as error:
            raise NameRefusedError(f"the name of a {self.kind} in a certificate: {error}") from None

    @property
    def uri(self) -> str:
        """The identity as a certificate's subject alternative name and a policy write it."""
        return f"{SCHEME}{self.kind}/{self.name}"

    @override
    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def identity_from_uri(uri: str) -> Identity:
    """Return the identity that a URI names; nothing is trimmed, decoded or lower-cased.

    Raises:
        NameRefusedError: It is not `fedpredict://party/<id>` or `fedpredict://client/<name>`.

    >>> str(identity_from_uri("fedpredict://client/risk-desk"))
    'client risk-desk'
    """
    kind, slash, name = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not slash or kind not in set(IdentityKind):
        raise NameRefusedError(
            f"{uri[:200]!r} is not an identity: fedpredict://party/<id> or fedpredict://client/<name>"
        )
    return Identity(IdentityKind(kind), name)
