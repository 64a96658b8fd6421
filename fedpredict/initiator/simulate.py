"""Answers without partners, for integrators: the right shape, the same number for the same sample, and no meaning."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from fedpredict.errors import ModelNotFoundError
from fedpredict.initiator.admission import Admission
from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.settings import ModelSettings, SimulateSettings
from fedpredict.initiator.submit import Done, GiveUp, submit_coroutine
from fedpredict.model.arrays import Floats
from fedpredict.model.combine import finish
from fedpredict.model.ids import valid_sample_ids
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import ModelInfo, Origin, Prediction, PredictTask
from fedpredict.model.share import SampleStatus
from fedpredict.security.identity import Identity

LARGEST_SCORE = 4.0
"""Raw scores lie between minus this and this: probabilities from 0.018 to 0.982."""


@dataclass(frozen=True, slots=True)
class _Shape:
    kind: Kind
    link: Link
    classes: tuple[str, ...]
    n_scores: int


class Simulator(Predicts):
    """Answers every configured model by itself; no party is asked."""

    def __init__(
        self, models: Mapping[str, ModelSettings], pinned: Mapping[str, Manifest], admission: Admission
    ) -> None:
        """Prepare.

        Args:
            models: The models of the settings.
            pinned: The pinned manifests; where there is one, answers have its kind, link, classes and width.
            admission: What a task must be, as with partners.
        """
        self._admission = admission
        self._pinned = {model_id: pinned[model_id] for model_id in models if model_id in pinned}
        self._shapes = {model_id: _shape_of(models[model_id], pinned.get(model_id)) for model_id in models}

    @override
    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        """Return made-up numbers, marked `simulated`; the deadline plays no part."""
        self._admission.check(task, caller)
        shape, pinned = self._shape(task.model_id), self._pinned.get(task.model_id)
        raw = await asyncio.to_thread(simulated_scores, task.model_id, task.sample_ids, shape.n_scores)
        valid = valid_sample_ids(task.sample_ids)
        status = np.where(valid, np.uint8(SampleStatus.OK), np.uint8(SampleStatus.ID_INVALID))
        combined = finish(shape.link, raw, status)
        return Prediction(
            request_id=task.request_id,
            manifest_sha256=pinned.manifest_sha256 if pinned else "",
            predictions=combined.predictions,
            status=combined.status,
            origin=np.where(combined.status == SampleStatus.OK, np.uint8(Origin.MODEL), np.uint8(Origin.UNSPECIFIED)),
            classes=shape.classes,
            parties=(),
            simulated=True,
        )

    @override
    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        """Begin a made-up prediction."""
        return submit_coroutine(self.predict(task, caller, deadline_s=deadline_s), done)

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Every configured model, sorted."""
        return tuple(sorted(self._shapes))

    def info(self, model_id: str) -> ModelInfo:
        """Return the model as its users see it, always ready; raise `ModelNotFoundError`."""
        shape, pinned = self._shape(model_id), self._pinned.get(model_id)
        return ModelInfo(
            model_id=model_id,
            ready=True,
            problem="",
            kind=shape.kind,
            link=shape.link,
            classes=shape.classes,
            parties=(),
            manifest_sha256=pinned.manifest_sha256 if pinned else "",
            n_outputs=shape.link.n_outputs(shape.n_scores),
        )

    def _shape(self, model_id: str) -> _Shape:
        shape = self._shapes.get(model_id)
        if shape is None:
            raise ModelNotFoundError(f"model {model_id} is not under [models]")
        return shape


def simulated_scores(model_id: str, sample_ids: Sequence[bytes], n_scores: int) -> Floats:
    """Return raw scores made of hashes of model and sample id; shape (n_samples, n_scores)."""
    salt = b"fedpredict-simulate-1\0" + model_id.encode() + b"\0"
    digests = b"".join(hashlib.shake_256(salt + sample_id).digest(8 * n_scores) for sample_id in sample_ids)
    words = np.frombuffer(digests, dtype=">u8").reshape(len(sample_ids), n_scores)
    return np.asarray((words / 2.0**64 * 2.0 - 1.0) * LARGEST_SCORE, dtype=np.float64)


def _shape_of(settings: ModelSettings, pinned: Manifest | None) -> _Shape:
    if pinned is not None:
        return _Shape(pinned.kind, pinned.link, pinned.classes, pinned.n_raw)
    said = settings.simulate or SimulateSettings()
    return _Shape(said.kind, said.link or own_link(said.kind), said.classes, said.n_scores)
