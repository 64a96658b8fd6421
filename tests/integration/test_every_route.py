"""What bad input gets over HTTP: every route of both daemons, each way of asking that is wrong; real TLS, real sockets.

The daemons' tables of routes are walked: a new route without a row here fails the first test, and every member of its
body is made bad by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.http import problem as problems
from fedpredict.http.problem import Problem
from fedpredict.initiator import methods as initiator_methods
from fedpredict.model.share import Mode
from fedpredict.participant import methods as participant_methods
from fedpredict.security.identity import IdentityKind
from fedpredict.security.policy import Needs
from fedpredict.security.tls import TlsFiles
from fedpredict.security.tokens import TokenFile
from tests.integration import test_events_http, test_initiator_audit
from tests.integration.federation import Certificates, Federation, eventually
from tests.integration.http.client import HttpsClient
from tests.integration.http.edge import Reply, Wire
from tests.integration.spoiled_json import spoiled_json
from tests.integration.test_every_rpc import PUBLIC

PARTY, CLIENT = IdentityKind.PARTY, IdentityKind.CLIENT
JSON, LINES = "application/json", "application/x-ndjson"
SECRETS = ("secret-sample", "run-1", "Traceback", 'File "', "bank.key", "127.0.0.1")
"""Of the worlds below: none of them may be in what leaves a process."""
MAX_SAMPLES = 50
"""Of `test_initiator_audit.opened`."""
OWN = re.compile(
    "|".join(
        [
            *(re.escape(each.detail) for each in vars(problems).values() if isinstance(each, Problem)),
            r"the body is longer than \d+ bytes",
            r"this path takes [A-Z, ]+",
            r"send content-type: [a-z./ -]+, without content-encoding",
        ]
    )
)
"""What HTTP itself refuses."""

Expected = tuple[int, str]
OK, NOBODY, NO_FEED = (200, ""), (404, "model_not_found"), (404, "feed_not_found")
UNKNOWN, TOKEN = (401, "unauthenticated"), (401, "token_refused")


@dataclass(frozen=True)
class Row:
    """One route.

    Attributes:
        body: What is sent, as JSON; None for a route that takes none.
        optional: What may be made bad and is answered all the same, as regular expressions of `spoiled_json`'s words.
        media: The body's media type.
        query: Behind the path.
        line: How lines of the audit log name it; empty where it names no sample and has none.
    """

    body: dict[str, Any] | None = None
    optional: tuple[str, ...] = ()
    media: str = JSON
    query: str = ""
    line: str = ""

    def may_be_answered(self, what: str) -> bool:
        """Return whether that spoiling leaves a body that is answered."""
        return any(re.fullmatch(pattern, what) for pattern in self.optional)


PREDICT = {
    "model": "m", "sample_ids": ["u1", "secret-sample"], "mode": "nearline", "inputs": None, "timeout_ms": 20_000,
    "request_id": "r-1",
}  # fmt: skip
INFER = {
    "id": "r-1",
    "parameters": {"mode": "nearline", "timeout_ms": 20_000, "allow_partial": True},
    "inputs": [{"name": "sample_id", "datatype": "BYTES", "shape": [2], "data": ["u1", "secret-sample"]}],
    "outputs": [{"name": "prediction"}],
}
EVENT = test_events_http.row("e-1", "u1")
_ID = r"(an unknown word|a path|a control character|100 kB)"
"""Ids that name nobody have a status, and fail nothing."""
_INFER = Row(
    INFER,
    (
        r"(id|parameters|outputs): (missing|null)",
        # an id that is none is replaced; parameters that are not ours are ignored
        rf"id: {_ID}", r"parameters: an empty object", r"outputs: an empty list",
        r"parameters\.(mode|timeout_ms|allow_partial): missing", r"parameters\.timeout_ms: half",
        rf"inputs\.0\.data\.0: {_ID}",
    ),
    line="POST /v2/models/infer",
)  # fmt: skip

ROWS: dict[str, Row] = {
    "POST /v1/predict": Row(
        PREDICT,
        (
            r"(mode|inputs|timeout_ms|request_id): missing", r"(inputs|timeout_ms|request_id): null",
            r"request_id: an unknown word", r"inputs: an empty object", rf"sample_ids\.0: {_ID}",
        ),
        line="POST /v1/predict",
    ),
    **dict.fromkeys(initiator_methods.INFER_ROUTES, _INFER),
    **{
        route: Row()
        for route in (
            "GET /v1/models", "GET /v1/models/{model}", "GET /v1/health/live", "GET /v1/health/ready", "GET /v2",
            "GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/{model}", "GET /v2/models/{model}/ready",
            "GET /v2/models/{model}/versions/{version}", "GET /v2/models/{model}/versions/{version}/ready",
            "GET /openapi.json", "GET /docs", "GET /docs/docs.js", "GET /docs/docs.css",
        )
    },
    "POST /v1/events": Row(
        EVENT,
        # whole numbers are taken for texts; what no view needs may be missing, and what none declares is left out
        (r"(id|account): (an unknown word|a path|-1|2\^64)", r"an unknown member", r"amount: (-1|half|missing|null)",
         r"(merchant|channel): (missing|null|an unknown word|a path|a control character|-1|2\^64|400 digits)"),
        media=LINES, query="?view=transactions",
    ),
}  # fmt: skip
ROUTES: Mapping[str, Needs] = {**initiator_methods.ROUTES, **participant_methods.ROUTES}


def test_every_route_of_both_daemons_has_a_row() -> None:
    assert set(ROWS) == set(ROUTES)
    assert not set(initiator_methods.ROUTES) & set(participant_methods.ROUTES)


class Asking:
    """Somebody who asks over a connection that he keeps as long as it is there."""

    def __init__(self, client: HttpsClient) -> None:
        self._client = client
        self._wire: Wire | None = None

    async def ask(self, data: bytes) -> Reply:
        if self._wire is None or self._wire.reader.at_eof() or self._wire.writer.is_closing():
            self._wire = await self._client.connect()
        reply = await self._wire.ask(data)
        if reply.headers.get("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        if self._wire is not None:
            self._wire.writer.close()
            self._wire = None


@dataclass
class Edge:
    """A daemon's HTTP: where it is, and who may ask it for everything.

    Attributes:
        address: host:port.
        certificates: Of the federation.
        allowed: The client that may.
        version: Of the model.
        ca: Its authority, for callers without a certificate.
    """

    address: str
    certificates: Certificates
    allowed: str
    version: str = ""
    askers: dict[tuple[str, IdentityKind], Asking] = field(default_factory=dict)

    def asker(self, name: str = "", kind: IdentityKind = CLIENT) -> Asking:
        """Return somebody who shows the certificate of that name."""
        key = (name or self.allowed, kind)
        if key not in self.askers:
            self.askers[key] = Asking(HttpsClient(self.address, self.certificates.of(*key)))
        return self.askers[key]

    async def ask(self, request: bytes, name: str = "", kind: IdentityKind = CLIENT) -> Reply:
        return await self.asker(name, kind).ask(request)

    def close(self) -> None:
        for each in self.askers.values():
            each.close()

    def request(self, route: str, data: bytes | None = None, *headers: str, model: str = "m") -> bytes:
        """Return a request for a route; a good one where nothing is said."""
        row = ROWS[route]
        if data is None and row.body is not None:
            data = json.dumps({**row.body, "model": model} if "model" in row.body else row.body).encode()
        head = [f"{self.line(route, model)} HTTP/1.1", "Host: edge"]
        named = {each.partition(":")[0].lower() for each in headers}
        if data is not None and "content-type" not in named:
            head.append(f"Content-Type: {row.media}")
        if data is not None and not named & {"content-length", "transfer-encoding"}:
            head.append(f"Content-Length: {len(data)}")
        return "\r\n".join([*head, *(each for each in headers if not each.endswith(": ")), "", ""]).encode(
            "latin-1"
        ) + (data or b"")

    def line(self, route: str, model: str = "m") -> str:
        path = route.replace("{model}", model).replace("{version}", self.version)
        return path + ROWS[route].query


@dataclass
class Initiator(Edge):
    """The initiator's, with tokens and an audit log."""

    bank: test_initiator_audit.Bank | None = None
    tokens: TokenFile | None = None


@pytest.fixture
async def initiator(tmp_path: Path) -> AsyncIterator[Initiator]:
    (tmp_path / "tasks").mkdir()
    may: dict[str, list[str]] = {"desk": ["*"], "shop": ["m"], "kiosk": ["other"]}
    clients: dict[str, dict[str, object]] = {name: {"models": models} for name, models in may.items()}
    async with test_initiator_audit.opened(tmp_path, clients=clients) as bank:
        address, certificates = bank.server.http_address, bank.federation.certificates
        assert address is not None
        version = (await bank.federation.models())["m"].manifest_sha256
        tokens = TokenFile(tmp_path / "tokens.json")
        edge = Initiator(address, certificates, "desk", version, bank=bank, tokens=tokens)
        yield edge
        edge.close()


@pytest.fixture
async def participant(tmp_path: Path) -> AsyncIterator[Edge]:
    certificates = Certificates(tmp_path / "certificates")
    async with AsyncExitStack() as stack:
        bank = await test_events_http.start(stack, tmp_path, certificates)
        edge = Edge(bank.server.http_address, certificates, "feeder")
        yield edge
        edge.close()


@pytest.fixture(params=["initiator", "participant"])
def edge(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def routes_of(edge: Edge) -> list[str]:
    return list(initiator_methods.ROUTES if isinstance(edge, Initiator) else participant_methods.ROUTES)


def got(reply: Reply) -> Expected:
    """Return the number and the name of the problem, if it is one."""
    if reply.status == 200:
        return OK
    return reply.status, reply.json["type"].removeprefix("urn:fedpredict:error:")


def what_is_wrong(reply: Reply, *, may_be_answered: bool = False) -> str:
    """Say what is wrong with what a bad request got; nothing where all is right."""
    if reply.status == 200:
        return "" if may_be_answered else "was answered"
    if reply.status >= 500 and got(reply) != (501, "unsupported_mode"):
        return f"got {got(reply)}"
    problem, told = reply.json, reply.json["detail"]
    if reply.headers["content-type"] != "application/problem+json" or problem["status"] != reply.status:
        return f"is no problem: {reply.headers}"
    if problem["request_id"] != reply.headers["x-request-id"] or len(reply.body) > 4000:
        return f"is not told as it should be: {reply.body[:200]!r}"
    # of a body the place is told, and what is expected there: names of the caller's own, and never a value
    is_place = problem["type"].endswith(":field") and told == f"{problem['place']}: {problem['problem']}"
    if not (is_place or PUBLIC.fullmatch(told) or OWN.fullmatch(told)):
        return f"was told {told!r}"
    given_away = [secret for secret in (*SECRETS, "geheim-4711") if secret.encode() in reply.body]
    return f"gave away {given_away}" if given_away else ""


async def test_every_member_of_every_body_made_bad_is_refused_in_public_words_and_others_are_served(edge: Edge) -> None:
    found = []
    lines: list[tuple[str, bool]] = []
    for route in routes_of(edge):
        row = ROWS[route]
        if row.body is None:
            continue
        assert got(await edge.ask(edge.request(route))) == OK, route
        lines.append((row.line, True))
        for what, data in spoiled_json(row.body):
            reply = await edge.ask(edge.request(route, data))
            # of an inference with rows without a score the answer was there, and its format has no place for them
            lines.append((row.line, got(reply) in (OK, (409, "unscored"))))
            problem = what_is_wrong(reply, may_be_answered=row.may_be_answered(what))
            if problem:
                found.append(f"{route}, {what} {problem}")
        assert got(await edge.ask(edge.request(route))) == OK, route
        lines.append((row.line, True))

    assert found == []
    if isinstance(edge, Initiator):
        await every_call_has_a_line(edge, lines)


async def every_call_has_a_line(edge: Initiator, expected: list[tuple[str, bool]]) -> None:
    """Fail unless the audit log has exactly these calls of the allowed client, in their order."""
    bank = edge.bank
    assert bank is not None

    async def written() -> bool:
        return len(bank.lines()) >= len(expected)

    await eventually(written)
    assert [(each["what"], each["outcome"] == "ok") for each in bank.lines()] == expected
    assert {each["caller"] for each in bank.lines()} == {f"client {edge.allowed}"}


MEDIA = {
    "of a form": ("Content-Type: text/plain",),
    "of a form's fields": ("Content-Type: application/x-www-form-urlencoded",),
    "of XML": ("Content-Type: application/xml",),
    "compressed": ("Content-Encoding: gzip",),
    "compressed and of a form": ("Content-Type: text/plain", "Content-Encoding: br"),
}


async def test_a_body_of_another_type_or_compressed_is_refused_at_every_route(edge: Edge) -> None:
    for route in routes_of(edge):
        if ROWS[route].body is None:
            continue
        for what, headers in MEDIA.items():
            reply = await edge.ask(edge.request(route, None, *headers))
            assert (got(reply), what_is_wrong(reply)) == ((415, "unsupported_media_type"), ""), (route, what)
        assert got(await edge.ask(edge.request(route))) == OK


async def test_a_member_that_is_there_twice_is_refused_by_its_name_at_every_route(edge: Edge) -> None:
    """Two readers differ in which of them counts: what is judged by the one must not be answered by the other."""
    for route in routes_of(edge):
        body = edge.request(route).partition(b"\r\n\r\n")[2]
        if not body.startswith(b"{"):
            continue
        for name in json.loads(body):
            member = json.dumps({name: json.loads(body)[name]})[1:-1]
            reply = await edge.ask(edge.request(route, f"{{{member},".encode() + body[1:]))
            assert got(reply)[0] == 400, (route, name)
            assert f"'{name}' is there twice in one object".encode() in reply.body, (route, name)
        assert got(await edge.ask(edge.request(route))) == OK, route


TOO_MANY = [f"u{number}" for number in range(MAX_SAMPLES + 1)]


async def test_too_many_rows_and_none_at_all_are_told_at_every_route_that_takes_rows(initiator: Initiator) -> None:
    for route in ("POST /v1/predict", *initiator_methods.INFER_ROUTES):
        for ids, expected in ((TOO_MANY, (400, "too_many_samples")), ([], (400, "empty_request"))):
            tensor = {"name": "sample_id", "datatype": "BYTES", "shape": [len(ids)], "data": ids}
            body = {"model": "m", "sample_ids": ids} if "v1" in route else {"inputs": [tensor]}
            reply = await initiator.ask(initiator.request(route, json.dumps(body).encode()))
            assert (got(reply), what_is_wrong(reply)) == (expected, ""), route


STRANGERS: Sequence[tuple[str, IdentityKind]] = (
    # somebody without a rule; a party; a party with the name of who may; a client with the name of the server
    ("stranger", CLIENT), ("shop", PARTY), ("desk", PARTY), ("feeder", PARTY), ("bank", CLIENT),
)  # fmt: skip


async def test_another_certificate_sees_what_is_not_there(edge: Edge) -> None:
    for route in routes_of(edge):
        needs = ROUTES[route]
        expected = OK if needs is Needs.NOTHING else NO_FEED if needs is Needs.PEER else NOBODY
        for name, kind in STRANGERS:
            reply = await edge.ask(edge.request(route), name, kind)
            assert got(reply) == expected, (route, name, kind)
            assert what_is_wrong(reply, may_be_answered=needs is Needs.NOTHING) == ""


def apart_from_names(reply: Reply) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return an answer without what differs from one request to the next."""
    headers = {name: value for name, value in reply.headers.items() if name not in ("x-request-id", "date")}
    return reply.status, headers, {**reply.json, "request_id": ""}


async def test_a_model_of_others_looks_in_every_way_like_none(initiator: Initiator) -> None:
    for route in routes_of(initiator):
        if "{model}" not in route and route != "POST /v1/predict":
            continue
        answers = [
            apart_from_names(await initiator.ask(initiator.request(route, model=model), name))
            for name, model in (("kiosk", "m"), ("kiosk", "nobodys"), ("desk", "nobodys"), ("stranger", "m"))
        ]
        assert answers[0][0] == 404
        assert all(each == answers[0] for each in answers[1:]), (route, answers)


async def test_tokens_and_certificates_that_prove_nobody_or_somebody_else_are_refused_at_every_route(
    initiator: Initiator,
) -> None:
    assert initiator.tokens is not None
    assert initiator.bank is not None

    def token(client: str, **scope: Any) -> Any:
        given: dict[str, Any] = {"models": ("*",), "modes": tuple(Mode), "lasts": timedelta(days=1), "by": "ada"}
        return initiator.tokens.create(client, **{**given, **scope})  # type: ignore[union-attr]

    revoked, narrow = token("desk"), token("desk", models=("other",)).text
    initiator.tokens.revoke(revoked.kept.id, by="eve")
    desk = initiator.certificates.of("desk", CLIENT)
    cases: list[tuple[str, TlsFiles | None, str | None, Expected]] = [
        ("nothing", None, None, UNKNOWN),
        ("a token of somebody else beside a certificate", desk, token("shop").text, TOKEN),
        ("a token that was revoked", None, revoked.text, TOKEN),
        ("a token that is none", None, "x" * 40, TOKEN),
        ("another scheme", desk, "Basic ZGVzazpkZXNr", TOKEN),
        ("bytes that are no text", None, "\xff\xfe" * 20, TOKEN),
        ("a token for another model", None, narrow, NOBODY),
        ("its own token", None, token("desk").text, OK),
        ("its own token beside its certificate", desk, token("desk").text, OK),
    ]
    for what, tls, text, expected in cases:
        asking = Asking(HttpsClient(initiator.address, tls))
        for route in routes_of(initiator):
            sent = "" if text is None else text if " " in text else f"Bearer {text}"
            reply = await asking.ask(initiator.request(route, None, f"Authorization: {sent}"))
            needs = ROUTES[route]
            hides = expected == NOBODY and route == "GET /v1/models"  # whose list is empty
            assert got(reply) == (OK if needs is Needs.NOTHING or hides else expected), (what, route)
            assert (reply.status != 401) or "www-authenticate" in reply.headers or expected == UNKNOWN
            assert what_is_wrong(reply, may_be_answered=reply.status == 200) == "", (what, route)
        asking.close()

    async def written() -> bool:
        return any(each["caller"] == "nobody" for each in initiator.bank.lines())  # type: ignore[union-attr]

    await eventually(written)


async def test_a_client_without_a_certificate_gets_no_connection_where_no_tokens_are_taken(participant: Edge) -> None:
    strangers = Certificates(participant.certificates._folder / "strange").of("feeder", CLIENT)
    for tls in (None, strangers):
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await HttpsClient(participant.address, tls, verify=False).ask(participant.request("POST /v1/events"))
    assert got(await participant.ask(participant.request("POST /v1/events"))) == OK


Wrong = Callable[[Edge, str], bytes]


def with_line(change: Callable[[str], str]) -> Wrong:
    """Change the method and the path of a request."""

    def of_route(edge: Edge, route: str) -> bytes:
        line = edge.line(route)
        return edge.request(route).replace(line.encode(), change(line).encode("latin-1"), 1)

    return of_route


def headed(*headers: str, body: bytes = b"{}") -> Wrong:
    return lambda edge, route: edge.request(route, body, *headers)


def without_host(edge: Edge, route: str) -> bytes:
    return edge.request(route).replace(b"Host: edge\r\n", b"")


def path_of(change: Callable[[str], str]) -> Callable[[str], str]:
    """Change what stands between the method and the question mark."""

    def changed(line: str) -> str:
        verb, target = line.split(" ")
        path, mark, query = target.partition("?")
        return f"{verb} {change(path)}{mark}{query}"

    return changed


MALFORMED, TOO_LARGE = (400, "malformed_http"), (413, "body_too_large")
NO_PATH, NO_METHOD = (404, "no_such_path"), (405, "method_not_allowed")
WRONG: dict[str, tuple[Wrong, tuple[Expected, ...]]] = {
    "a method that is none": (with_line(lambda line: f"BREW {line.split(' ')[1]}"), (MALFORMED,)),
    "another method": (with_line(lambda line: f"DELETE {line.split(' ')[1]}"), (NO_METHOD,)),
    "a method in small letters": (with_line(str.lower), (MALFORMED, NO_PATH)),
    "a path that goes on": (with_line(path_of(lambda path: f"{path}/x")), (NO_PATH, NOBODY, NO_METHOD)),
    "a path with a slash at its end": (with_line(path_of(lambda path: f"{path}/")), (NO_PATH,)),
    "a path that goes up": (with_line(path_of(lambda path: f"{path}/../../etc/passwd")), (NO_PATH,)),
    "a path with a NUL": (with_line(path_of(lambda path: f"{path}%00")), (NO_PATH, NOBODY)),
    "a path that is not UTF-8": (with_line(path_of(lambda path: f"{path}%ff%fe")), (NO_PATH, NOBODY)),
    "a path that is not ASCII": (with_line(path_of(lambda path: f"{path}\xe9")), (MALFORMED,)),
    "a path of two slashes": (with_line(path_of(lambda path: f"/{path}")), (NO_PATH, MALFORMED)),
    "a target of 20 kB": (with_line(lambda line: f"{line}{'x' * 20_000}"), ((431, "head_too_large"),)),
    "no host": (without_host, (MALFORMED,)),
    "a header twice": (headed("Authorization: a", "Authorization: b"), (MALFORMED,)),
    "a header with a NUL": (headed("X-Request-Id: a\x00b"), (MALFORMED,)),
    "20 kB of headers": (headed(*["X-A: " + "x" * 1000] * 20), ((431, "head_too_large"),)),
    "a length of 4 GB": (headed(f"Content-Length: {2**32}"), (TOO_LARGE,)),
    "a length of 2^64": (headed(f"Content-Length: {2**64}"), (MALFORMED,)),
    "a length below 0": (headed("Content-Length: -1"), (MALFORMED,)),
    "two lengths": (headed("Content-Length: 2", "Content-Length: 3"), (MALFORMED,)),
    "a length and chunks": (headed("Content-Length: 2", "Transfer-Encoding: chunked"), (MALFORMED,)),
    "a chunk that is longer than it says": (
        headed("Transfer-Encoding: chunked", body=b"1\r\n{}\r\n0\r\n\r\n"), (MALFORMED,),
    ),
    "a chunk without a size": (headed("Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"), (MALFORMED,)),
    "a chunk of more than 64 bits": (
        headed("Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n"), (MALFORMED,),
    ),
    "an upgrade": (headed("Connection: Upgrade", "Upgrade: h2c"), ((400, "upgrade_refused"),)),
    "an expectation": (headed("Expect: the-unexpected"), ((417, "expectation_failed"),)),
}  # fmt: skip


async def test_http_that_is_wrong_is_refused_at_every_route_and_others_are_served(edge: Edge) -> None:
    other = Asking(HttpsClient(edge.address, edge.certificates.of(edge.allowed, CLIENT)))
    found = []
    for route in routes_of(edge):
        for what, (make, expected) in WRONG.items():
            if ROUTES[route] is Needs.NOTHING and make.__name__ != "of_route":
                continue  # before it is known what is asked for
            reply = await edge.ask(make(edge, route))
            problem = what_is_wrong(reply)
            if problem or got(reply) not in expected:
                found.append(f"{route}, {what}: {got(reply)} {problem}")
        assert got(await other.ask(edge.request(route))) == OK, route
    other.close()

    assert found == []


HOSTS = ("[", "evil.example:99999999", "\xbd", "../..")


async def test_a_host_that_is_none_changes_no_answer(edge: Edge) -> None:
    for route in routes_of(edge):
        for host in HOSTS:
            good, nowhere = edge.request(route), with_line(path_of(lambda path: f"{path}/x/y"))(edge, route)
            for request in (good, nowhere):
                reply = await edge.ask(request.replace(b"Host: edge", b"Host: " + host.encode("latin-1")))
                assert got(reply) in ((OK,) if request is good else (NO_PATH,)), (route, host)


ENDLESS: dict[str, Callable[[Edge, str], Iterator[bytes]]] = {
    "a body that does not come": lambda edge, route: iter([edge.request(route, b"{}", "Content-Length: 100000")]),
    "a chunk of 4 GB": lambda edge, route: iter(
        [edge.request(route, b"ffffffff\r\n" + b" " * 1000, "Transfer-Encoding: chunked")]
    ),
    "chunks without end": lambda edge, route: iter(
        [edge.request(route, b"", "Transfer-Encoding: chunked"), *[b"1\r\n \r\n" * 1000] * 100]
    ),
    "half a head": lambda edge, route: iter([edge.request(route)[:30]]),
}


@pytest.mark.parametrize("daemon", ["initiator", "participant"])
async def test_a_request_that_never_ends_is_ended_at_every_route_and_others_are_served(
    daemon: str, tmp_path: Path
) -> None:
    http = {"request_timeout_s": 0.5, "max_body_bytes": 50_000, "max_body_bytes_total": 10_000_000}
    certificates = Certificates(tmp_path / "certificates")
    async with AsyncExitStack() as stack:
        if daemon == "participant":
            bank = await test_events_http.start(stack, tmp_path, certificates, http=http)
            edge = Edge(bank.server.http_address, certificates, "feeder")
        else:
            federation = await stack.enter_async_context(Federation(tmp_path, certificates))
            await federation.party("lab", {b"u1": [1.0], b"secret-sample": [2.0]}, np.array([[2.0]]))
            server = await federation.initiator({"m": {"parties": ["lab"]}}, http_listen="127.0.0.1:0", http=http)
            await federation.ready()
            version = (await federation.models())["m"].manifest_sha256
            edge = Initiator(str(server.http_address), certificates, "desk", version)
        client = HttpsClient(edge.address, certificates.of(edge.allowed, CLIENT))

        async def ended(route: str, what: str) -> str:
            async with await client.connect() as wire:
                for piece in ENDLESS[what](edge, route):
                    if wire.reader._buffer or wire.writer.is_closing():  # type: ignore[attr-defined]
                        break
                    await wire.send(piece)
                reply = await wire.read()
                is_right = got(reply) in ((408, "request_timeout"), TOO_LARGE, MALFORMED) and await wire.is_closed()
                return "" if is_right else f"{route}, {what}: {got(reply)}"

        asked = [route for route in routes_of(edge) if ROUTES[route] is not Needs.NOTHING]
        endings = [ended(route, what) for route in asked for what in ENDLESS]
        assert [each for each in await asyncio.gather(*endings) if each] == []
        for route in routes_of(edge):

            async def served(route: str = route) -> bool:
                return got(await client.ask(edge.request(route))) == OK

            await eventually(served)
