"""The manifest: what the parties agreed a version of a model to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from fedpredict.errors import IncompatiblePartsError, NameRefusedError
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.head import HeadShelf
from fedpredict.model.kinds import Kind, check_link, check_widths
from fedpredict.model.links import Link, parse_link

DEFAULT_MAX_SAMPLES = 10_000
"""Sample ids in one call that every party takes which does not say otherwise."""

_FORMAT, _HEAD_FORMAT = "fedpredict-manifest-1", "fedpredict-manifest-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDescription:
    """What a party tells of its part: never a weight.

    Attributes:
        party: Whose part.
        model_id: The model.
        params_sha256: The digest of the party's parameters (salted), in hex.
        training_run: The run that made the part.
        kind: The kind of the joint model.
        link: Its link.
        classes: The joint model's classes.
        n_scores: The width of the party's share.
        holds_intercept: Whether the joint model's intercept is in this part.
        fit_intercept: Whether the joint model has an intercept.
        max_samples: Most sample ids that the party takes in one call.
        combination: What it must have in common with a head; None where shares are added up.
    """

    party: str
    model_id: str
    params_sha256: str
    training_run: str
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    n_scores: int
    holds_intercept: bool
    fit_intercept: bool
    max_samples: int = DEFAULT_MAX_SAMPLES
    combination: Combination | None = None


@dataclass(frozen=True, slots=True)
class HeadRef:
    """The head of a version.

    Attributes:
        party: Who holds it.
        head_sha256: The digest of its parameters (salted), in hex.
    """

    party: str
    head_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One agreed version of a model, named by `manifest_sha256` in every request, reply, log line and key.

    `n_scores` is the width of every party's share. With a `combination` there is a `head`, which makes `n_outputs` raw
    scores of the shares; without, shares are added up.
    """

    model_id: str
    training_run: str
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    n_scores: int
    fit_intercept: bool
    intercept_party: str | None
    digests: tuple[tuple[str, str], ...]
    """(party, params_sha256), sorted by party: also the fixed order in which shares are summed."""
    combination: Combination | None = None
    head: HeadRef | None = None
    parties: tuple[str, ...] = field(init=False, compare=False, repr=False)
    """The parties, in the fixed order."""
    manifest_sha256: str = field(init=False, compare=False, repr=False)
    """SHA-256 (hex) over the canonical JSON of the manifest."""

    def __post_init__(self) -> None:
        if (self.combination is None) != (self.head is None):
            raise ValueError("a head without what it combines, or the other way round")
        # both are asked for by every request, and neither ever changes
        object.__setattr__(self, "parties", tuple(party for party, _ in self.digests))
        object.__setattr__(self, "manifest_sha256", hashlib.sha256(manifest_to_json(self).encode()).hexdigest())

    @property
    def n_outputs(self) -> int:
        """The width of a prediction."""
        return self.link.n_outputs(self.n_raw)

    @property
    def n_raw(self) -> int:
        """The number of raw scores per sample: the width of a share, or what the head makes of all shares."""
        return self.n_scores if self.combination is None else self.combination.n_outputs

    def digest_of(self, party: str) -> str:
        """Return the digest of a party's part, in hex; raise `KeyError` for a party that holds none."""
        return dict(self.digests)[party]


def manifest_to_json(manifest: Manifest) -> str:
    """Return the canonical JSON: sorted keys, no spaces, ASCII only.

    A manifest with a head is of another format, so that a process that knows no heads refuses it instead of adding the
    shares up.
    """
    content: dict[str, object] = {
        "classes": list(manifest.classes),
        "digests": dict(manifest.digests),
        "fit_intercept": manifest.fit_intercept,
        "format": _FORMAT,
        "intercept_party": manifest.intercept_party,
        "kind": manifest.kind.value,
        "link": str(manifest.link),
        "model_id": manifest.model_id,
        "n_scores": manifest.n_scores,
        "training_run": manifest.training_run,
    }
    if manifest.combination is not None and manifest.head is not None:
        content |= {
            "format": _HEAD_FORMAT,
            "combining": manifest.combination.combining.value,
            "structure_sha256": manifest.combination.structure_sha256,
            "n_outputs": manifest.combination.n_outputs,
            "head": {"party": manifest.head.party, "sha256": manifest.head.head_sha256},
        }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def manifest_from_json(text: str) -> Manifest:
    """Return the manifest that `manifest_to_json` wrote.

    Raises:
        ValueError: The text is not such a manifest.
    """
    try:
        content = json.loads(text)
        if content["format"] not in (_FORMAT, _HEAD_FORMAT):
            raise ValueError(f"unknown manifest format {content['format']!r}")
        kind, link = Kind(content["kind"]), parse_link(content["link"])
        check_link(kind, link)
        return Manifest(
            model_id=content["model_id"],
            training_run=content["training_run"],
            kind=kind,
            link=link,
            classes=tuple(content["classes"]),
            n_scores=content["n_scores"],
            fit_intercept=content["fit_intercept"],
            intercept_party=content["intercept_party"],
            digests=tuple(sorted(content["digests"].items())),
            **_head_from_json(content),
        )
    except (KeyError, TypeError, AttributeError, NameRefusedError) as error:
        raise ValueError(f"not a manifest: {error}") from error


class _Heading(TypedDict, total=False):
    combination: Combination
    head: HeadRef


def _head_from_json(content: Mapping[str, Any]) -> _Heading:
    if content["format"] == _FORMAT:
        return {}
    combination = Combination(Combining(content["combining"]), content["structure_sha256"], content["n_outputs"])
    return {"combination": combination, "head": HeadRef(content["head"]["party"], content["head"]["sha256"])}


def build_manifest(parts: Mapping[str, PartDescription], shelf: HeadShelf | None = None) -> Manifest:
    """Return the manifest of the parts that the parties describe, or say whose parts do not fit.

    Args:
        parts: By party id; every party of the model.
        shelf: The heads of whoever asks; None where it has none.

    Raises:
        IncompatiblePartsError: Two training runs, kinds, links, class lists, widths or structures; two holders of the
            intercept, or none where the model has one; shares that need a head, and none that fits them. The message
            and `.parties` name the parties.
    """
    if not parts:
        raise IncompatiblePartsError("a model without parties", parties=())
    for what in ("model_id", "training_run", "kind", "link", "classes", "combination", "n_scores", "fit_intercept"):
        _check_equal(parts, what)
    some = next(iter(parts.values()))
    combination = some.combination
    try:
        check_link(some.kind, some.link)
        n_raw = some.n_scores if combination is None else combination.n_outputs
        check_widths(some.kind, n_raw, some.classes, some.link)
    except ValueError as error:
        raise IncompatiblePartsError(f"model {some.model_id}: {error}", parties=sorted(parts)) from error
    return Manifest(
        model_id=some.model_id,
        training_run=some.training_run,
        kind=some.kind,
        link=some.link,
        classes=some.classes,
        n_scores=some.n_scores,
        fit_intercept=some.fit_intercept,
        intercept_party=_intercept_party(parts),
        digests=tuple(sorted((party, part.params_sha256) for party, part in parts.items())),
        combination=combination,
        head=None if combination is None else _head_of(parts, combination, shelf or HeadShelf()),
    )


def _head_of(parts: Mapping[str, PartDescription], combination: Combination, shelf: HeadShelf) -> HeadRef:
    some = next(iter(parts.values()))
    found = shelf.fitting(some.model_id, some.training_run, combination)
    if found is None:
        why = shelf.problems.get(some.model_id) or "convert the head, and say head = true in the model's settings"
        raise IncompatiblePartsError(
            f"model {some.model_id}: the parties' shares are {combination}, and this initiator has no head for them of "
            f"training run {some.training_run}: {why}",
            parties=sorted(parts),
        )
    model = found.model
    for what in ("kind", "link", "classes"):
        if getattr(model, what) != getattr(some, what):
            told = f"the head says {getattr(model, what)!s}, the parts {getattr(some, what)!s}"
            raise IncompatiblePartsError(
                f"model {some.model_id}: head and parts differ in {what}: {told}", parties=sorted(parts)
            )
    if model.head.parties is not None and set(model.head.parties) != set(parts):
        raise IncompatiblePartsError(
            f"model {some.model_id}: the head takes shares of {', '.join(sorted(model.head.parties))}, but the model's"
            f" parties are {', '.join(sorted(parts))}",
            parties=sorted(set(model.head.parties) ^ set(parts)),
        )
    if model.head.n_scores != some.n_scores:
        raise IncompatiblePartsError(
            f"model {some.model_id}: the head takes shares of {model.head.n_scores} numbers, the parts have "
            f"{some.n_scores}",
            parties=sorted(parts),
        )
    return HeadRef(model.party, found.head_sha256)


def _check_equal(parts: Mapping[str, PartDescription], what: str) -> None:
    by_value: dict[object, list[str]] = {}
    for party in sorted(parts):
        by_value.setdefault(getattr(parts[party], what), []).append(party)
    if len(by_value) > 1:
        told = "; ".join(
            f"{', '.join(names)} {'says' if len(names) == 1 else 'say'} {value!s}" for value, names in by_value.items()
        )
        raise IncompatiblePartsError(f"the parts differ in {what}: {told}", parties=sorted(parts))


def _intercept_party(parts: Mapping[str, PartDescription]) -> str | None:
    holders = sorted(party for party, part in parts.items() if part.holds_intercept)
    model_id = next(iter(parts.values())).model_id
    expected = next(iter(parts.values())).fit_intercept
    if len(holders) > 1:
        raise IncompatiblePartsError(
            f"model {model_id}: {' and '.join(holders)} each hold an intercept", parties=holders
        )
    if expected and not holders:
        names = ", ".join(sorted(parts))
        raise IncompatiblePartsError(
            f"model {model_id} has an intercept, but none of {names} holds it", parties=sorted(parts)
        )
    return holders[0] if holders else None
