"""What every work needs: parties that run, requests written for wrk, and answers held against the truth."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from servebench.federation import CLIENT, MODEL, Federation, Layout, sample_id
from servebench.reference import Reference
from servebench.result import Printer
from servebench.wrk import Measured, run_wrk, write_requests

CHECKED = 100
TOLERANCE = 1e-12
SCORED = '"predictions":[[|"reasons":[]'
"""What stands in the JSON of an answer that has a number for every sample."""
UNSCORED = "[null|],null"
PREDICT = "/v1/predict"
CALLER = {"x-fedpredict-client": CLIENT}
JSON = {"Content-Type": "application/json"}


class NotOfferedError(Exception):
    """The server has no such edge or method yet."""


class WrongAnswerError(Exception):
    """An answer is not what the joint model says: its speed is of no interest."""


@dataclass
class Bench:
    """One run of scripts/bench serve.

    Attributes:
        folder: Temporary; everything is in it.
        printer: Where lines go.
        seconds: How long each measurement takes.
        rounds: How often each is made; medians count.
        tls: Whether parties speak mutual TLS.
        references: What to set ours beside.
    """

    folder: Path
    printer: Printer
    seconds: float
    rounds: int
    tls: bool
    quick: bool = False
    references: list[Reference] = field(default_factory=list)
    _federations: dict[str, Federation] = field(default_factory=dict)

    def use(self, layout: Layout) -> Federation:
        """Return the parties of a layout, running; no others run meanwhile."""
        federation = self._federations.get(layout.name)
        if federation is None:
            self.rest()
            self.printer.say(f"setting up {layout.name}: {', '.join(layout.participants)}, {layout.n_ids:,} ids ...")
            federation = Federation(self.folder, layout, self.tls)
            federation.set_up()
            self._federations[layout.name] = federation
        if not federation.processes:
            self.rest()
            federation.start()
        return federation

    def use_http(self, layout: Layout) -> Federation:
        """Return the same, if it has an HTTP edge."""
        federation = self.use(layout)
        if not federation.offers_http:
            raise NotOfferedError("the initiator takes no settings for a plain HTTP edge on loopback")
        return federation

    def rest(self) -> None:
        """Stop every party: nothing else runs while a reference is measured."""
        for federation in self._federations.values():
            federation.stop()

    def pack(self, name: str, url: str, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> Path:
        """Write requests for wrk."""
        return write_requests(self.folder / f"{name}.requests", url, bodies, {**CALLER, **(headers or {})})

    def wrk(self, url: str, requests: Path, connections: int, must: str = SCORED, never: str = UNSCORED) -> Measured:
        """Load an HTTP edge."""
        return run_wrk(url, requests, connections=connections, seconds=self.seconds, must=must, never=never)


def rows_of(count: int, n_ids: int, questions: int, seed: int = 0) -> np.ndarray:
    """Return which rows each question asks for, shape (questions, count)."""
    return np.random.default_rng(seed).integers(0, n_ids, size=(questions, count))


def ids_of(rows: Sequence[int] | np.ndarray) -> list[str]:
    """Return the sample ids of some rows."""
    return [sample_id(int(row)) for row in rows]


def json_body(ids: Sequence[str], model: str = MODEL, inputs: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return the body of a prediction asked for in JSON."""
    content: dict[str, object] = {"model": model, "sample_ids": list(ids)}
    if inputs is not None:
        content["inputs"] = {name: values.tolist() for name, values in inputs.items()}
    return json.dumps(content, separators=(",", ":")).encode()


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """Return the answer to a POST; raise `NotOfferedError` where nothing is served there."""
    request = urllib.request.Request(url, body, {**CALLER, **headers})  # noqa: S310  our own server
    try:
        with urllib.request.urlopen(request, timeout=20.0) as answer:  # noqa: S310
            return answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        text = error.read()[:300].decode("utf-8", "replace")
        if error.code in (404, 405, 501) and "no such model" not in text.lower():
            raise NotOfferedError(f"HTTP {error.code} at {url}") from error
        raise WrongAnswerError(f"HTTP {error.code} at {url}: {text}") from error
    except OSError as error:
        raise NotOfferedError(f"{url}: {error}") from error


def check(
    given: Callable[[], np.ndarray] | np.ndarray, expected: np.ndarray, what: str, within: float = TOLERANCE
) -> None:
    """Raise `WrongAnswerError` unless predictions are the joint model's own."""
    numbers = np.asarray(given() if callable(given) else given, dtype=np.float64).reshape(-1)
    if numbers.shape != expected.shape or not np.allclose(numbers, expected, rtol=0.0, atol=within):
        worst = np.abs(numbers - expected).max() if numbers.shape == expected.shape else "their number"
        raise WrongAnswerError(f"{what}: the answers are not the joint model's; off by {worst}")


def check_json(federation: Federation, model: str = MODEL, *, inline: bool = False) -> None:
    """Hold 100 answers in JSON against the truth."""
    rows = np.arange(CHECKED)
    inputs = own_features(federation, rows) if inline else None
    answer, _ = post(federation.url + PREDICT, json_body(ids_of(rows), model, inputs), JSON)
    check(np.array(json.loads(answer)["predictions"], dtype=np.float64), federation.expected(rows, model), "JSON")


def check_client(federation: Federation, model: str = MODEL, within: float = TOLERANCE) -> None:
    """Hold 100 answers over gRPC against the truth."""
    rows = np.arange(CHECKED)
    with federation.client() as client:
        check(client.predict(model, ids_of(rows)).values, federation.expected(rows, model), "gRPC", within)


def own_features(federation: Federation, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the initiator's own features of some rows, by name."""
    table = federation.features(np.asarray(rows, dtype=np.float64))
    own = federation.layout.own_features
    return {name: table[:, place] for place, name in enumerate(federation.names[:own])}
