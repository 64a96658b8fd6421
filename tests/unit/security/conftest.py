"""One federation's certificates, made once: good ones and every kind of bad one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from fedpredict.security import certs
from tests.unit.security.federation import DESK, HOSPITAL, LAB, NOW, Behaviour, Certificates, Serve


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    base = tmp_path_factory.mktemp("certificates")
    ca = certs.create_ca(base / "ca", "the federation's CA", now=NOW - timedelta(days=900))
    other = certs.create_ca(base / "other", "another CA")
    return Certificates(
        ca=ca,
        hospital=certs.issue(ca, HOSPITAL, base / "hospital"),
        lab=certs.issue(ca, LAB, base / "lab"),
        desk=certs.issue(ca, DESK, base / "desk"),
        expired=certs.issue(ca, LAB, base / "expired", days=10, now=NOW - timedelta(days=20)),
        early=certs.issue(ca, LAB, base / "early", now=NOW + timedelta(days=20)),
        expiring=certs.issue(ca, LAB, base / "expiring", days=10),
        stranger=certs.issue(other, LAB, base / "stranger"),
    )


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server with one method `/test/Call` on a free port of loopback; gives its address."""
    servers: list[grpc.aio.Server] = []

    async def start(credentials: grpc.ServerCredentials | None, behaviour: Behaviour) -> str:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(behaviour)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Call": method}),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        await server.stop(None)
