"""Seccomp: a filter over system calls, built by hand as the few BPF instructions it is.

It refuses what no honest program needs: sockets other than local ones, tracing and memory of other processes, mounts,
namespaces, keys, kernel interfaces with a history of holes, and every place where one program could leave something for the
next (System V and POSIX queues, attributes of files, memory without a name, the priority of the warm interpreter). A call newer
than the table does not exist. Another machine's calling convention, by which a filter can be evaded, ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from puna.verify.box.syscalls import MACHINE, SECCOMP, syscall

NEWEST = 466  # removexattrat, Linux 6.13
X32_BIT = 0x40000000
NAMESPACE_FLAGS = 0x7E020000
AF_UNIX = 1
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_SET, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
CLONE3 = 435

DENIED = {
    "x86_64": {
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "shmdt": 67, "msgget": 68,
        "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "ptrace": 101, "syslog": 103, "uselib": 134, "personality": 135, "ustat": 136,
        "sysfs": 139, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "vhangup": 153, "modify_ldt": 154,
        "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
        "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
        "create_module": 174, "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189,
        "fsetxattr": 190, "sched_setaffinity": 203, "lookup_dcookie": 212, "semtimedop": 220, "clock_settime": 227,
        "mbind": 237, "set_mempolicy": 238, "mq_open": 240, "mq_unlink": 241, "kexec_load": 246, "add_key": 248,
        "request_key": 249, "keyctl": 250, "ioprio_set": 251, "migrate_pages": 256, "unshare": 272, "move_pages": 279,
        "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305,
        "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314,
        "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    },
    "aarch64": {
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "lookup_dcookie": 18, "ioprio_set": 30, "umount2": 39, "mount": 40,
        "pivot_root": 41, "chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89, "personality": 92, "unshare": 97,
        "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117,
        "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "setpriority": 140, "reboot": 142,
        "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "mq_unlink": 181,
        "msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192,
        "semop": 193, "shmget": 194, "shmctl": 195, "shmat": 196, "shmdt": 197, "add_key": 217, "request_key": 218,
        "keyctl": 219, "swapon": 224, "swapoff": 225, "mbind": 235, "set_mempolicy": 237, "migrate_pages": 238,
        "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
        "sched_setattr": 274, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
    },
}  # fmt: skip
DENIED_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448, "setxattrat": 463,
}  # fmt: skip
SOCKET, CLONE, PRLIMIT = ({"x86_64": n, "aarch64": m} for n, m in ((41, 198), (56, 220), (302, 261)))


def program(machine: str = MACHINE) -> bytes:
    """The filter for a machine: `struct sock_filter` after `struct sock_filter`, 8 bytes each."""
    refuse, absent = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
    code = [
        (LOAD, 0, 0, ARCH),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_ABOVE, 0, 1, X32_BIT - 1),
        (RETURN, 0, 0, KILL),
        (JUMP_ABOVE, 0, 1, NEWEST),
        (RETURN, 0, 0, absent),
        (JUMP_EQUAL, 0, 1, CLONE3),  # its flags lie in memory, where a filter cannot look: libraries then take clone
        (RETURN, 0, 0, absent),
    ]
    for number in (*DENIED[machine].values(), *DENIED_EVERYWHERE.values()):
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, refuse)]
    for number, jump, value, otherwise in (
        (SOCKET[machine], JUMP_EQUAL, AF_UNIX, refuse),
        (PRLIMIT[machine], JUMP_EQUAL, 0, refuse),  # of this process only
    ):
        code += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, FIRST_ARGUMENT), (jump, 0, 1, value)]
        code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, otherwise)]
    code += [(JUMP_EQUAL, 0, 4, CLONE[machine]), (LOAD, 0, 0, FIRST_ARGUMENT), (JUMP_SET, 0, 1, NAMESPACE_FLAGS)]
    code += [(RETURN, 0, 0, refuse), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install() -> None:
    """Put this process and all it will start behind the filter, for good; it must have given up new privileges before."""
    instructions = program()
    buffer = ctypes.create_string_buffer(instructions, len(instructions))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    syscall(SECCOMP[MACHINE], 1, 0, ctypes.byref(Program(len(instructions) // 8, ctypes.addressof(buffer))))
