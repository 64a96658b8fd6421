"""Is there anything to measure? A few questions before the load, so that a mistake is told and not measured."""

from __future__ import annotations

from fedpredict.client.load.record import NO_NUMBER
from fedpredict.client.load.target import Answer, LoadTarget
from fedpredict.errors import (
    FedPredictError,
    InputError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
    UnauthenticatedError,
)

QUESTIONS = 3

_BY_STATUS: dict[str, type[FedPredictError]] = {
    "400": InputError,
    "401": UnauthenticatedError,
    "403": UnauthenticatedError,
    "404": ModelNotFoundError,
    "413": InputError,
    "415": InputError,
    "422": InputError,
    "503": ModelNotReadyError,
}


async def check_answers(target: LoadTarget, model_id: str, *, allow_unscored: bool) -> None:
    """Ask a few questions; return where load would measure predictions.

    Args:
        target: The server.
        model_id: What is asked for, to name it.
        allow_unscored: Go on although no question gets a number for every sample.

    Raises:
        ServerUnavailableError: There is no such server, or it fails.
        ModelNotFoundError, ModelNotReadyError, InputError, UnauthenticatedError: What it says.
        InputError: None of the questions got a number for every sample.
    """
    answers = [await target.ask(number) for number in range(QUESTIONS)]
    for answer in answers:
        _check_status(answer, model_id)
    if all(answer.kind == NO_NUMBER for answer in answers) and not allow_unscored:
        raise InputError(
            f"{QUESTIONS} questions to model {model_id!r} were answered without a number: are these the ids that the "
            "parties know? `fedpredict predict` shows each sample's status; --allow-unscored measures all the same"
        )


def _check_status(answer: Answer, model_id: str) -> None:
    if not answer.code.isdecimal() or answer.code in ("200", "429"):
        return
    text = " ".join(answer.text.split())
    error = _BY_STATUS.get(answer.code, ServerUnavailableError)
    raise error(f"model {model_id!r}: the server answers with status {answer.code}: {text or 'and no text'}")
