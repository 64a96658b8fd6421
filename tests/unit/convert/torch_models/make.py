"""Writes `networks-<torch version>.json`: files of the PyTorch that runs this, with its own outputs.

Run once in an environment with PyTorch, numpy and safetensors (any build for the processor), never by the tests:
`python make.py`. The tests read what it wrote, with no PyTorch at hand. Each entry has a state dict as torch.save and
safetensors write it (under `files`, because the networks of all activations have the same weights), the description of
its layers, inputs (categories as the codes that the network saw), and what the network gave for them in float32 and in
float64.
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

ACTIVATIONS: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "softmax": nn.Softmax(dim=1),
}


class Embedded(nn.Module):  # type: ignore[misc]  # PyTorch is not installed where types are checked
    """Two numbers, a text of three with a row for the unknown, and an integer below four."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Embedding(4, 2)
        self.region = nn.Embedding(4, 3)
        self.net = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1))
        self.bias = nn.Parameter(torch.tensor([0.25]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Columns: number, code of the colour, code of the region, number."""
        colour, region = self.colour(x[:, 1].long()), self.region(x[:, 2].long())
        return self.net(torch.cat([x[:, :1], colour, region, x[:, 3:]], dim=1)) + self.bias


def _trained_norm(net: nn.Module, width: int) -> nn.Module:
    """Give batch normalisations something to have seen."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.train()
    net(3.0 * torch.randn(64, width) + 1.0)
    return net.eval()


def _description(layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"format": "fedpredict-layers-1", "kind": "linear", "layers": layers, **more}


def _entries() -> dict[str, tuple[nn.Module, dict[str, Any], torch.Tensor]]:
    entries: dict[str, tuple[nn.Module, dict[str, Any], torch.Tensor]] = {}
    x = 2.0 * torch.randn(12, 3)
    first, last = nn.Linear(3, 5), nn.Linear(5, 2, bias=False)
    for name, module in ACTIVATIONS.items():
        step: dict[str, Any] = {"activation": name, **({"slope": 0.2} if name == "leaky_relu" else {})}
        net = nn.Sequential(first, module, last)
        entries[name] = (net, _description([{"linear": "0"}, step, {"linear": "2"}]), x)
    norm = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.BatchNorm1d(5, eps=1e-3), nn.ReLU(),
                       nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2), nn.Tanh(), nn.BatchNorm1d(2))  # fmt: skip
    steps: list[dict[str, Any]] = [
        {"batch_norm": "0"}, {"linear": "1"}, {"batch_norm": "2", "eps": 1e-3}, {"activation": "relu"},
        {"batch_norm": "4"}, {"linear": "5"}, {"activation": "tanh"}, {"batch_norm": "7"},
    ]  # fmt: skip
    entries["batch_norm"] = (_trained_norm(norm, 3), _description(steps), x)
    inputs = [
        "age",
        {"feature": "colour", "embedding": "colour", "categories": {"red": 1, "green": 2, "blue": 3}, "unknown": 0},
        {"feature": "region", "embedding": "region"},
        "income",
    ]
    codes = torch.tensor([[1.0, 0.0], [2.0, 3.0], [3.0, 1.0], [0.0, 2.0]]).repeat(3, 1)
    mixed = torch.cat([x[:, :1], codes, x[:, 1:2]], dim=1)
    layers = [{"linear": "net.0"}, {"activation": "relu"}, {"linear": "net.2"}]
    described = _description(layers, inputs=inputs, intercept="bias")
    entries["embedded"] = (Embedded(), {**described, "kind": "binary", "classes": ["no", "yes"]}, mixed)
    return entries


def _files(net: nn.Module) -> dict[str, str]:
    state, file = net.state_dict(), io.BytesIO()
    torch.save(state, file)
    contents = {"pt": file.getvalue(), "safetensors": save(dict(state))}
    return {name: base64.b64encode(content).decode() for name, content in contents.items()}


def _outputs(net: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    net.eval()
    with torch.no_grad():
        return {"float32": net(x).tolist(), "float64": copy.deepcopy(net).double()(x.double()).tolist()}


def main() -> None:
    """Make networks, let them compute, write."""
    torch.manual_seed(7)
    path = Path(__file__).with_name(f"networks-{torch.__version__.split('+')[0]}.json")
    files, entries = {}, {}
    for name, (net, description, x) in _entries().items():
        file = "plain" if name in ACTIVATIONS else name
        files[file] = _files(net)
        entries[name] = {"file": file, "layers": description, "inputs": x.tolist(), **_outputs(net, x)}
    path.write_text(json.dumps({"files": files, "entries": entries}) + "\n")


if __name__ == "__main__":
    main()
