"""The real command on the real model, server and trainer: once left alone, once struck wherever it hurts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from openai import OpenAI

from autotelic.environments import solved
from autotelic.graphs import Config
from autotelic.store import (
    CritiqueRow,
    CurationRow,
    DeliveryRow,
    EpisodeRow,
    EvaluationRow,
    ExampleRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    ProposalRow,
    RunRow,
    StrategyRow,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

FAMILIES = ["string_insertion", "number_sequence", "letter_counting"]
CONFIG = Config.model_validate(
    {
        "environment": {
            "name": "reasoning_gym",
            "families": ["string_insertion", "number_sequence", "letter_counting"],
        },
        "rounds": 1,
        "propose": {"tasks": 24, "explore": 0.5},
        "solve": {"samples": 4, "concurrency": 4},
        "memory": {"real": 4},
        "critique": {"episodes": 4},
        "curate": {"min_examples": 2, "reviews": 4},
        "train": {"settings": {"epochs": 4, "batch_size": 4, "warmup_ratio": 0.0}},
        "feedback": {"settings": {"epochs": 4}},
        "evaluate": {"fresh": 16, "frozen": 6, "sealed": 9, "two_by_two": 4},
        "gate": {"min_tasks": 16},
        "serving": {"kv_cache_gib": 1.0},
    }
)
STRATEGIES = [
    "direct",
    "self_consistency(n=4, weigh='certainty')",
    "best_of(n=2, by='critic')",
    "tree_of_thoughts(depth=1)",
    "debate(rounds=1)",
    "mixture",
    "adapted(by='neighbours', k=3, epochs=3)",
    "contrastive(strength=0)",
    "guided(regex='[0-9]{1,3}')",
    'guided(grammar=\'root ::= "<" [a-c] ">"\')',
]
NODES = ["propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate"]


class Command:
    """`autotelic` as a process of its own, with all that belongs to it."""

    def __init__(self, *args: object, log: Path, lines: str = "") -> None:
        script = Path(sys.executable).with_name("autotelic")
        start = [str(script)] if script.exists() else [sys.executable, "-c", "from autotelic.cli import main; main()"]
        self.log = log
        with log.open("wb") as err, log.with_suffix(".out").open("wb") as out:
            self.process = subprocess.Popen([*start, *map(str, args)], stdout=out, stderr=err, stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(lines.encode())
        self.process.stdin.close()

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something has happened, while the command runs."""
        deadline = time.monotonic() + 300
        while not true():
            assert self.process.poll() is None, f"it ended before {what}: {self.said()}"
            assert time.monotonic() < deadline, f"{what} never happened: {self.said()}"
            time.sleep(0.02)

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(600)
        assert not family(self.process.pid)
        return code

    def kill(self) -> None:
        """kill -9, and wait until nothing that belonged to it is left."""
        pids = [self.process.pid, *family(self.process.pid)]
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 60
        while left := [pid for pid in pids if alive(pid)]:
            assert time.monotonic() < deadline, f"these outlived it: {[command_line(pid) for pid in left]}"
            time.sleep(0.1)

    def strike(self, word: str) -> None:
        """kill -9 one of its processes."""
        os.kill(min(pid for pid, name in family(self.process.pid).items() if word in name), signal.SIGKILL)

    def said(self) -> str:
        """The end of standard error."""
        return self.log.read_text(errors="replace")[-3000:]

    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.log.with_suffix(".out").read_text())


def family(root: int) -> dict[int, str]:
    """Living processes under a pid, by name and command line."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = entry.read_text().rpartition(")")
            if tail.split()[0] != "Z":
                pid = int(entry.parent.name)
                parents[pid], names[pid] = int(tail.split()[1]), f"{head.partition('(')[2]} {command_line(pid)}"
    found: dict[int, str] = {}
    wave = {root}
    while wave := {pid for pid, parent in parents.items() if parent in wave}:
        found |= {pid: names[pid] for pid in wave}
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def count(run: Path, table: str, where: str = "1") -> int:
    """Rows of a ledger that somebody else is writing."""
    try:
        db = sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(db.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands; whatever of them is left at the end of the test is ended."""
    begun: list[Command] = []

    def start(*args: object, lines: str = "") -> Command:
        begun.append(Command(*args, log=tmp_path / f"command-{len(begun)}.err", lines=lines))
        return begun[-1]

    yield start
    for command in begun:
        for pid in [command.process.pid, *family(command.process.pid)] if command.process.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        command.process.wait()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG.model_dump(mode="json")))
    return path


def check_complete(run: Path) -> Ledger:
    """The ledger holds exactly what config and valid tasks demand, once; every delivery was proved."""
    ledger = Ledger(run / "ledger.sqlite")
    proposals = ledger.rows(ProposalRow, round=1)
    assert {p.id for p in proposals} == {f"r1/propose/{i}" for i in range(CONFIG.propose.tasks)}
    tasks = [p.task_id for p in proposals if p.reason == "ok"]
    episodes = {f"r1/solve/{t}/memory/{i}" for t in tasks for i in range(CONFIG.solve.samples)}
    assert set(ledger.column(EpisodeRow, "id")) == episodes and len(tasks) >= 12
    assert set(ledger.column(EpisodeRow, "policy")) == {0}
    assert set(ledger.column(CurationRow, "item_id")) == episodes | {p.id for p in proposals if p.reason == "ok"}
    assert ledger.count(CritiqueRow) == CONFIG.critique.episodes and ledger.count(GateRow) == 1
    nodes = {(n.round, n.node): n for n in ledger.rows(NodeRow)}
    assert set(nodes) == {(0, "prepare"), *((1, n) for n in NODES), (2, "finish")} and all(
        n.done for n in nodes.values()
    )

    champion, sizes = ledger.champion().number, CONFIG.evaluate
    answers = Counter((r.suite, r.policy, r.memory) for r in ledger.rows(EvaluationRow))
    expected = {("sealed", policy, False): sizes.sealed for policy in {0, champion}}
    for policy in (0, 1):
        expected[("fresh", policy, False)], expected[("fresh", policy, True)] = sizes.fresh, sizes.two_by_two
        expected[("frozen", policy, False)] = sizes.frozen
    assert answers == expected

    deliveries = ledger.rows(DeliveryRow, order="id")
    assert deliveries[-1].policy == champion and {d.policy for d in deliveries} == {0, 1}
    limit = CONFIG.serving
    # The record has differences as they are; to an improbable token the proof allows some times its bound.
    assert all(d.to_trainer <= limit.proof_max and d.to_trainer_mean <= limit.proof_mean for d in deliveries)
    assert ledger.rows(RunRow)[0].outcome == "rounds"
    report = json.loads((run / "report.json").read_text())
    assert report["champion"] == champion and report["total"]["n"] == sizes.sealed
    assert report["rounds"][0]["proof"]["to_previous"] > 0 and report["rounds"][0]["delivery_seconds"] > 0
    assert (run / "report.html").stat().st_size > 10_000
    return ledger


def test_a_session_left_alone(tmp_path: Path, config: Path, begin: Callable[..., Command]) -> None:
    run = tmp_path / "run"
    command = begin("self-play", config, "--run", run, "--json")
    assert command.ended() == 0, command.said()
    ledger = check_complete(run)
    assert command.json() == json.loads((run / "report.json").read_text())
    assert {n.attempts for n in ledger.rows(NodeRow)} == {1}
    [trained] = ledger.rows(DeliveryRow, kind="train")
    assert trained.policy == 1 and trained.to_previous is not None and trained.to_previous > trained.to_trainer
    champion = ledger.champion().number

    compared = begin("eval", run, "--policy", 1, "--strategy", ",".join(STRATEGIES), "--json")
    assert compared.ended() == 0, compared.said()
    figures = compared.json()["strategies"]
    assert [one["strategy"] for one in figures] == STRATEGIES
    assert all(one["accuracy"]["n"] == CONFIG.evaluate.frozen and not one["stopped"] for one in figures)
    plain = [solved(score) for score in ledger.column(EvaluationRow, "score", suite="frozen", policy=1, memory=False)]
    assert abs(figures[0]["accuracy"]["mean"] - fmean(plain)) < 0.25, "greedy is greedy, but for ties in bf16"
    answers = ledger.rows(StrategyRow)
    assert len(answers) == len(STRATEGIES) * CONFIG.evaluate.frozen
    assert all(row.calls and row.prompt_tokens > row.cached_tokens for row in answers)
    said = {s: {row.task_id: row.answer for row in answers if row.strategy == s} for s in STRATEGIES}
    same = [said["contrastive(strength=0)"][task] == answer for task, answer in said["direct"].items()]
    assert sum(same) > 0.6 * len(same), "without an amateur, token by token is greedy decoding, but for ties in bf16"
    for strategy, form in ((STRATEGIES[-2], r"[0-9]{1,3}"), (STRATEGIES[-1], r"<[a-c]>")):
        assert all(answer is None or re.fullmatch(form, answer) for answer in said[strategy].values())
        assert any(said[strategy].values())
    [adapted] = ledger.rows(PolicyRow, state="discarded")
    [proved] = ledger.rows(DeliveryRow, policy=adapted.number)
    assert adapted.parent == 1 and proved.kind == "train" and (proved.to_previous or 0.0) > 0.0
    assert ledger.rows(DeliveryRow, order="id")[-1].policy == 1 and not (run / "policies" / "adapted").exists()
    assert sum(row.cached_tokens for row in answers) > 0, "later prompts share their beginning with earlier ones"
    weighed = [row for row in answers if "certainty" in row.strategy]
    assert all(draft["certainty"] > 0 for row in weighed for draft in row.drafts)

    rolled = begin("policies", "rollback", run, 1 - champion, "--json")
    assert rolled.ended() == 0, rolled.said()
    found = rolled.json()
    assert (found["before"], found["champion"]) == (champion, 1 - champion)
    assert found["proof"]["to_previous"] > found["proof"]["to_trainer_mean"]
    assert ledger.champion().number == 1 - champion
    check_endpoint(run, begin, ledger)
    check_chat(run, begin, ledger)
    ledger.close()


def check_endpoint(run: Path, begin: Callable[..., Command], ledger: Ledger) -> None:
    """Programs are answered by the champion, also while there comes another, and the server ends when told to."""
    served = begin("serve", "--run", run, "--port", 0, "--json")
    served.until(lambda: served.log.with_suffix(".out").read_text().endswith("\n"), "the address")
    said = served.json()
    client = OpenAI(base_url=said["url"], api_key=said["key"], max_retries=0)
    first = ledger.champion().number
    assert {model.id for model in client.models.list()} >= {"champion", "policy-0", "policy-1"}

    def ask(number: int) -> tuple[str | None, str | None]:
        form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": number}}}
        messages: Any = [{"role": "user", "content": f"Say {number}."}]
        found = client.chat.completions.create(model="champion", messages=messages, max_tokens=16, response_format=form)
        return found.choices[0].message.content, found.system_fingerprint

    with ThreadPoolExecutor(6) as pool:
        before = [*pool.map(ask, range(6))]
        waiting = [pool.submit(ask, number) for number in range(24)]
        ledger.crown(1 - first)
        after = [one.result() for one in waiting]
    assert before == [(str(number), f"policy-{first}") for number in range(6)]
    assert [text for text, _ in after] == [str(number) for number in range(24)], "none is dropped, none mixed up"
    deadline = time.monotonic() + 30
    while ask(7)[1] != f"policy-{1 - first}":
        assert time.monotonic() < deadline, "the new champion never answered"
    texts: Any = [{"role": "user", "content": "Tell me about the sea."}]
    pieces = [*client.chat.completions.create(model="policy-0", messages=texts, max_tokens=24, stream=True)]
    assert len([piece for piece in pieces if piece.choices and piece.choices[0].delta.content]) > 1
    assert pieces[-1].system_fingerprint == "policy-0", "who answered is known when all is said"
    body = json.dumps({"model": "champion", "messages": texts, "max_tokens": 4})
    curl = ["curl", "-s", f"{said['url']}/chat/completions", "-H", f"Authorization: Bearer {said['key']}", "-d", body]
    answered = json.loads(subprocess.run(curl, capture_output=True, check=True).stdout)
    assert answered["choices"][0]["message"]["content"] and answered["usage"]["completion_tokens"] <= 4
    served.process.send_signal(signal.SIGTERM)
    assert served.ended() == 0, served.said()


def check_chat(run: Path, begin: Callable[..., Command], ledger: Ledger) -> None:
    """What a person corrects in a chat is trained on, proved and decided about."""
    threads = run.parent / "threads.sqlite"
    lines = "".join(f"How long are {n} ropes of 2 metres?\n/edit {2 * n} metres\n" for n in range(3, 7))
    short = ("--rounds", 1, "--max-tokens", 24)
    talked = begin("chat", "--run", run, "--threads", threads, "--learn", *short, lines=lines)
    assert talked.ended() == 0, talked.said()
    said = talked.log.with_suffix(".out").read_text()
    assert [line for line in said.splitlines() if "edited" in line] == [f"{2 * n} metres (edited)" for n in range(3, 7)]
    champion, policies = ledger.champion().number, ledger.count(PolicyRow)
    trained = begin("train", run, "--feedback", "--approve", "--json")
    assert trained.ended() == 0, trained.said()
    made = trained.json()["candidate"]
    rows = ledger.rows(ExampleRow, origin="said")
    assert {row.completion for row in rows} == {f"{2 * n} metres" for n in range(3, 7)}
    [proved] = ledger.rows(DeliveryRow, policy=made, kind="train")
    assert ledger.count(PolicyRow) == policies + 1 and (proved.to_previous or 0.0) > proved.to_trainer_mean
    assert ledger.champion().number == (made if trained.json()["promoted"] else champion)


def test_a_session_that_is_struck_everywhere(tmp_path: Path, config: Path, begin: Callable[..., Command]) -> None:
    run = tmp_path / "run"
    order = ("self-play", config, "--run", run)

    first = begin(*order)
    first.until(lambda: count(run, "episode") > 0, "the first episode")
    first.kill()
    saved = count(run, "episode")
    assert not count(run, "node", "node = 'solve' AND done")

    second = begin(*order)
    second.until(lambda: count(run, "episode") > saved, "an episode after the start")
    second.strike("VLLM::EngineCor")
    second.until(lambda: count(run, "delivery", "kind = 'recover'") > 0, "the server's recovery")
    partial = run / "policies" / ".policy-1.partial"
    second.until(partial.exists, "the training")
    second.strike("autotelic.training.worker")
    assert second.ended() == 1
    assert "the trainer process ended with exit code -9. The champion is untouched" in second.said()
    assert "Traceback" not in second.said().split("End of")[0] and not partial.exists()

    third = begin(*order)
    third.until(lambda: count(run, "evaluation", "policy = 1") > 0, "the first answer of the candidate")
    third.kill()
    assert not count(run, "gate")

    fourth = begin(*order)
    assert fourth.ended() == 0, fourth.said()
    ledger = check_complete(run)
    attempts = {n.node: n.attempts for n in ledger.rows(NodeRow)}
    assert (attempts["prepare"], attempts["solve"], attempts["train"], attempts["evaluate"]) == (1, 2, 2, 2)
    ledger.close()
