"""Started by root only: gives root away before bubblewrap starts.

The interpreter may lie where only root can go (`/root/.pyenv`), and bubblewrap must not be root. So: a private mount
namespace, what the sandbox will see bound under a fresh tmpfs on `/tmp`, then uid and gid 65534 and no groups for good.
Standalone: runs as `python -I -S -c` with one JSON argument.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

_NOBODY = 65534
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000


def launch(bwrap: str, sources: list[str], arguments: list[str], environment: dict[str, str]) -> None:
    """Bind `sources` to `/tmp/0`, `/tmp/1` ... out of the host's sight, give root away and become `bwrap`."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(status: int, what: str) -> None:
        if status:
            sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")

    check(libc.unshare(_CLONE_NEWNS), "unshare of the mount namespace")
    check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "make / private")
    binary = os.open(bwrap, os.O_RDONLY)  # by descriptor: its path may be closed to nobody
    os.set_inheritable(binary, True)  # a wrapper script has to be opened again; the zygote closes all it inherits
    opened = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source in sources]
    check(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"size=1m,mode=755"), "mount a tmpfs on /tmp")
    for index, (source, fd) in enumerate(zip(sources, opened, strict=True)):
        target = f"/tmp/{index}"
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112
            os.mkdir(target)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        check(libc.mount(b"/proc/self/fd/%d" % fd, target.encode(), None, _MS_BIND, None), f"bind {source}")
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    os.execve(binary, ["bwrap", *arguments], environment)


if __name__ == "__main__":
    launch(**json.loads(sys.argv[1]))
