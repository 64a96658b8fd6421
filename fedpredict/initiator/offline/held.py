"""What of a task a caller may have, now: held against every call, and while results are on their way."""

from __future__ import annotations

from fedpredict.errors import TaskNotFoundError
from fedpredict.initiator.admission import Access
from fedpredict.model.offline import OfflineTask
from fedpredict.security.identity import Identity
from fedpredict.security.policy import Rule


def rule_for(access: Access, task: OfflineTask, caller: Identity) -> Rule:
    """Return the rule of a caller whose model a task is of; raise `TaskNotFoundError`, as for one that is not there."""
    rule, model_id = access.rule_of(caller), task.new.manifest.model_id
    if rule is None or not rule.has(model_id):
        raise TaskNotFoundError(f"{caller} may not ask for model {model_id} of task {task.task_id}")
    return rule


def check_whole(access: Access, task: OfflineTask, caller: Identity) -> None:
    """Check that a caller may have every row of a task, whoever submitted it.

    Raises:
        TaskNotFoundError: It is of a model that is not the caller's.
        NotPermittedError: It is in a mode that is not the caller's.
        TooManySamplesError: It is about more rows than the caller may ask for.
        TokenRefusedError: The caller's token is no longer good.
    """
    rule = rule_for(access, task, caller)
    rule.check_mode(task.new.mode)
    rule.check_offline_rows(task.new.rows)
