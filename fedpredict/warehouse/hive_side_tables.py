"""Tables of a session's own, which an INSERT fills beside the table that it is for."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Sequence
from typing import Self

from sqlglot import exp

from fedpredict.errors import WarehouseUnavailableError
from fedpredict.warehouse.base import check_identifier
from fedpredict.warehouse.hive_connection import Engine, HiveSession, RefusedByServerError

logger = logging.getLogger(__name__)


class SideTables:
    """Temporary tables for what a series of INSERTs gathers of its rows: made for the first, dropped at the end.

    In Spark there are none: it reads the source once for each table that a statement fills.
    """

    def __init__(self, session: HiveSession) -> None:
        self._session = session
        self._is_able = session.engine is Engine.HIVE
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RefusedByServerError, WarehouseUnavailableError):  # they end with the session anyhow
            for name in self._names:
                self._session.execute(f"DROP TABLE IF EXISTS `{name}`")

    def tables_of(self, summaries: Sequence[exp.Select]) -> list[str]:
        """Return a table for each summary, in the same order; none where the engine is not able to.

        Args:
            summaries: Of one statement; they have the same columns as those of the statements before.
        """
        try:
            while self._is_able and len(self._names) < len(summaries):
                self._make(summaries[len(self._names)])
        except RefusedByServerError as error:  # an administrator may allow none: rows are counted when they are stored
            logger.info("hive.no_temporary_tables", extra={"reason": str(error)})
            self._is_able = False
        return self._names[: len(summaries)] if self._is_able else []

    def _make(self, summary: exp.Select) -> None:
        name = f"fp_side_{uuid.uuid4().hex}"
        columns = ", ".join(f"`{check_identifier(column)}` BIGINT" for column in summary.named_selects)
        self._session.execute(f"CREATE TEMPORARY TABLE `{name}` ({columns}) STORED AS TEXTFILE")
        self._names.append(name)
