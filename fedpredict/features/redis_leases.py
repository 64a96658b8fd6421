"""Leases as keys of Redis or Valkey, ended by its own clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from typing_extensions import override

from fedpredict.features.redis_connection import RedisConnection, Script
from fedpredict.state.leases import Lease, Leases, check_lease_name, held_by, lost

_KEPT_MS = 7 * 86_400_000
"""How long a lease that ended is remembered, for whoever takes it over."""

# a lease that ended is kept, so that who takes it over knows of an owner who may still be at work
_TAKE = Script("""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local there = redis.call('HMGET', KEYS[1], 'owner', 'since', 'until', 'turn')
if there[1] and tonumber(there[3]) > now then return {0, there[1], there[2], there[3], there[4]} end
local turn = there[1] and there[4] + 1 or 0
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'since', now, 'until', now + ARGV[2], 'turn', turn)
redis.call('PEXPIRE', KEYS[1], ARGV[2] + ARGV[3])
return {1, ARGV[1], tostring(now), tostring(now + ARGV[2]), tostring(turn)}
""")
_RENEW = Script("""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2] + ARGV[3])
return now + ARGV[2]
""")
_RELEASE = Script("""
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0
""")


class RedisLeases(Leases):
    """Leases below a prefix. One that was lost with its Redis is lost to its owner: nothing more is published then."""

    def __init__(self, connection: RedisConnection, prefix: str) -> None:
        """Ask for nothing yet.

        Args:
            connection: Closed with the leases.
            prefix: Of all keys of the party.
        """
        self._connection = connection
        self._prefix = prefix

    @override
    def take(self, name: str, owner: str, for_s: float) -> Lease:
        """Set the key, in one step with the look at who has it."""
        got, *words = self._connection.run(_TAKE, [self._key(name)], [owner, round(for_s * 1000), _KEPT_MS])
        holder, since, until, turn = (word.decode() for word in words)
        lease = Lease(name, holder, _instant(since), _instant(until), int(turn))
        if not got:
            raise held_by(lease)
        return lease

    @override
    def renew(self, lease: Lease, for_s: float) -> Lease:
        """Put off the end, where the key is the owner's."""
        until = self._connection.run(_RENEW, [self._key(lease.name)], [lease.owner, round(for_s * 1000), _KEPT_MS])
        if not until:
            raise lost(lease)
        return Lease(lease.name, lease.owner, lease.since, _instant(until), lease.turn)

    @override
    def release(self, lease: Lease) -> None:
        """Remove the key, where it is the owner's."""
        self._connection.run(_RELEASE, [self._key(lease.name)], [lease.owner])

    @override
    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _key(self, name: str) -> str:
        return f"{self._prefix}:lease:{check_lease_name(name)}"


def _instant(milliseconds: Any) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(float(milliseconds)))
