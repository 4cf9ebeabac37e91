"""The system-call filter as a small table, assembled into classic BPF here: no compiler, no libseccomp.

A deny list on top of namespaces and dropped capabilities. It closes what those leave open: kernel attack surface
(io_uring, bpf, keyctl, userfaultfd, perf), sockets other than AF_UNIX, memory that no rlimit counts (memfd, System V),
and every way to act on a process other than by a signal. Denied calls fail with EPERM; `clone3` fails with ENOSYS,
because its flags lie in memory where no filter can read them, and libc then falls back to `clone`.
"""

from __future__ import annotations

import platform
import struct

from autotelic.core.errors import SandboxError

__all__ = ["filter_program"]

# name: (x86_64, aarch64); None where the architecture has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None), "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "finit_module": (313, 273), "fremovexattr": (199, 16),
    "fsconfig": (431, 431), "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "listmount": (458, 458), "lookup_dcookie": (212, 18), "lremovexattr": (198, 15), "lsetxattr": (189, 6),
    "mbind": (237, 235), "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "mq_open": (240, 180), "mq_unlink": (241, 181), "msgget": (68, 186),
    "name_to_handle_at": (303, 264), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "open_tree_attr": (467, 467), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "removexattr": (197, 14), "removexattrat": (466, 466), "request_key": (249, 218), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "semget": (64, 190),
    "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450), "setdomainname": (171, 162),
    "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140), "settimeofday": (164, 170),
    "setxattr": (188, 5), "setxattrat": (463, 463), "shmat": (30, 196), "shmget": (29, 194), "statmount": (457, 457),
    "swapoff": (168, 225), "swapon": (167, 224), "sysfs": (139, None), "syslog": (103, 116), "umount2": (166, 39),
    "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None), "vhangup": (153, 58),
}  # fmt: skip
_CONDITIONAL = {
    "clone": (56, 220), "clone3": (435, 435), "ioctl": (16, 29), "prlimit64": (302, 261), "socket": (41, 198),
    "socketpair": (53, 199),
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050001, 0x00050026
_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_NEW_NAMESPACES = 0x7E020080
_AF_UNIX = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_X32_BIT = 0x40000000


def filter_program(machine: str | None = None) -> bytes:
    """Return the filter as an array of `struct sock_filter` for `machine` (default: this one).

    Raises:
        SandboxError: there is no table for the machine.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        raise SandboxError(
            f"the sandbox has no system-call table for {machine!r}, only for {', '.join(_AUDIT_ARCH)}. "
            "Run on one of these."
        )
    column = list(_AUDIT_ARCH).index(machine)
    number = {name: columns[column] for name, columns in _CONDITIONAL.items()}
    code = [
        *[(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL)],
        (_LOAD, 0, 0, _NUMBER),
        *[(_JGE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ENOSYS)],
        *[(_JEQ, 0, 1, number["clone3"]), (_RETURN, 0, 0, _ENOSYS)],
    ]
    for columns in _DENIED.values():
        if (denied := columns[column]) is not None:
            code += [(_JEQ, 0, 1, denied), (_RETURN, 0, 0, _EPERM)]
    # Each block: not this call, skip the block; load one argument; deny or allow.
    code += [(_JEQ, 0, 4, number["clone"]), *_deny_if(_ARG0, _JSET, _NEW_NAMESPACES)]
    code += [(_JEQ, 0, 4, number["prlimit64"]), *_allow_if(_ARG0, 0)]
    code += [(_JEQ, 0, 4, number["socket"]), *_allow_if(_ARG0, _AF_UNIX)]
    code += [(_JEQ, 0, 4, number["socketpair"]), *_allow_if(_ARG0, _AF_UNIX)]
    code += [(_JEQ, 0, 5, number["ioctl"]), (_LOAD, 0, 0, _ARG1), (_JEQ, 1, 0, _TIOCSTI), (_JEQ, 0, 1, _TIOCLINUX)]
    code += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _deny_if(argument: int, test: int, operand: int) -> list[tuple[int, int, int, int]]:
    return [(_LOAD, 0, 0, argument), (test, 0, 1, operand), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]


def _allow_if(argument: int, operand: int) -> list[tuple[int, int, int, int]]:
    return [(_LOAD, 0, 0, argument), (_JEQ, 0, 1, operand), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
