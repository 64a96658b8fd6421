"""Random scorecards, networks, and models behind preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn import linear_model, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline

from tests.random_cuts.data import LEVELS, Random, names_of, numbers, owners, signal, texts
from tests.random_cuts.trial import Said, Trial, as_rows, classes_of, fitted, positive, saved, trial_of


def scorecard(random: Random) -> Trial:
    """Return a scorecard of random bins; its oracle is pandas' cut, and a look-up of texts."""
    names = names_of(random, 5)
    frame = numbers(random, 40, names, widest=float(random.choice([0.0, 300.0])), missing=0.1)
    told = [f"text {at}" for at in range(int(random.integers(3)))]
    for name in told:
        frame[name] = texts(random, len(frame), missing=0.1)
    cards = [_text_points(random, name) if name in told else _points(random, name, frame) for name in map(str, frame)]
    content = {
        "format": "fedpredict-partial-1", "model_id": f"m-{random.integers(2**48):x}", "training_run": "run-1",
        "party": "joint-model", "kind": "linear", "family": "scorecard", "fit_intercept": True,
        "part": {"base_points": 480.25, "features": [card for card, _ in cards], "reasons": 0},
    }  # fmt: skip

    def oracle(rows: pd.DataFrame) -> Said:
        total = pd.Series(480.25, index=rows.index)
        for name, (card, points) in zip(frame, cards, strict=True):
            total += _looked_up(rows[name], card, points)
        if total.isna().any():
            raise ValueError("a sample of no bin")
        return as_rows(total, len(rows)), as_rows(total, len(rows))

    parties = owners(random, list(frame.columns))
    return trial_of(
        random,
        json.dumps(content).encode(),
        frame,
        parties,
        oracle,
        model_id=None,
        training_run=None,
        party=None,
    )


def _points(random: Random, name: str, frame: pd.DataFrame) -> tuple[dict[str, Any], Any]:
    known = frame[name].dropna().to_numpy()
    edges = np.unique(random.choice(known, min(len(known), 4)) + 0.0)
    is_open = bool(random.random() < 0.6) or len(edges) < 2
    bounds = [None, *edges.tolist(), None] if is_open else edges.tolist()
    points = random.normal(size=len(bounds) - 1) * 20.0
    side = str(random.choice(["left", "right"]))
    bins = [
        {key: value for key, value in (("from", low), ("to", high), ("points", float(each))) if value is not None}
        for low, high, each in zip(bounds, bounds[1:], points, strict=False)
    ]
    card = {"name": name, "closed": side, "bins": bins, **_rest(random)}
    return card, (bounds, points)


def _text_points(random: Random, name: str) -> tuple[dict[str, Any], Any]:
    groups = [list(each) for each in np.array_split(np.array(LEVELS[:-1], dtype=object), 3)]
    points = random.normal(size=3) * 20.0
    bins = [{"texts": group, "points": float(each)} for group, each in zip(groups, points, strict=True)]
    table = {text: each for group, each in zip(groups, points, strict=True) for text in group}
    return {"name": name, "bins": bins, **_rest(random)}, table


def _rest(random: Random) -> dict[str, float]:
    return {name: float(random.normal()) for name in ("missing", "outside") if random.random() < 0.6}


def _looked_up(column: Any, card: Mapping[str, Any], points: Any) -> Any:
    """Return a feature's points; NaN where the card gives none, and for infinities."""
    if isinstance(points, dict):
        found = column.map(points)
    else:
        bounds, values = points
        edges = [-np.inf if at == 0 and each is None else np.inf if each is None else each for at, each in
                 enumerate(bounds)]  # fmt: skip
        places = pd.cut(column, edges, right=card["closed"] == "right", labels=False)
        found = places.map(dict(enumerate(values)))
    found = found.where(~found.isna() | column.isna(), card.get("outside", np.nan))
    found = found.mask(column.isna(), card.get("missing", np.nan)).astype(float)
    return found if column.dtype == object else found.mask(np.isinf(column))


def summed_network(random: Random) -> Trial:
    """Return a perceptron whose hidden units each ask one party: its shares are added."""
    return _network(random, with_head=False)


def headed_network(random: Random) -> Trial:
    """Return a perceptron of which the initiator holds the layers that mix the parties' units."""
    return _network(random, with_head=True)


def _network(random: Random, *, with_head: bool) -> Trial:
    names = names_of(random)
    frame = numbers(random, 60, names, widest=float(random.choice([0.0, 1.0])))
    parties = owners(random, names, most=4)
    target = signal(random, frame)
    is_classes = bool(random.random() < 0.5)
    layers = tuple(int(each) for each in random.integers(len(parties), 9, int(random.integers(1, 3))))
    activation = str(random.choice(["relu", "tanh", "logistic", "identity"]))
    settings: dict[str, Any] = {"hidden_layer_sizes": layers, "activation": activation, "max_iter": 15}
    make = MLPClassifier if is_classes else MLPRegressor
    scalers = [preprocessing.StandardScaler()] if random.random() < 0.6 else []
    model = make_pipeline(*scalers, make(random_state=0, **settings))
    fitted(model, frame, classes_of(random, target) if is_classes else target)
    if not with_head or random.random() < 0.5:
        _keep_to_owners(random, model[-1], names, parties, layers)

    def oracle(rows: pd.DataFrame) -> Said:
        scaled = model[:-1].transform(rows) if scalers else rows.to_numpy()
        if not np.isfinite(scaled).all():
            raise ValueError("not finite")
        net = model[-1]
        last, net.out_activation_ = net.out_activation_, "identity"
        try:
            raw = as_rows(net._forward_pass_fast(scaled), len(rows))
        finally:
            net.out_activation_ = last
        return raw, positive(model.predict_proba(rows)) if is_classes else as_rows(model.predict(rows), len(rows))

    return trial_of(random, saved(model), frame, parties, oracle, with_head=with_head)


def _keep_to_owners(
    random: Random, model: Any, names: Sequence[str], parties: Mapping[str, Sequence[str]], layers: Sequence[int]
) -> None:
    """Take away, from a trained network, the weights between units of different parties."""
    places = list(parties.values())
    owner = np.array([next(at for at, held in enumerate(places) if name in held) for name in names])
    for at, width in enumerate(layers):
        units = np.concatenate([np.arange(len(places)), random.integers(0, len(places), width - len(places))])
        model.coefs_[at] = model.coefs_[at] * (owner[:, None] == units[None, :])
        owner = units


def steps(random: Random) -> Trial:
    """Return a model behind preprocessing: linear ones and networks at several parties, forests at one."""
    names = names_of(random, 4)
    frame = numbers(random, 80, names, widest=float(random.choice([0.0, 2.0])), missing=0.1)
    told = [f"text {at}" for at in range(int(random.integers(3)))]
    for name in told:
        frame[name] = texts(random, len(frame), missing=0.1)
    target = signal(random, frame)
    core = str(random.choice(["linear", "linear", "forest", "network"]))
    parties = owners(random, list(frame.columns), most=1 if core == "forest" else 5)
    blocks = [block for party, held in parties.items() for block in _blocks(random, party, held, told)]
    is_classes = bool(random.random() < 0.5)
    cores: Mapping[str, Any] = {
        "linear": linear_model.LogisticRegression(max_iter=30) if is_classes else linear_model.Ridge(),
        "forest": (RandomForestClassifier if is_classes else RandomForestRegressor)(4, max_depth=4, random_state=0),
        "network": (MLPClassifier if is_classes else MLPRegressor)((4,), max_iter=10, random_state=0),
    }
    model = make_pipeline(ColumnTransformer(blocks), cores[core])
    fitted(model, frame, classes_of(random, target) if is_classes else target)

    def oracle(rows: pd.DataFrame) -> Said:
        if not is_classes:
            found = as_rows(model.predict(rows), len(rows))
            return found, found
        chances = positive(model.predict_proba(rows))
        if core == "linear":
            return as_rows(model.decision_function(rows), len(rows)), chances
        return chances if core == "forest" else _logits(model, rows), chances

    return trial_of(random, saved(model), frame, parties, oracle, with_head=core == "network")


def _logits(model: Any, rows: pd.DataFrame) -> Any:
    net, transformed = model[-1], model[:-1].transform(rows)
    last, net.out_activation_ = net.out_activation_, "identity"
    try:
        return as_rows(net._forward_pass_fast(transformed), len(rows))
    finally:
        net.out_activation_ = last


def _blocks(random: Random, party: str, held: Sequence[str], told: Sequence[str]) -> list[tuple[str, Any, list[str]]]:
    """Return what is done with a party's columns: none is made of two parties' features."""
    mine = [name for name in held if name in told]
    plain = [name for name in held if name not in told]
    found: list[tuple[str, Any, list[str]]] = []
    if plain:
        found.append((f"{party} numbers", make_pipeline(_imputer(random), *_scaled(random)), plain))
    if mine:
        found.append((f"{party} texts", _encoder(random), mine))
    return found


def _imputer(random: Random) -> Any:
    strategy = str(random.choice(["mean", "median", "most_frequent", "constant"]))
    return SimpleImputer(strategy=strategy, add_indicator=bool(random.random() < 0.3), keep_empty_features=True)


def _scaled(random: Random) -> list[Any]:
    makes: Sequence[Any] = (
        preprocessing.StandardScaler,
        lambda: preprocessing.MinMaxScaler(clip=True),
        preprocessing.PowerTransformer,
        lambda: preprocessing.QuantileTransformer(n_quantiles=20),
        lambda: preprocessing.QuantileTransformer(n_quantiles=10, output_distribution="normal"),
        lambda: preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
        lambda: preprocessing.KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
        lambda: preprocessing.PolynomialFeatures(2, include_bias=bool(random.random() < 0.5)),
        lambda: preprocessing.PolynomialFeatures(3, interaction_only=True, include_bias=False),
    )
    chosen = random.choice(len(makes), int(random.integers(3)), replace=False)
    return [makes[at]() for at in chosen]


def _encoder(random: Random) -> Any:
    filled = SimpleImputer(strategy="constant", fill_value="none")
    most = SimpleImputer(strategy="most_frequent")
    makes: Sequence[Any] = (
        lambda: preprocessing.OneHotEncoder(handle_unknown="ignore"),
        lambda: preprocessing.OneHotEncoder(drop="first"),
        lambda: preprocessing.OneHotEncoder(min_frequency=8, handle_unknown="infrequent_if_exist"),
        preprocessing.OrdinalEncoder,
        lambda: preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-2,
                                             encoded_missing_value=-1),
        lambda: make_pipeline(filled, preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
        lambda: make_pipeline(most, preprocessing.OrdinalEncoder()),
    )  # fmt: skip
    return makes[int(random.integers(len(makes)))]()
