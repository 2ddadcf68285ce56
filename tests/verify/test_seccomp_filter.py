"""The filter over system calls, run by a small interpreter of BPF: what it says, on both machines."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from puna.verify.box import seccomp, syscalls

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}

ALLOWED, REFUSED, ABSENT, KILLED = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
CALLS = {
    "x86_64": {"read": 0, "fork": 57, "execve": 59, "kill": 62, "ptrace": 101, "clone": 56, "socket": 41, "prlimit64": 302},
    "aarch64": {"read": 63, "execve": 221, "kill": 129, "ptrace": 117, "clone": 220, "socket": 198, "prlimit64": 261},
}


def verdict(machine: str, number: int, first: int = 0, arch: int | None = None) -> int:
    """What the filter returns for a call, by the semantics of linux/bpf_common.h."""
    data = struct.pack(
        "IIQ6Q", number & 0xFFFFFFFF, seccomp.AUDIT_ARCH[machine] if arch is None else arch, 0, first, 0, 0, 0, 0, 0
    )
    code = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[operation]
            at += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_is_allowed_and_what_is_not(machine):
    calls = CALLS[machine]
    for name in set(calls) & {"read", "fork", "execve", "kill"}:
        assert verdict(machine, calls[name]) == ALLOWED
    for number in (*seccomp.DENIED[machine].values(), *seccomp.DENIED_EVERYWHERE.values(), calls["ptrace"]):
        assert verdict(machine, number) == REFUSED
    for first, expected in (
        (1, ALLOWED),
        (2, REFUSED),
        (10, REFUSED),
        (16, REFUSED),
        (38, REFUSED),
    ):  # unix, inet, inet6, netlink, alg
        assert verdict(machine, calls["socket"], first) == expected
    assert verdict(machine, calls["clone"], 17) == ALLOWED  # SIGCHLD: fork
    assert verdict(machine, calls["clone"], 0x3D0F00) == ALLOWED  # a thread
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, calls["clone"], flag | 17) == REFUSED
    assert verdict(machine, calls["prlimit64"], 0) == ALLOWED and verdict(machine, calls["prlimit64"], 5) == REFUSED
    assert verdict(machine, 435) == ABSENT and verdict(machine, 467) == ABSENT and verdict(machine, 100_000) == ABSENT


def test_another_calling_convention_ends_the_process():
    assert verdict("x86_64", 0, arch=0x40000003) == KILLED  # 32-bit x86
    assert verdict("x86_64", 0x40000000 + 41) == KILLED  # x32
    assert verdict("aarch64", 0, arch=0xC000003E) == KILLED


@pytest.mark.parametrize(("machine", "header"), HEADERS.items())
def test_numbers_are_the_kernels(machine, header):
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    known = {name: int(n) for name, n in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())}
    numbers = {
        **seccomp.DENIED[machine],
        **seccomp.DENIED_EVERYWHERE,
        "socket": seccomp.SOCKET[machine],
        "clone": seccomp.CLONE[machine],
        "prlimit64": seccomp.PRLIMIT[machine],
        "seccomp": syscalls.SECCOMP[machine],
        "pivot_root": syscalls.PIVOT_ROOT[machine],
    }
    assert {name: number for name, number in numbers.items() if known.get(name, number) != number} == {}
    assert len(numbers.keys() & known.keys()) > 75


def test_the_filter_fits_what_the_kernel_takes():
    for machine in ("x86_64", "aarch64"):
        code = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
        assert len(code) < 4096
        for at, (operation, yes, no, _) in enumerate(code):
            assert operation in (0x06, 0x20) or at + 1 + max(yes, no) < len(code)
