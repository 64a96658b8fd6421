"""The digest that names a party's parameters: the same whichever engine holds them.

Canonical bytes: every field as an 8-byte big-endian length and its bytes, in the order of the code below; numbers of
the model as big-endian float64, so -0.0 and 0.0 differ; features sorted by name, so their order does not matter.
The salt keeps anyone who sees a digest from guessing the parameters behind it, which may be small integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fedpredict.model.partial import PartialModel
from fedpredict.tables.layouts import LAYOUTS
from fedpredict.tables.version import SALT_BYTES

_FORMAT = "fedpredict-params-1"


def params_sha256(partial: PartialModel, view: str, view_version: int, salt: bytes) -> str:
    """Return the SHA-256 (hex) over the canonical bytes of a part.

    Args:
        partial: The part; verification rows and metadata do not count.
        view: The feature view that its features are taken from.
        view_version: And the version of that.
        salt: `SALT_BYTES` random bytes, stored with the model.

    Raises:
        ValueError: The salt has another length.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt of {len(salt)} bytes; it must have {SALT_BYTES}")
    digest = hashlib.sha256()
    for field in _fields(partial, view, view_version, salt):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.hexdigest()


def _fields(partial: PartialModel, view: str, view_version: int, salt: bytes) -> Iterator[bytes]:
    part = partial.part
    texts = [
        _FORMAT,
        partial.model_id,
        partial.party,
        partial.training_run,
        partial.kind.value,
        str(partial.link),
        view,
        str(view_version),
        str(int(partial.fit_intercept)),
        str(int(partial.holds_intercept)),
        str(part.n_scores),
        str(len(partial.classes)),
        *partial.classes,
        str(len(part.features)),
    ]
    yield salt
    yield from (text.encode() for text in texts)
    yield from LAYOUTS[part.family].digest_fields(part)
