"""A sandbox for a test: a command whose kernel refuses some system calls, by a seccomp filter.

    subprocess.run([*refusing(recvmmsg=errno.ENOSYS), "python", "-m", "server", ...])

The filter (seccomp(2), a program of classic BPF) answers the named calls with the errno, and lets
all others pass. It is put on a process before it runs the command, needs no privilege, can't be
taken off again, and its children have it too. ``install`` puts one on the calling process, at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
from functools import cache

#: System call numbers by machine; seccomp's own name of the machine (linux/audit.h) comes first.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            "sendto": 44,
            "recvfrom": 45,
            "sendmsg": 46,
            "recvmsg": 47,
            "setsockopt": 54,
            "recvmmsg": 299,
            "unshare": 272,
            "sendmmsg": 307,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "sendto": 206,
            "recvfrom": 207,
            "setsockopt": 208,
            "sendmsg": 211,
            "recvmsg": 212,
            "recvmmsg": 243,
            "unshare": 97,
            "sendmmsg": 269,
        },
    ),
}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _MACHINE_AT = 0, 4  # in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_void_p)]


@cache
def why_not() -> str:
    """ "" if this machine can do it, found out by trying; else what it lacks, for a skip."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"no seccomp filter for {sys.platform} on {platform.machine()}"
    command = [*refusing(recvmmsg=errno.ENOSYS), "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        return ""
    return f"this kernel, or a sandbox around us, refuses seccomp filters: {done.stderr[-200:]}"


def refusing(**calls: int) -> list[str]:
    """The beginning of a command that runs the rest with ``calls`` refused, name=errno."""
    return [sys.executable, __file__, *(f"{name}={code}" for name, code in calls.items()), "--"]


def install(**calls: int) -> None:
    """From now on this process and its children are refused ``calls``, name=errno."""
    machine, numbers = _MACHINES[platform.machine()]
    code = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, machine),  # a foreign machine's numbers mean other calls
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, refusal in calls.items():
        code += [(_IF_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | refusal)]
    code.append((_RETURN, 0, 0, _ALLOW))
    octets = b"".join(struct.pack("=HBBI", *step) for step in code)
    text = ctypes.create_string_buffer(octets, len(octets))
    program = _Program(len(code), ctypes.addressof(text))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), 0, 0),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"prctl: {errno.errorcode[ctypes.get_errno()]}")


if __name__ == "__main__":
    end = sys.argv.index("--")
    pairs = (argument.split("=") for argument in sys.argv[1:end])
    install(**{name: int(code) for name, code in pairs})
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
