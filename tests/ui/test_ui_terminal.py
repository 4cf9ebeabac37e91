"""The terminal chat, driven by keys in a real pseudo-terminal; what is checked is what stands on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from tests.memory.kit import Trigrams
from tests.ui.chatting import voices

from autotelic.core.errors import UsageError, Waiting
from autotelic.core.run_dir import RunDir
from autotelic.graphs.chats import open_chats
from autotelic.graphs.chatting import build_chat
from autotelic.graphs.oversight import answer
from autotelic.memory import Demonstration, Memory
from autotelic.store import ApprovalRow, Ledger
from autotelic.ui.talk import Note, Talk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CHAT = Path(__file__).with_name("chatting.py")
Opened = Callable[..., "Screen"]


class Screen:
    """A process in a terminal of 80 by 24, and what it shows."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(80, 24, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._arguments = arguments
        self.pid, self._line = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", **environment})
            os.execv(sys.executable, [sys.executable, str(CHAT), *arguments])
        fcntl.ioctl(self._line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys; all but Ctrl-C when the chat reads keys, for between two prompts Ctrl-D is the terminal's."""
        anytime = keys == "\x03" or "--plain" in self._arguments
        self.until(lambda: anytime or not self._by_lines(), "the prompt")
        os.write(self._line, keys.encode())

    def _by_lines(self) -> bool:
        modes: int = termios.tcgetattr(self._line)[3]
        return bool(modes & termios.ICANON)

    @property
    def text(self) -> str:
        past = ["".join(cell.data for cell in line.values()) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*past, *self.screen.display])

    def read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._line], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._line, 65536)
        except OSError:
            return False
        self.raw += data
        self._stream.feed(data)
        if b"\x1b[6n" in data:  # asks where the cursor is
            os.write(self._line, b"\x1b[%d;%dR" % (self.screen.cursor.y + 1, self.screen.cursor.x + 1))
        return bool(data)

    def wait(self, *texts: str, seconds: float = 60) -> None:
        self.until(lambda: all(text in self.text for text in texts), str(texts), seconds)

    def until(self, true: Callable[[], bool], what: str = "it", seconds: float = 60) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends and self.read(0.2), f"{what} never came; there is:\n{self.text}"

    def end(self) -> int:
        """Wait until the process has ended; return its status."""
        ends = time.monotonic() + 60
        while self.read(0.2):
            assert time.monotonic() < ends, f"it does not end; there is:\n{self.text}"
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        os.close(self._line)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    screens: list[Screen] = []

    def open_one(*arguments: str, wait: str = "you:", **environment: str) -> Screen:
        screens.append(Screen(str(tmp_path / "threads.sqlite"), *arguments, **environment))
        screens[-1].wait(wait)
        return screens[-1]

    yield open_one
    for screen in screens:
        screen.close()


def test_an_answer_is_refined_by_keys(opened: Opened) -> None:
    screen = opened()
    screen.type("tell me about owls\r")
    screen.wait("mended 2", "2 drafts; critic: right")
    screen.type("\x1bd")
    screen.wait("draft 1: draft about owls", "critic: wrong")
    screen.type("\x1bw")
    screen.wait("/wrong")
    screen.type("say more\r")
    screen.wait("mended 3")
    screen.type("\x1be")
    screen.wait("/edit mended 3")
    screen.type(" and more\r")
    screen.wait("mended 3 and more (edited)")
    screen.type("\x1ba")
    screen.wait("(accepted)")
    screen.type("\x1bu")
    screen.wait("taken back")
    screen.type("\x1bh")
    screen.wait("/compare WHO WHO", "Alt-c")
    screen.type("/nonsense\r")
    screen.wait("there is no command /nonsense")
    screen.type("\x04")
    assert screen.end() == 0


def test_what_a_model_says_cannot_command_the_terminal(opened: Opened) -> None:
    screen = opened("--plain")
    screen.type("an owl\r")
    screen.wait("answer: mended 2")
    screen.type("/drafts\r")
    screen.wait("draft 1: draft about owl ]0;owned[31mred")
    assert b"\x1b]0;owned" not in screen.raw and b"\x1b[31mred" not in screen.raw


def test_plain_mode_says_what_everything_is(opened: Opened) -> None:
    screen = opened("--plain", NO_COLOR="1")
    screen.type("an owl\r")
    screen.wait("draft 1: draft about owl", "critic: wrong", "draft 2: mended 2", "critic: right", "answer: mended 2")


def test_stopped_in_the_middle_nothing_is_left_of_it(opened: Opened, tmp_path: Path) -> None:
    screen = opened()
    screen.type("first\r")
    screen.wait("mended 2")
    screen.type("be slow\r")
    screen.until((tmp_path / "asked").exists)
    screen.type("\x03")
    screen.wait("stopped, and taken back")
    screen.type("third\r")
    screen.wait("mended 4")
    screen.type("/export /dev/null/x\r")
    screen.wait("cannot be written")


def test_killed_in_the_middle_of_an_answer_the_chat_is_whole(opened: Opened, tmp_path: Path) -> None:
    screen = opened()
    screen.type("first\r")
    screen.wait("mended 2")
    screen.type("second, be slow\r")
    screen.until((tmp_path / "asked").exists)
    os.kill(screen.pid, signal.SIGKILL)
    (tmp_path / "asked").unlink()
    again = opened(wait="hello")
    again.until((tmp_path / "asked").exists)
    again.type("\x03")
    again.wait("stopped, and taken back")
    again.type("/drafts\r")
    again.wait("draft 2: mended 2")


@pytest.mark.parametrize(("keys", "says"), [("\x1bi", "it wrote note this"), ("/deny\r", "a person refused it")])
def test_a_tool_waits_for_the_person_also_over_a_kill(opened: Opened, tmp_path: Path, keys: str, says: str) -> None:
    screen = opened("--tool")
    screen.type("note this\r")
    screen.wait("call write?", '"note this"', "/allow or /deny", "you:")
    os.kill(screen.pid, signal.SIGKILL)
    written = tmp_path / "written.txt"
    assert not written.exists()
    again = opened("--tool", wait="/allow or /deny")
    again.wait("you:")
    again.type("something else\r")
    again.wait("first this waits for you")
    again.type(keys)
    again.wait(says)
    assert written.exists() == ("wrote" in says)
    again.type("/drafts\r")
    again.wait("called write", "draft 1: it")


async def test_what_is_remembered_is_shown_and_corrected(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        memory = await Memory.open(tmp_path / "memory", Trigrams())
        stack.push_async_callback(memory.aclose)
        known = Demonstration(id="d1", task_id="t", question="How far?", answer="3", score=1.0, trajectory_id="e")
        await memory.add([known])
        run = RunDir(tmp_path / "run").create()
        run.config.write_text("environment: {name: reasoning_gym}\noversight: [forgetting]\n")
        ledger = Ledger(run.ledger)
        stack.callback(ledger.close)
        spoken = voices()
        spoken = replace(spoken, context=replace(spoken.context, memory=memory), run=run, ledger=ledger)
        chats = await stack.enter_async_context(open_chats(tmp_path / "threads.sqlite", build_chat(spoken.chat())))
        talk = Talk(chats, spoken)

        async def told(line: str) -> str:
            return "".join([one.text async for one in talk.line(line) if isinstance(one, Note)])

        assert await told("/recall how far") == "d1  How far? -> 3"
        assert await told("/correct d1 3 km") == "d1 says now: How far? -> 3 km"
        assert (await memory.get(["d1"]))["d1"].messages[-1].content == "3 km"
        with pytest.raises(UsageError, match="no example and no lesson d9"):
            await told("/correct d9 3 km")
        for _ in range(2):
            with pytest.raises(Waiting, match="delete 1 from the memory for good"):
                await told("/forget d1")
        (asked,) = ledger.rows(ApprovalRow)
        assert asked.question["reasons"] == ["d1: How far?"] and await memory.get(["d1"])
        answer(ledger, asked.id, True)
        assert await told("/forget d1") == "d1 is deleted." and await memory.get(["d1"]) == {}
        with pytest.raises(UsageError, match="nothing is remembered under 'd1'"):
            await told("/forget d1")
