"""An initiator of two processes: a token that is revoked is refused by both at once, and both write down who asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from scripts.freeports import free_ports
from tests.e2e.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

N_ASKED = 30
SETTINGS = """
party = "bank"
insecure = true
listen = "127.0.0.1:0"
http_listen = "127.0.0.1:{port}"
tokens = "tokens.json"
workers = 2
[parties.lab]
address = "127.0.0.1:{nobody}"
[models.m]
parties = ["lab"]
[clients.desk]
models = ["m"]
"""


def asked(port: int, token: str) -> int:
    """Ask on a connection of its own, and return the status."""
    body = json.dumps({"model": "m", "sample_ids": ["u1"]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30.0) as answer:  # noqa: S310  our own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_revocation_holds_at_once_in_every_process_and_all_is_written_down(workshop: Workshop) -> None:
    port, nobody = free_ports(2)
    (workshop.folder / "initiator.toml").write_text(SETTINGS.format(port=port, nobody=nobody))
    made = workshop.json("token", "create", "--client", "desk", "--expires", "1d")
    daemon = workshop.start("bank", "initiator", "serve")
    # the party is away: who may ask is told so, and who may not is told nothing
    assert {asked(port, made["token"]) for _ in range(N_ASKED)} == {503}
    workshop.run("token", "revoke", made["id"])
    assert {asked(port, made["token"]) for _ in range(N_ASKED)} == {401}
    assert daemon.stop() == 0

    assert made["token"][-20:] not in daemon.log.read_text()
    chains = workshop.json("audit", "verify")
    assert sorted(each["chain"] for each in chains) == ["bank/worker-0", "bank/worker-1"]
    report = {(each["caller"], each["what"]): each for each in workshop.json("audit", "report")}
    desk = report["client desk", "POST /v1/predict"]
    assert (desk["calls"], desk["refused"], desk["people"]) == (N_ASKED, N_ASKED, 1)
    strangers = [each["calls"] for (caller, _), each in report.items() if caller == "nobody"]
    assert sum(strangers) == N_ASKED
