"""A part's features against a feature view's: by name, never by position."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fedpredict.convert.labels import MAX_NAMES_SHOWN, check_feature_names
from fedpredict.errors import FeatureNamesError
from fedpredict.model.partial import PartialModel


def match_view(partial: PartialModel, view_features: Sequence[str]) -> None:
    """Check that the view has every feature of the part; it may have more, and any order.

    Args:
        partial: The party's part.
        view_features: The names of the view's features, as they were loaded.

    Raises:
        FeatureNamesError: Names of the part or of the view repeat or differ only in case, or the view lacks some:
            `.names` lists them, the message gives the view's nearest name for each.
    """
    check_feature_names(partial.part.features)
    known = check_feature_names(view_features)
    present = set(known)
    missing = [name for name in partial.part.features if name not in present]
    if missing:
        told = "; ".join(_with_nearest(name, known) for name in missing[:MAX_NAMES_SHOWN])
        more = f"; and {len(missing) - MAX_NAMES_SHOWN} more" if len(missing) > MAX_NAMES_SHOWN else ""
        raise FeatureNamesError(
            f"the feature view lacks {len(missing)} of the model's {len(partial.part.features)} features: {told}{more}",
            names=missing,
        )


def _with_nearest(name: str, known: Sequence[str]) -> str:
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1)
    return f"{name!r} (the nearest is {by_folded[near[0]]!r})" if near else repr(name)
