"""The commands of docs/http.md, typed as they stand there; only the ports are changed to free ones."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from scripts.freeports import free_ports
from tests.e2e.test_readme import served, shell

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    found = re.search(rf"<!-- http:{name} -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def test_the_page_of_http_does_what_it_says(tmp_path: Path) -> None:
    grpc, http = free_ports(2)
    shell(block("configure"), tmp_path)
    settings = tmp_path / "bank" / "initiator.toml"
    settings.write_text(
        settings.read_text()
        .replace("127.0.0.1:7440", f"127.0.0.1:{grpc}")
        .replace("127.0.0.1:7480", f"127.0.0.1:{http}")
    )
    shorthand = block("shorthand").replace("7480", str(http))

    def ask(name: str) -> list[dict[str, object]]:
        said = shell(shorthand + block(name), tmp_path)
        answers, decoder = [], json.JSONDecoder()
        while said.strip():
            answer, end = decoder.raw_decode(said.strip())
            answers.append(answer)
            said = said.strip()[end:]
        return answers

    with served(block("serve"), tmp_path):
        end = time.monotonic() + 60
        while "HTTP on" not in (tmp_path / "serve.log").read_text():
            assert time.monotonic() < end, (tmp_path / "serve.log").read_text()
            time.sleep(0.1)
        (prediction,) = ask("predict")
        listed, model, ready = ask("models")
        metadata, inference = ask("infer")
        (problem,) = ask("error")

    assert prediction["request_id"] == "app-1"
    assert prediction["status"] == ["OK", "ID_INVALID"]
    assert prediction["predictions"][1] is None  # type: ignore[index]
    assert (listed["models"], ready) == ([model], {"status": "ready"})
    assert metadata["platform"] == "fedpredict"
    assert [output["name"] for output in inference["outputs"]] == ["prediction", "status"]  # type: ignore[attr-defined]
    assert problem["detail"] == "$.sample_ids[1]: Expected `str`, got `int`"
