"""A session of a server, set up as our statements rely on."""

from __future__ import annotations

import contextlib
import logging

from fedpredict.errors import StatementError
from fedpredict.warehouse.hive_connection import Engine, HiveSession, RefusedByServerError
from fedpredict.warehouse.hive_settings import HiveSettings

logger = logging.getLogger(__name__)

_SPARK_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
}
"""What our statements rely on, whatever the server's own settings are: partitions that rows do not name stay."""
_MOST_PARTITIONS = {
    "hive.exec.max.dynamic.partitions": "100000",
    "hive.exec.max.dynamic.partitions.pernode": "100000",
}
"""How many partitions the rows of one statement may name: a task has thousands, and 100 is what Hive begins with."""
_EXCLUDED_RULES = "spark.sql.optimizer.excludedRules"
_SPARK_EXCLUDED = (
    "org.apache.spark.sql.execution.planmerging.MergeSubplans",
    "org.apache.spark.sql.catalyst.optimizer.MergeScalarSubqueries",
)
"""Rules of Spark's optimizer, by the names that its versions give them, that a session does without.

They merge the queries that make one row of a model's parameters into each of their users: 15 features in 5 bins became
a plan of 900 kB instead of 28, which took minutes to work on, or more memory than the server has.
"""


def open_session(settings: HiveSettings) -> HiveSession:
    """Return a session of the server that the settings name.

    Raises:
        StatementError: It does not take what a session must have.
        WarehouseUnavailableError: It cannot be reached.
    """
    session = HiveSession(settings, settings.database)
    if session.engine is Engine.SPARK:
        try:
            for key, value in (_SPARK_SESSION | {_EXCLUDED_RULES: _excluded_rules(session)}).items():
                session.execute(f"SET {key}={value}")
        except RefusedByServerError as error:
            session.close()
            raise StatementError(f"{settings.address} does not take the session's settings: {error}") from error
    for key, value in _MOST_PARTITIONS.items():
        with contextlib.suppress(RefusedByServerError):  # its administrator's limit holds, and says so when it is met
            session.execute(f"SET {key}={value}")
    logger.info("hive.connected", extra={"address": settings.address, "engine": session.engine.value})
    return session


def _excluded_rules(session: HiveSession) -> str:
    """Return what the server's own settings exclude, and what we do."""
    told: str = session.execute(f"SET {_EXCLUDED_RULES}").column("value")[0].as_py()
    own = [] if told == "<undefined>" else [rule.strip() for rule in told.split(",")]
    return ",".join(dict.fromkeys([*own, *_SPARK_EXCLUDED]))
