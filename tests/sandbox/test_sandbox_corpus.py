"""The corpus: 28 escapes and 14 resource attacks, each judged from outside.

Every attack runs in the default back end, which is itself a throw-away set of namespaces; none is ever run without one.
The canaries could be reached by any process of this machine: a world-readable file, a listening socket, an environment
variable, a live process.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from autotelic.sandbox import Limits, Outcome, Sandbox

pytestmark = pytest.mark.asyncio(loop_scope="module")

_HELPERS = """
import ctypes, glob, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action):
    try:
        return action()
    except Exception as error:
        return type(error).__name__
def breach_if(done):
    if done:
        print("BREACH")
"""

ESCAPES = {
    "read_file": "attempt(lambda: open({secret!r}).read())",
    "read_through_proc": "[attempt(lambda p=p: open(p + {secret!r}).read()) for p in "
    "('/proc/1/root', '/proc/self/root', '/proc/self/cwd/..', '/oldroot', '/newroot')]",
    "environment": "sorted(os.environ.items())",
    "environment_of_others": "[open(p, 'rb').read() for p in glob.glob('/proc/*/environ')] + "
    "[attempt(lambda: open('/proc/1/environ').read())]",
    "password_files": "for p in ('/etc/passwd', '/etc/shadow', '/root/.ssh', '/etc/hostname'):\n"
    "    breach_if(os.path.exists(p))",
    "write_file": "attempt(lambda: open({outside!r}, 'w').write('x'))",
    "symlink": "os.symlink({secret!r}, '/tmp/link')\nattempt(lambda: open('/tmp/link').read())",
    "write_root": "for p in ('/x', '/usr/lib/x', '/dev/x', os.path.dirname(os.__file__) + '/x.py', sys.executable):\n"
    "    breach_if(attempt(lambda: open(p, 'ab').write(b'')) == 0)",
    "tcp": "s = attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 0.3))\nstr(s)",
    "udp": "s = attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))\n"
    "attempt(lambda: s.sendto(b'x', ('127.0.0.1', {udp})))",
    "abstract_socket": "s = socket.socket(socket.AF_UNIX)\nattempt(lambda: s.connect({abstract!r}))",
    "other_socket_families": "for family in (2, 10, 16, 17, 38, 40):\n"
    "    breach_if(not isinstance(attempt(lambda: socket.socket(family, 3 if family == 17 else 1)), str))",
    "unshare": "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):\n    breach_if(libc.unshare(flag) == 0)",
    "clone_namespace": "pid = libc.syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0)\nbreach_if(pid >= 0)",
    "clone3": "breach_if(libc.syscall(435, ctypes.create_string_buffer(88), 88) >= 0 or ctypes.get_errno() != 38)",
    "mount": "breach_if(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0)\n"
    "breach_if(libc.mount(b'proc', b'/tmp', b'proc', 0, None) == 0)\nbreach_if(libc.umount2(b'/tmp', 2) == 0)",
    "chroot": "os.mkdir('/tmp/a')\nbreach_if(attempt(lambda: os.chroot('/tmp/a')) is None)",
    "ptrace": "breach_if(libc.ptrace(16, 1, 0, 0) == 0)\n"
    "b = ctypes.create_string_buffer(16)\nbreach_if(libc.process_vm_readv(1, b, 1, b, 1, 0) >= 0)",
    "kill_everybody": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "[attempt(lambda: os.kill(p, s)) for p in (1, {pid}, os.getppid()) for s in (2, 9, 15, 19)]\n"
    "attempt(lambda: os.killpg({pid}, 9))\nattempt(lambda: os.kill(-1, 15))",
    "limits_of_the_zygote": "import resource\n"
    "breach_if(attempt(lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))) != 'PermissionError')\n"
    "breach_if(attempt(lambda: os.sched_setaffinity(1, {{0}})) is None)",
    "inherited_descriptors": "for fd in range(3, 1024):\n"
    "    breach_if(not isinstance(attempt(lambda: os.listdir(fd)), str))\n"
    "    breach_if(not isinstance(attempt(lambda: os.open('..', os.O_RDONLY, dir_fd=fd)), str))\n"
    "    breach_if(not isinstance(attempt(lambda: socket.socket(fileno=fd).getpeername()), str))",
    "kernel_surface": "for number in {surface}:\n    breach_if(libc.syscall(number, 0, 0, 0, 0, 0, 0) >= 0)\n"
    "    breach_if(ctypes.get_errno() != 1)",
    "devices": "breach_if(set(os.listdir('/dev')) - {{'null', 'urandom'}})\n"
    "breach_if(attempt(lambda: os.mknod('/tmp/sda', 0o60600, os.makedev(8, 0))) is None)",
    "host_programs": "import subprocess\n[attempt(lambda: subprocess.run([p, {secret!r}], capture_output=True).stdout)"
    " for p in ('/bin/cat', '/usr/bin/cat', 'cat', 'sudo')] + [os.system('cat ' + {secret!r})]",
    "become_root": "breach_if(attempt(lambda: os.setuid(0)) is None)\nbreach_if(os.getuid() == 0)\n"
    "breach_if(libc.prctl(47, 2, 21, 0, 0) == 0)",
    "installed_packages": "for name in ('pydantic', 'autotelic', 'pip', 'setuptools'):\n"
    "    sys.path += [p + '/site-packages' for p in sys.path] + ['/usr/lib/python3/dist-packages']\n"
    "    breach_if(attempt(lambda: __import__(name)) != 'ModuleNotFoundError')",
    "forge_result": 'text = b\'{{"status": "ok", "value": "BREACH"}}\'\n'
    "[attempt(lambda: os.write(fd, head + len(text).to_bytes(4, 'big') + text))"
    " for fd in range(3, 256) for head in (b'', b'0' * 32)]\nos._exit(0)",
    "stay_alive": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        import time\n"
    "        while True:\n            [attempt(lambda: os.write(fd, b'x' * 64)) for fd in range(1, 64)]\n"
    "            time.sleep(0.001)\n    os._exit(0)",
}

RESOURCES = {
    "busy_loop": ("while True: pass", {"timeout"}),
    "sleep": (
        "import time, signal\nfor s in (2, 14, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
        {"timeout"},
    ),
    "memory": ("x = bytearray(10**12)", {"memory"}),
    "memory_bit_by_bit": ("x = []\nwhile True: x.append(bytearray(10**6))", {"memory"}),
    "memory_in_many_processes": (
        "import os, time\nfor _ in range(4): os.fork()\nx = bytearray(b'x') * (40 << 20)\ntime.sleep(60)",
        {"memory"},
    ),
    "fork_bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"timeout", "memory"}),
    "thread_bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        {"error"},
    ),
    "output_flood": ("while True: print('x' * 1000)", {"output"}),
    "huge_value": ("'x' * 1_000_000", {"output"}),
    "recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return [f(n + 1)]\nf(0)",
        {"memory", "crashed", "timeout"},
    ),
    "huge_integer": ("import sys\nsys.set_int_max_str_digits(0)\n1 << 5_000_000", {"error"}),
    "fill_disk": (
        "for i in range(99):\n    with open(f'/tmp/{i}', 'wb') as f: f.write(bytes(1 << 20))",
        {"error"},
    ),
    "many_files_under_way": (
        "import os\ni = 0\nwhile i < 10**6:\n    open(f'/tmp/{i}', 'w').close()\n    i += 1\n"
        "    if i % 50 == 0: os.write(1, b'.')",
        {"output"},
    ),
    "many_files": ("i = 0\nwhile True:\n    open(f'/tmp/{i}', 'w').close()\n    i += 1", {"output"}),
}


class Canaries:
    """What the attacks are after."""

    def __init__(self, folder: Path) -> None:
        self.mark = secrets.token_hex(8)
        folder.chmod(0o777)
        self.secret = folder / "secret"
        self.secret.write_text(self.mark)
        self.secret.chmod(0o644)
        self.outside = folder / "outside"
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(f"\0{self.mark}")
        self.unix.listen()
        for canary in (self.tcp, self.udp, self.unix):
            canary.setblocking(False)
        self.process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)

    def fill(self, attack: str) -> str:
        arm = os.uname().machine == "aarch64"
        return _HELPERS + attack.format(
            secret=str(self.secret),
            outside=str(self.outside),
            port=self.tcp.getsockname()[1],
            udp=self.udp.getsockname()[1],
            abstract=f"\0{self.mark}",
            pid=self.process.pid,
            clone=220 if arm else 56,
            surface=[280, 241, 425, 282, 219, 265, 279, 194, 180]
            if arm
            else [321, 298, 425, 323, 250, 304, 319, 29, 240],
        )

    def reached(self) -> list[str]:
        found = [name for name, canary in (("tcp", self.tcp), ("unix", self.unix)) if _accepts(canary)]
        try:
            self.udp.recv(1)
            found.append("udp")
        except BlockingIOError:
            pass
        if self.outside.exists():
            found.append("outside")
        if self.process.poll() is not None:
            found.append("process")
        return found

    def close(self) -> None:
        for canary in (self.tcp, self.udp, self.unix):
            canary.close()
        self.process.communicate()


def _accepts(canary: socket.socket) -> bool:
    try:
        canary.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    folder = tmp_path_factory.mktemp("canaries")
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(0o755)  # what stops the program must be the walls, not the permissions
    canaries = Canaries(folder)
    os.environ["AUTOTELIC_CANARY"] = canaries.mark
    yield canaries
    del os.environ["AUTOTELIC_CANARY"]
    canaries.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box(canaries: Canaries) -> AsyncIterator[Sandbox]:
    async with await Sandbox.open(limits=Limits(seconds=1.0, output=20_000)) as sandbox:
        yield sandbox


async def _works(box: Sandbox) -> None:
    for _ in range(3):
        outcome = await box.run("import os\n(os.listdir('/tmp'), 6 * 7)")
        assert (outcome.status, outcome.value) == ("ok", "([], 42)"), outcome


def _processes(box: Sandbox) -> int:
    """Count the processes below this one whose command is not the canary's."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    queue = [int(pid) for path in children for pid in path.read_text().split()]
    count = 0
    while queue:
        count += 1
        for path in Path(f"/proc/{queue.pop()}/task").glob("*/children"):
            queue += map(int, path.read_text().split())
    return count


@pytest.mark.parametrize("name", ESCAPES)
async def test_escape_is_contained(box: Sandbox, canaries: Canaries, name: str) -> None:
    await _works(box)
    before = _processes(box)
    outcome = await box.run(canaries.fill(ESCAPES[name]))
    said = f"{outcome.value} {outcome.stdout} {outcome.error}"
    assert canaries.mark not in said.replace(str(canaries.secret), "")
    assert "BREACH" not in said
    assert outcome.status in ({"crashed"} if name == "forge_result" else {"ok", "error", "crashed"}), outcome
    if name not in {"kill_everybody", "stay_alive", "forge_result"}:
        assert outcome.status == "ok", outcome  # the attack ran to its end
    assert canaries.reached() == []
    await _works(box)
    assert _processes(box) == before


@pytest.mark.parametrize("name", RESOURCES)
async def test_resources_are_bounded(box: Sandbox, name: str) -> None:
    source, allowed = RESOURCES[name]
    outcome: Outcome = await box.run(source)
    assert outcome.status in allowed, outcome
    assert outcome.status == "ok" or outcome.error
    assert len(outcome.stdout) <= 20_000
    await _works(box)


async def test_canaries_are_alive_and_corpus_is_whole(canaries: Canaries) -> None:
    assert (len(ESCAPES), len(RESOURCES)) == (28, 14)
    assert canaries.reached() == []
    with socket.create_connection(canaries.tcp.getsockname()), socket.socket(socket.AF_UNIX) as unix:
        unix.connect(canaries.unix.getsockname())
        canaries.udp.sendto(b"x", canaries.udp.getsockname())
        assert canaries.reached() == ["tcp", "unix", "udp"]
