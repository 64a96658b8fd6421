"""One session with a HiveServer2, and the only module that knows its drivers (PyHive, Thrift, SASL).

PyHive opens the session. Statements then go through the Thrift client itself, because PyHive's cursor logs every
statement with its values, waits a second between polls, and gives rows where Arrow wants columns.
"""

from __future__ import annotations

import base64
import http.client
import logging
import ssl
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pyarrow as pa
from typing_extensions import override

from fedpredict.errors import ConfigError, StatementError, WarehouseUnavailableError
from fedpredict.warehouse.hive_results import ResultColumn, arrow_column, arrow_table
from fedpredict.warehouse.hive_settings import HiveSettings

try:
    from pyhive import hive as pyhive
    from TCLIService import ttypes
    from thrift import Thrift
    from thrift.transport import THttpClient, TSocket, TSSLSocket, TTransport
    from thrift_sasl import TSaslClientTransport
except ImportError as error:
    raise ConfigError(f"a Hive warehouse needs its drivers ({error.name}): pip install 'fedpredict[hive]'") from error

logger = logging.getLogger(__name__)
# Thrift logs what it raises as well, with a traceback; whoever catches our error reports it once
logging.getLogger("thrift.transport").setLevel(logging.CRITICAL)

USERNAME = "fedpredict"  # where none is set: the process's own may have no name in a container
WAIT_PART = 1 / 16
"""Of the time that a statement has taken, what passes before the server is asked again whether it is done."""
FETCH_ROWS = 10_000  # what HiveServer2 allows in one answer by default
_BROKEN = (Thrift.TException, OSError, EOFError, http.client.HTTPException)
"""What the drivers raise when the connection, not the statement, is the trouble."""
_UNFINISHED = (
    ttypes.TOperationState.INITIALIZED_STATE,
    ttypes.TOperationState.PENDING_STATE,
    ttypes.TOperationState.RUNNING_STATE,
)


class Engine(StrEnum):
    """Who answers: the two dialects that differ."""

    HIVE = "hive"
    SPARK = "spark"


class RefusedByServerError(Exception):
    """The server refused a statement: its words, for `hive` to translate. They may repeat values of the statement."""

    def __init__(self, message: str, sql_state: str | None, code: int | None) -> None:
        super().__init__(_first_line(message))
        self.message, self.sql_state, self.code = message, sql_state, code

    @property
    def no_such_table(self) -> bool:
        """Whether the statement names a table that does not exist."""
        return self.sql_state in ("42S02", "42P01")

    @property
    def is_momentary(self) -> bool:
        """Whether Spark's metastore stumbled over a partition that another session wrote at that moment."""
        return "INTERNAL_ERROR_HIVE_METASTORE_PARTITION_FILTER" in self.message


class _TlsSocket(TSSLSocket.TSSLSocket):  # type: ignore[misc]
    """Thrift's TLS socket, whose `close` breaks when it was never open and hides why it was not."""

    @override
    def close(self) -> None:
        if self.handle is not None:
            super().close()


class HiveSession:
    """An open session. Not thread safe. After a `WarehouseUnavailableError` it can only be closed."""

    def __init__(self, settings: HiveSettings, database: str) -> None:
        """Connect, log in and choose the database.

        Raises:
            WarehouseUnavailableError: No connection, no trust in the certificate, or the login was refused.
            StatementError: The database does not exist.
        """
        self._settings = settings
        self._is_broken = False
        self._transport, self._set_timeout = _transport(settings)
        self._set_timeout(settings.connect_timeout_s * 1000)
        try:
            self._connection = pyhive.Connection(
                thrift_transport=self._transport, username=settings.username or USERNAME, database=database
            )
        except pyhive.OperationalError as error:
            status = error.args[0].status
            raise StatementError(
                f"{settings.address} gives no session in database {database}: {_first_line(status.errorMessage)}"
            ) from error
        except AssertionError as error:  # how PyHive says that it does not know the server's version
            raise WarehouseUnavailableError(f"{settings.address} speaks another protocol: {error}") from error
        except _BROKEN as error:
            raise WarehouseUnavailableError(_why_no_session(settings, self._transport, error)) from error
        self._set_timeout(settings.call_timeout_s * 1000)
        try:
            self.engine = self._ask_engine()
        except (RefusedByServerError, WarehouseUnavailableError) as error:
            self.close()
            raise WarehouseUnavailableError(f"{settings.address} does not say what it is: {error}") from error

    def _ask_engine(self) -> Engine:
        name = self._get_info(ttypes.TGetInfoType.CLI_DBMS_NAME)
        return Engine.SPARK if "spark" in name.lower() else Engine.HIVE

    def _get_info(self, what: int) -> str:
        handle = self._connection.sessionHandle
        answer = self._call(self._connection.client.GetInfo, ttypes.TGetInfoReq(sessionHandle=handle, infoType=what))
        return str(answer.infoValue.stringValue)

    def is_alive(self) -> bool:
        """Return whether server and session are still there: one round trip, no statement."""
        try:
            self._get_info(ttypes.TGetInfoType.CLI_DBMS_VER)
        except (WarehouseUnavailableError, RefusedByServerError):
            return False
        return True

    def execute(self, sql: str) -> pa.Table:
        """Execute one statement and return its rows; no rows and no columns where it has none.

        Raises:
            RefusedByServerError: The server refused it, or it took longer than `statement_timeout_s`.
            WarehouseUnavailableError: The connection broke; whether the statement took effect is unknown.
        """
        client = self._connection.client
        request = ttypes.TExecuteStatementReq(self._connection.sessionHandle, sql, runAsync=True)
        operation = self._call(client.ExecuteStatement, request).operationHandle
        try:
            self._await(operation)
            return self._fetch(operation) if operation.hasResultSet else pa.table({})
        finally:
            self._close_operation(operation)

    def _await(self, operation: Any) -> None:
        client = self._connection.client
        began = time.monotonic()
        while True:
            state = self._call(client.GetOperationStatus, ttypes.TGetOperationStatusReq(operation))
            if state.operationState not in _UNFINISHED:
                break
            taken_s = time.monotonic() - began
            if taken_s > self._settings.statement_timeout_s:
                self._call(client.CancelOperation, ttypes.TCancelOperationReq(operation))
                raise RefusedByServerError(f"cancelled after {self._settings.statement_timeout_s:g} s", None, None)
            time.sleep(min(max(taken_s * WAIT_PART, 0.001), 0.1))
        if state.operationState != ttypes.TOperationState.FINISHED_STATE:
            raise RefusedByServerError(state.errorMessage or "the statement failed", state.sqlState, state.errorCode)

    def _fetch(self, operation: Any) -> pa.Table:
        client = self._connection.client
        described = self._call(client.GetResultSetMetadata, ttypes.TGetResultSetMetadataReq(operation))
        columns = [_result_column(column) for column in described.schema.columns]
        batches: list[list[pa.Array]] = []
        request = ttypes.TFetchResultsReq(operation, ttypes.TFetchOrientation.FETCH_NEXT, FETCH_ROWS)
        while True:
            sent = self._call(client.FetchResults, request).results.columns
            if not sent:  # Spark's answer to a statement without rows
                return arrow_table(columns, batches)
            try:
                batch = [arrow_column(column, *_values(values)) for column, values in zip(columns, sent, strict=True)]
            except pa.ArrowInvalid as error:
                raise RefusedByServerError(f"a value of the result cannot be read: {error}", None, None) from error
            if len(batch[0]) == 0:
                return arrow_table(columns, batches)
            batches.append(batch)

    def _close_operation(self, operation: Any) -> None:
        try:
            self._call(self._connection.client.CloseOperation, ttypes.TCloseOperationReq(operation))
        except (RefusedByServerError, WarehouseUnavailableError):
            # what the statement itself gave is what counts; a server that is away closes it alone
            logger.debug("hive.close_operation_failed", exc_info=True)

    def _call(self, function: Callable[[Any], Any], request: Any) -> Any:
        """Make one Thrift call and return its answer."""
        try:
            answer = function(request)
        except _BROKEN as error:
            self._is_broken = True
            raise WarehouseUnavailableError(
                f"the connection to {self._settings.address} broke: {_reason(error)}"
            ) from error
        status = answer.status
        if status.statusCode not in (ttypes.TStatusCode.SUCCESS_STATUS, ttypes.TStatusCode.SUCCESS_WITH_INFO_STATUS):
            raise RefusedByServerError(status.errorMessage or "refused", status.sqlState, status.errorCode)
        return answer

    def close(self) -> None:
        """End the session where the server is still there, and the connection in any case."""
        try:
            if not self._is_broken:
                self._connection.close()
        except (pyhive.Error, *_BROKEN):
            logger.debug("hive.close_session_failed", exc_info=True)
        finally:
            if self._transport.isOpen():
                self._transport.close()


def _transport(settings: HiveSettings) -> tuple[Any, Callable[[float], None]]:
    """Return an unopened Thrift transport, and what sets its timeout in milliseconds."""
    if settings.transport == "http":
        transport = _http_transport(settings)
        return transport, transport.setTimeout
    if settings.tls:
        socket = _TlsSocket(settings.host, settings.port, ssl_context=_tls_context(settings))
    else:
        socket = TSocket.TSocket(settings.host, settings.port)
    if settings.auth == "nosasl":
        return TTransport.TBufferedTransport(socket), socket.setTimeout
    mechanism = "GSSAPI" if settings.auth == "kerberos" else "PLAIN"

    def sasl_client() -> Any:
        return pyhive.get_installed_sasl(
            host=settings.host,
            sasl_auth=mechanism,
            service=settings.kerberos_service_name,
            username=settings.username or USERNAME,
            password=settings.password or "none",  # SASL wants one; the server does not look at it without `auth`
        )

    return TSaslClientTransport(sasl_client, mechanism, socket), socket.setTimeout


def _http_transport(settings: HiveSettings) -> Any:
    scheme, context = ("https", _tls_context(settings)) if settings.tls else ("http", None)
    url = f"{scheme}://{settings.host}:{settings.port}/{settings.http_path.strip('/')}"
    transport = THttpClient.THttpClient(url, ssl_context=context)
    login = f"{settings.username or USERNAME}:{settings.password or 'none'}".encode()
    transport.setCustomHeaders({"Authorization": f"Basic {base64.b64encode(login).decode()}"})
    return transport


def _tls_context(settings: HiveSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.tls_verify:  # the settings allow it on loopback only
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why_no_session(settings: HiveSettings, transport: Any, error: BaseException) -> str:
    """Return what the operator is to read when there is no session, and what to look at."""
    address = settings.address
    cause = getattr(error, "inner", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {address} is not trusted: {cause.verify_message}; warehouse.tls_ca names its CA"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with {address}: {cause.reason or cause}; warehouse.tls says whether the server speaks it"
    code = getattr(transport, "code", None)  # of the http transport, whose own error says nothing
    if code in (401, 403) or "Bad status: 3" in str(error):
        return f"{address} refused the login of {settings.username}: see warehouse.auth, username and password"
    if code is not None and code != 200:
        return f"{address} answered with HTTP status {code}: see warehouse.http_path"
    return f"no session with {address}: {_reason(error)}; does it run, and do auth, transport and tls fit?"


def _reason(error: BaseException) -> str:
    """Return the words of a driver's error; the innermost say most."""
    cause = getattr(error, "inner", None) or error
    return _first_line(str(cause)) or type(cause).__name__


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0][:500]


def _result_column(column: Any) -> ResultColumn:
    entry = column.typeDesc.types[0].primitiveEntry
    name = ttypes.TTypeId._VALUES_TO_NAMES[entry.type] if entry else "STRING_TYPE"  # noqa: SLF001 - generated, no getter
    # Hive says table.column for `SELECT *`; no column name of ours has a dot
    return ResultColumn(column.columnName.rpartition(".")[2], name)


def _values(column: Any) -> tuple[list[Any], bytes]:
    """Return values and NULL bits of a Thrift column: the one field of its union that is set."""
    sent = next(field for field in vars(column).values() if field is not None)
    return sent.values, sent.nulls
