"""What operators mistype: a name that is not there, and the nearest one that is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from fedpredict.errors import ModelNotFoundError

_T = TypeVar("_T")


def nearest(name: str, known: Iterable[str], nothing: str) -> str:
    """Return a hint for a name that is not among `known`.

    >>> nearest("credti", ["credit", "fraud"], "none yet"), nearest("x", ["credit"], "-"), nearest("x", [], "none yet")
    ('did you mean credit?', 'there is credit', 'none yet')
    """
    names = sorted(known)
    if not names:
        return nothing
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"there is {', '.join(names[:20])}{more}"


def find_model(models: Mapping[str, _T], model_id: str) -> _T:
    """Return the model of that id; raise `ModelNotFoundError` with the nearest one."""
    if model_id not in models:
        hint = nearest(model_id, models, "there is no model yet; see `fedpredict model convert`")
        raise ModelNotFoundError(f"no model {model_id}; {hint}")
    return models[model_id]
