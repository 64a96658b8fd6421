"""What the reading process takes away from itself before it opens a model file."""

from __future__ import annotations

import ctypes
import resource

from fedpredict.convert.syscalls import give_up_system_calls

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MAX_OPEN_FILES = 32


def confine(memory_bytes: int, cpu_s: int) -> bool:
    """Limit this process for good; return whether it lost the network as well.

    After this it cannot write a byte to a file, leave a core file, or use more memory and time than given. Where the
    kernel lets it, it moves into a network of its own, which has no interface; and where the kernel has a filter of
    system calls, it cannot make a socket, start a process or thread, signal one, or change the file system. Either of
    the two takes the network away.

    Args:
        memory_bytes: Address space.
        cpu_s: Seconds of processor time; the kernel ends the process then.
    """
    apart = _leave_network()
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _lower(limit, value, value)
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)  # the first ends it by a signal that says why
    filtered = give_up_system_calls()
    return apart or filtered


def _lower(limit: int, soft: int, hard: int) -> None:
    """Set a limit, or keep the one that stands where it is lower already."""
    _, present = resource.getrlimit(limit)
    ceiling = hard if present == resource.RLIM_INFINITY else min(hard, present)
    resource.setrlimit(limit, (min(soft, ceiling), ceiling))


def _leave_network() -> bool:
    """Whether the kernel gave this process user and network namespaces of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        return False
    return bool(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)
