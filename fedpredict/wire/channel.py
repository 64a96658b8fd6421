"""What both ends of a connection must agree on: message sizes, keepalive, the ping policy, names."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import grpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message either end takes. An answer of 10,000 samples and 100 outputs has 8 MB."""

MAX_SAMPLES_PER_CALL = 100_000
"""Upper bound for the `max_samples` setting: 16 MiB hold so many ids of some 100 bytes."""

MAX_MODELS = 256
"""Most models in one sub-task."""

_ANSWER_BYTES, _STATUS_BYTES = 1024 * 1024, 64
"""Kept free in a message for classes and reports; and per sample, for the statuses of some 60 parties."""

KEEPALIVE_MS = 15_000
"""A connection on which nothing came for so long is pinged, also without calls; gRPC itself would stop after two."""
KEEPALIVE_TIMEOUT_MS = 10_000
"""A connection whose ping is not answered in this time is closed."""
CONNECT_MS = 3_000
"""So long a connection may take to come about: TCP, TLS with a peer that is busy, and the first frame."""
RECONNECT_MS = 200
MAX_RECONNECT_MS = 2_000

STREAM_METADATA = ("fedpredict-stream", "1")
"""Initial metadata of a `PredictStream` that the server takes: a caller writes nothing before it has seen them."""

COMPRESSION_METADATA = "fedpredict-compression"
"""The metadata key by which a caller asks for compressed answers."""


class Compression(StrEnum):
    """How messages to and from a peer are compressed; for networks where bytes are dearer than processors."""

    NONE = "none"
    GZIP = "gzip"
    DEFLATE = "deflate"

    @property
    def of_grpc(self) -> grpc.Compression:
        """The name that gRPC has for it."""
        return _OF_GRPC[self]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a caller sends, so that answers are compressed alike."""
        return () if self is Compression.NONE else ((COMPRESSION_METADATA, self.value),)


_OF_GRPC = {
    Compression.NONE: grpc.Compression.NoCompression,
    Compression.GZIP: grpc.Compression.Gzip,
    Compression.DEFLATE: grpc.Compression.Deflate,
}

Options: TypeAlias = list[tuple[str, int | str]]


def max_samples_of(n_scores: int) -> int:
    """Return how many samples of that many numbers each one message holds.

    >>> max_samples_of(1), max_samples_of(300), max_samples_of(10_000_000)
    (100000, 6383, 0)
    """
    return min(MAX_SAMPLES_PER_CALL, (MAX_MESSAGE_BYTES - _ANSWER_BYTES) // (8 * n_scores + _STATUS_BYTES))


def _keepalive() -> Options:
    """Return how either end finds out that the other is gone.

    gRPC's core (1.85) waits for the answer to a ping as long as `ping_timeout_ms` says, a minute by default, also where
    `keepalive_timeout_ms` is shorter.
    """
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(*, shares_port: bool = False) -> Options:
    """Return a server's gRPC options.

    `so_reuseport` is off unless this is one of several workers: a second server on a port must be an error, not a
    silent half of the traffic. Pings of idle clients are allowed at the rate that `channel_options` sends them.
    """
    return [
        ("grpc.so_reuseport", int(shares_port)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        *_keepalive(),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ]


def channel_options(server_name: str | None = None) -> Options:
    """Return a client's gRPC options.

    Args:
        server_name: The DNS name that the server's certificate must carry, whatever address is dialled; None for
            plain text.
    """
    options: Options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        *_keepalive(),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        # by its name something else; but gRPC's core gives up a connection that takes longer than this and the backoff
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options
