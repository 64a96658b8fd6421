"""Every error has a documented exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpredict import errors
from fedpredict.cli.exits import ExitCode, exit_code

EXPECTED = {
    "ConfigError": 3,
    "InputError": 4,
    "ConversionError": 4,
    "WarehouseError": 7,
    "StoreError": 7,
    "StateError": 7,
    "LeaseHeldError": 10,
    "LeaseLostError": 10,
    "SecurityError": 8,
    "ModelNotFoundError": 5,
    "ModelNotReadyError": 5,
    "ManifestMismatchError": 5,
    "PopulationRefusedError": 6,
    "MaskingRefusedError": 6,
    "TaskNotFoundError": 5,
    "TaskFailedError": 6,
    "UnscoredError": 6,
    "AuditBrokenError": ExitCode.FINDINGS,
    "AuditUnavailableError": ExitCode.UNAVAILABLE,
    "DistinctIdsUnavailableError": ExitCode.UNAVAILABLE,
    "DistinctIdsUsedUpError": ExitCode.UNAVAILABLE,
    "RetryLaterError": 6,
    "IncompatiblePartsError": 4,
    "PartyError": 6,
    "ServerUnavailableError": 6,
    "DeadlineExceededError": 6,
}


@pytest.mark.parametrize("cls", errors.FedPredictError.__subclasses__())
def test_every_branch_of_the_tree_has_its_code(cls: type[errors.FedPredictError]) -> None:
    assert exit_code(cls.__new__(cls)) == EXPECTED[cls.__name__]


def test_a_leaf_has_the_code_of_its_branch() -> None:
    assert exit_code(errors.PartyTimeoutError("", party="lab")) is ExitCode.UNAVAILABLE
    assert exit_code(errors.TooManySamplesError("", limit=1)) is ExitCode.INPUT


def test_what_nobody_expected_is_one() -> None:
    assert exit_code(ZeroDivisionError()) is ExitCode.UNEXPECTED


def test_every_code_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()

    assert all(f"| {code.value} |" in text for code in ExitCode)
