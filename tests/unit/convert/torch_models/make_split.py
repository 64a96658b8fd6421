"""Writes `split-<torch version>.json`: split learning as PyTorch saves it, with its own predictions.

Run once in an environment with PyTorch, numpy and safetensors (any build for the processor), never by the tests:
`python make_split.py`. Each entry has, for each party and for `top`, a file as torch.save and safetensors write it and
the description of its layers; the inputs of each party; and the probabilities in float32 and in float64.
"""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

OWNERS = {"bank": ["age", "income"], "lab": ["visits", "debt", "height"]}
_FORMAT = "fedpredict-layers-1"


class Joint(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
    """A bottom for each party, and a top over the sum or the concatenation of what they give."""

    def __init__(self, bottoms: dict[str, nn.Module], top: nn.Module, *, is_sum: bool) -> None:
        super().__init__()
        self.bottoms, self.top = nn.ModuleDict(bottoms), top
        self._is_sum = is_sum

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scores for the inputs of each party."""
        given = [bottom(inputs[party]) for party, bottom in self.bottoms.items()]
        return self.top(torch.stack(given).sum(dim=0) if self._is_sum else torch.cat(given, dim=1))


def _concat() -> tuple[Joint, dict[str, Any]]:
    """Three classes; each module is a file of its own, and the top begins with an activation."""
    bottoms = {
        "bank": nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)),
        "lab": nn.Sequential(nn.Linear(3, 2), nn.Tanh()),
    }
    top = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.LeakyReLU(0.1), nn.Dropout(), nn.Linear(4, 3))
    shared = {
        "format": _FORMAT, "kind": "multinomial", "classes": ["a", "b", "c"],
        "combining": "top_concat", "structure": "bottoms of 3 and 2, dense 4, dense 3",
    }  # fmt: skip
    steps = [{"linear": "0"}, {"activation": "relu"}, {"linear": "2"}]
    other = [{"linear": "0"}, {"activation": "tanh"}]
    above = [
        {"activation": "relu"}, {"batch_norm": "1"}, {"linear": "2"}, {"activation": "leaky_relu", "slope": 0.1},
        {"linear": "5"},
    ]  # fmt: skip
    return Joint(bottoms, top, is_sum=False), {
        "bank": {**shared, "n_outputs": 3, "inputs": OWNERS["bank"], "layers": steps},
        "lab": {**shared, "n_outputs": 3, "n_scores": 3, "inputs": OWNERS["lab"], "layers": other},
        "top": {**shared, "parties": ["bank", "lab"], "widths": [3, 2], "layers": above},
    }


def _sum() -> tuple[Joint, dict[str, Any]]:
    """Two classes; every file is the state of the whole model."""
    bottoms = {party: nn.Sequential(nn.Linear(len(names), 3)) for party, names in OWNERS.items()}
    top = nn.Sequential(nn.Tanh(), nn.Linear(3, 1))
    shared = {
        "format": _FORMAT, "kind": "binary", "classes": ["no", "yes"],
        "combining": "top_sum", "structure": "linear bottoms of 3, dense 1",
    }  # fmt: skip
    parts = {
        party: {**shared, "prefix": f"bottoms.{party}.", "inputs": names, "layers": [{"linear": "0"}]}
        for party, names in OWNERS.items()
    }
    above = [{"activation": "tanh"}, {"linear": "1"}]
    head = {**shared, "prefix": "top.", "parties": ["bank", "lab"], "widths": [3, 3], "layers": above}
    return Joint(bottoms, top, is_sum=True), {**parts, "top": head}


def _trained(joint: Joint, inputs: dict[str, torch.Tensor]) -> Joint:
    """Give batch normalisations something to have seen."""
    joint.train()
    joint(inputs)
    joint.eval()
    return joint


def _files(module: nn.Module) -> dict[str, str]:
    state, file = module.state_dict(), io.BytesIO()
    torch.save(state, file)
    contents = {"pt": file.getvalue(), "safetensors": save({name: each.clone() for name, each in state.items()})}
    return {name: base64.b64encode(content).decode() for name, content in contents.items()}


def _probabilities(joint: Joint, inputs: dict[str, torch.Tensor]) -> list[list[float]]:
    with torch.no_grad():
        scores = joint(inputs)
    found: list[list[float]] = (scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(dim=1)).tolist()
    return found


def main() -> None:
    """Make models, let them compute, write."""
    torch.manual_seed(11)
    inputs = {party: 2.0 * torch.randn(24, len(names)) for party, names in OWNERS.items()}
    doubles = {party: each.double() for party, each in inputs.items()}
    entries = {}
    for name, (joint, layers) in {"top_concat": _concat(), "top_sum": _sum()}.items():
        _trained(joint, inputs)
        modules = {**joint.bottoms, "top": joint.top} if name == "top_concat" else dict.fromkeys(layers, joint)
        entries[name] = {
            "files": {each: _files(module) for each, module in modules.items()},
            "layers": layers,
            "float32": _probabilities(joint, inputs),
            "float64": _probabilities(copy.deepcopy(joint).double(), doubles),
        }
    path = Path(__file__).with_name(f"split-{torch.__version__.split('+')[0]}.json")
    path.write_text(json.dumps({"inputs": {party: each.tolist() for party, each in inputs.items()}, **entries}) + "\n")


if __name__ == "__main__":
    main()
