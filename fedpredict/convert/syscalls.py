"""A filter of system calls: what the reading process may no longer ask the kernel for, whatever runs in it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_NO_NEW_PRIVILEGES = 38
_SECCOMP = 22
_FILTER_MODE = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_KILL = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X32 = 0x40000000
"""Where the numbers of a second set of system calls begin on x86_64."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Processor -> its column below, and what the kernel calls it in a filter."""

# fmt: off
_REFUSED: dict[str, tuple[int, int | None]] = {
    # the network
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # other processes, and threads
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    # other namespaces, the kernel's keys and programs
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    # the file system
    "creat": (85, None), "truncate": (76, 45), "ftruncate": (77, 46), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "openat2": (437, 437),
}
# fmt: on
"""System call -> its number on x86_64 and on aarch64 (None: there is none). openat2 is here because a filter cannot
read its flags."""

_OPENING: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "open": ((2, 1), None),
    "openat": ((257, 2), (56, 2)),
}
"""System call -> its number and the place of its flags among its arguments; it is refused where they ask to write."""


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def give_up_system_calls() -> bool:
    """Give up, for good, all system calls that reach the network, another process, or that change the file system.

    They fail with EPERM from here on: sockets, processes and threads, signals, memory of others, mounts, and whatever
    creates, opens for writing, renames or removes a file.

    Returns:
        False where this kernel or processor has no such filter; nothing is given up then.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    instructions = _instructions(*machine)
    program = _Program(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl") or libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0) == 0)


def _instructions(column: int, audit: int) -> bytes:
    """The filter as the kernel takes it: load, compare, return; every jump goes forward and names its two distances."""
    program = [
        _step(_LOAD, _MACHINE_AT),
        _step(_EQUAL, audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _REFUSE),
    ]
    for number in (numbers[column] for numbers in _REFUSED.values()):
        if number is not None:
            program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE)]
    for found in (calls[column] for calls in _OPENING.values()):
        if found is None:
            continue
        number, place = found
        program += [
            _step(_EQUAL, number, 0, 4),
            _step(_LOAD, _FIRST_ARGUMENT_AT + 8 * place),
            _step(_ANY_BIT, _WRITES, 0, 1),
            _step(_RETURN, _REFUSE),
            _step(_RETURN, _ALLOW),
        ]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
