from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from fedpredict.participant.settings import ParticipantSettings

SMALLEST = 'party = "lab"\ninsecure = true\n[warehouse]\npath = "tables"\n'
WITH_TLS = (
    'party = "lab"\nlisten = "0.0.0.0:7443"\n[tls]\nca = "ca.pem"\ncertificate = "lab.pem"\nkey = "lab.key"\n'
    '[warehouse]\nkind = "local"\npath = "tables"\n[callers.hospital]\nmodels = ["credit"]\n'
)
OUT = 'connect = "out"\n'
INITIATOR = '[initiators.hospital]\naddresses = ["127.0.0.1:7440"]\n'


def parsed(text: str) -> ParticipantSettings:
    return ParticipantSettings.model_validate(tomllib.loads(text))


def test_the_defaults_are_the_documented_ones() -> None:
    settings = parsed(SMALLEST)
    assert settings.listen == "127.0.0.1:7443"
    assert (settings.poll_s, settings.drain_s, settings.max_samples, settings.keep_versions) == (5.0, 10.0, 10_000, 3)
    assert settings.callers == {}
    assert (settings.link_listen, settings.connect, settings.initiators) == (None, "in", {})
    assert settings.log.level == "info"
    assert not ParticipantSettings.model_fields["insecure"].default


def test_a_participant_can_dial_several_replicas() -> None:
    text = WITH_TLS.replace("[tls]", OUT + "[tls]") + (
        '[initiators.hospital]\naddresses = ["a:1", "b:1"]\nlink_addresses = ["a:2", "b:2"]\ncompression = "gzip"\n'
    )
    peer = parsed(text).initiators["hospital"]
    assert (peer.addresses, peer.link_addresses, peer.compression) == (("a:1", "b:1"), ("a:2", "b:2"), "gzip")


def test_a_whole_file_is_read() -> None:
    settings = parsed(WITH_TLS)
    assert settings.tls is not None
    assert settings.callers["hospital"].models == ("credit",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (SMALLEST.replace("insecure = true", 'insecure = true\nlisten = "0.0.0.0:7443"'), "loopback"),
        (SMALLEST.replace("insecure = true", ""), "tls"),
        (SMALLEST.replace("lab", "Lab"), "party id"),
        (SMALLEST.replace("insecure", 'listn = "127.0.0.1:1"\ninsecure'), "listn"),
        (SMALLEST.replace("insecure", 'listen = "7443"\ninsecure'), "host:port"),
        (SMALLEST.replace("insecure", "max_samples = 0\ninsecure"), "max_samples"),
        (SMALLEST.replace("insecure", "max_samples = 100001\ninsecure"), "max_samples"),
        (SMALLEST.replace("insecure", "poll_s = 0\ninsecure"), "poll_s"),
        (SMALLEST.replace("insecure", "keep_versions = 0\ninsecure"), "keep_versions"),
        (SMALLEST + "[callers.Hospital]\nmodels = []\n", "party id"),
        (SMALLEST + '[callers.hospital]\nmodels = ["a b"]\n', "model id"),
        (SMALLEST + "[callers.hospital]\nmodel = []\n", "model"),
        (SMALLEST + '[log]\nlevel = "loud"\n', "level"),
        ('party = "lab"\ninsecure = true\n', "warehouse"),
        (SMALLEST.replace("insecure", 'link_listen = "0.0.0.0:1"\ninsecure'), "link_listen is 0.0.0.0:1"),
        (SMALLEST.replace("insecure", 'connect = "out"\ninsecure'), "initiators"),
        (SMALLEST.replace("insecure", 'connect = "both"\ninsecure'), "connect"),
        (SMALLEST + INITIATOR, "initiators: needed by connect"),
        (SMALLEST.replace("insecure", OUT + 'link_listen = "127.0.0.1:1"\ninsecure') + INITIATOR, "opens no port"),
        (SMALLEST.replace("insecure", OUT + "insecure") + INITIATOR.replace("127.0.0.1", "b.example"), "loopback"),
        (
            SMALLEST.replace("insecure", OUT + "insecure") + INITIATOR + 'link_addresses = ["h:1", "h:2"]\n',
            "same order",
        ),
        (SMALLEST.replace("insecure", OUT + "insecure") + INITIATOR + 'compression = "lz4"\n', "compression"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parsed(text)
