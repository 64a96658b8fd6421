"""The exit codes of the command line, and which error gives which; documented in `docs/cli.md`."""

from __future__ import annotations

from enum import IntEnum

from fedpredict import errors


class ExitCode(IntEnum):
    """What a script can tell from the exit code alone."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIG = 3
    INPUT = 4
    NOT_FOUND = 5
    UNAVAILABLE = 6
    STORAGE = 7
    SECURITY = 8
    FINDINGS = 9
    BUSY = 10


_CODES: dict[type[errors.FedPredictError], ExitCode] = {
    errors.ConfigError: ExitCode.CONFIG,
    errors.InputError: ExitCode.INPUT,
    errors.ConversionError: ExitCode.INPUT,
    errors.IncompatiblePartsError: ExitCode.INPUT,
    errors.ModelNotFoundError: ExitCode.NOT_FOUND,
    errors.ModelNotReadyError: ExitCode.NOT_FOUND,
    errors.TaskNotFoundError: ExitCode.NOT_FOUND,
    errors.ManifestMismatchError: ExitCode.NOT_FOUND,
    errors.PartyError: ExitCode.UNAVAILABLE,
    errors.PopulationRefusedError: ExitCode.UNAVAILABLE,
    errors.MaskingRefusedError: ExitCode.UNAVAILABLE,
    errors.TaskFailedError: ExitCode.UNAVAILABLE,
    errors.UnscoredError: ExitCode.UNAVAILABLE,
    errors.RetryLaterError: ExitCode.UNAVAILABLE,
    errors.ServerUnavailableError: ExitCode.UNAVAILABLE,
    errors.DeadlineExceededError: ExitCode.UNAVAILABLE,
    errors.WarehouseError: ExitCode.STORAGE,
    errors.StoreError: ExitCode.STORAGE,
    errors.StateError: ExitCode.STORAGE,
    errors.LeaseHeldError: ExitCode.BUSY,
    errors.LeaseLostError: ExitCode.BUSY,
    errors.SecurityError: ExitCode.SECURITY,
    errors.AuditBrokenError: ExitCode.FINDINGS,
    errors.AuditUnavailableError: ExitCode.UNAVAILABLE,
    errors.DistinctIdsUsedUpError: ExitCode.UNAVAILABLE,
    errors.DistinctIdsUnavailableError: ExitCode.UNAVAILABLE,
}


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code of an error: that of its nearest class in the tree, or 1 for what nobody expected.

    >>> exit_code(errors.ModelFileError("a.pkl: truncated"))
    <ExitCode.INPUT: 4>
    >>> exit_code(KeyError("x"))
    <ExitCode.UNEXPECTED: 1>
    """
    for cls in type(error).__mro__:
        if cls in _CODES:
            return _CODES[cls]
    return ExitCode.UNEXPECTED
