"""The commands on networks: files of tensors with a description of their layers, through the confined process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.unit.cli.test_commands import Shell

NAMED = ("--model-id", "credit", "--training-run", "run-1")
LAYERS = {
    "format": "fedpredict-layers-1",
    "kind": "linear",
    "layers": [{"linear": "in"}, {"activation": "relu"}, {"linear": "out"}],
}


@pytest.fixture
def network_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A party with features, tensors of a network over them, and what its layers are."""
    monkeypatch.chdir(tmp_path)
    opened = Shell(tmp_path, capsys)
    opened.run("init", "participant", "lab", "--no-certs")
    Path("people.csv").write_text("id,age,income\nu1,40,2\nu2,20,4\n")
    first = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], dtype=np.float32)
    tensors = {"in.weight": first, "in.bias": np.zeros(3, np.float32), "out.weight": np.ones((1, 3), np.float32)}
    save_file(tensors, "net.safetensors")
    Path("layers.json").write_text(json.dumps(LAYERS))
    return opened


def convert(shell: Shell, *more: str) -> Any:
    words = ("model", "convert", "net.safetensors", *NAMED, "--features", "age,income", "--config", shell.config)
    return shell.json(*words, *more)


def test_tensors_are_converted_as_the_description_says(network_shell: Shell) -> None:
    network_shell.run(
        *("features", "load", "people.csv", "--view", "people", "--key", "id", "--config", network_shell.config)
    )

    converted = convert(network_shell, "--layers", "layers.json")
    shown = network_shell.json("model", "show", "credit", "--config", network_shell.config)

    assert (converted["source"], converted["features"]) == ("safetensors", ["age", "income"])
    assert shown["engines"] == ["numpy", "duckdb", "spark", "hive"]


def test_tensors_are_cut_where_no_unit_mixes_parties(network_shell: Shell) -> None:
    words = ("model", "split", "net.safetensors", *NAMED, "--features", "age,income", "--layers", "layers.json")

    network_shell.run(*words, "--party", "lab=income", "--party", "bank=age", "--out", "parts")
    report = network_shell.json("simulate", "--model", "parts", "--data", "people.csv")

    assert (report["scored"], report["largest_relative_difference"]) == (2, 0.0)


def test_a_description_that_is_missing_or_cannot_be_read_is_told(network_shell: Shell) -> None:
    words = (
        "model",
        "convert",
        "net.safetensors",
        *NAMED,
        "--features",
        "age,income",
        "--config",
        network_shell.config,
    )

    assert "describe the layers with --layers" in network_shell.fails(4, *words)
    assert "--layers: none.json cannot be read" in network_shell.fails(4, *words, "--layers", "none.json")
    Path("bad.json").write_text("{")
    assert "the description of the layers is not JSON" in network_shell.fails(4, *words, "--layers", "bad.json")
    with Path("large.json").open("wb") as large:
        large.truncate(2**30)
    told = network_shell.fails(4, *words, "--layers", "large.json")
    assert "--layers: large.json has 1073741824 bytes; the limit is 16777216" in told
