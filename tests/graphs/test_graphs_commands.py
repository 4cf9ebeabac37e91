"""The commands on a finished simulated run, and what they say to mistakes: one line, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
import yaml
from rich.text import Text
from tests.graphs.simulated import SimulatedTrainer, small

from autotelic.cli import main
from autotelic.cli.app import app
from autotelic.environments import solved
from autotelic.store import DeliveryRow, EvaluationRow, ExampleRow, GateRow, Ledger, PolicyRow

pytestmark = pytest.mark.e2e

Simulate = Callable[[type[SimulatedTrainer]], None]
QUESTION = {"question": "Find the Greatest Common Divisor (GCD) of these numbers: 144, 124. Give only the GCD."}


class Command:
    """Runs `autotelic` in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, *args: object) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self._patch.setattr(sys, "argv", ["autotelic", *map(str, args)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capture.readouterr()
        return int(ended.value.code or 0), out, err

    def json(self, *args: object) -> Any:
        """Return what a command that succeeds prints with `--json`."""
        code, out, err = self(*args, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def autotelic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def ledger(copied: Path) -> Iterator[Ledger]:
    made = Ledger(copied / "ledger.sqlite")
    yield made
    made.close()


def test_a_finished_run_is_reported_again_and_not_run_again(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    before = json.loads((copied / "report.json").read_text())
    assert autotelic.json("report", copied) == before
    config = copied / "config.yaml"
    assert autotelic.json("self-play", config, "--run", copied)["total"] == before["total"]
    assert max(ledger.column(GateRow, "round")) == 2
    code, out, _ = autotelic("report", copied)
    assert code == 0 and "policy-2" in out and "sealed, zero-shot" in out and "report.html" in out


def test_policies_are_listed_and_shown(autotelic: Command, copied: Path) -> None:
    listed = autotelic.json("policies", "list", copied)
    assert [(p["number"], p["state"], p["parent"]) for p in listed] == [
        (0, "retired", None),
        (1, "retired", 0),
        (2, "champion", 1),
    ]
    assert listed[0]["frozen"] < listed[1]["frozen"]
    shown = autotelic.json("policies", "show", copied, 1)
    assert shown["gate"][0]["promoted"] and shown["deliveries"][0]["kind"] == "train"
    assert Path(shown["path"]) == copied / "policies" / "policy-1"
    shown = autotelic("policies", "list", copied)[1]
    assert "policy-2" in shown and "None" not in shown


def test_a_report_that_cannot_be_written_is_one_line(autotelic: Command, copied: Path) -> None:
    (copied / "report.html").unlink()
    (copied / "report.html").mkdir()
    code, _, err = autotelic("report", copied)
    assert code == 2 and len(err.splitlines()) == 1 and "cannot be written" in err


def test_rollback_and_promotion_are_proved(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    found = autotelic.json("policies", "rollback", copied)
    assert (found["before"], found["champion"]) == (2, 1) and found["proof"]["to_previous"] > 0
    assert ledger.rows(DeliveryRow, order="id")[-1].kind == "rollback"
    assert {p.number: p.state for p in ledger.rows(PolicyRow)} == {0: "retired", 1: "champion", 2: "retired"}
    assert autotelic.json("policies", "promote", copied, 2)["champion"] == 2
    assert "policy-0 is the champion, proved" in autotelic("policies", "rollback", copied, 0)[1]
    code, _, err = autotelic("policies", "rollback", copied)
    assert code == 2 and "policy-0 is the base: there is nothing to roll back to" in err


def test_a_policy_that_cannot_be_proved_is_not_crowned(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    weights = copied / "policies" / "policy-1" / "merged" / "model.safetensors"
    weights.write_text(weights.read_text() + " ")
    code, _, err = autotelic("policies", "promote", copied, 1)
    assert code == 1 and "policy-1 is not delivered" in err and "Traceback" not in err
    assert ledger.champion().number == 2


def test_a_run_that_was_copied_to_another_machine_finds_its_base(
    autotelic: Command, copied: Path, model: Path, tmp_path: Path
) -> None:
    card = copied / "policies" / "policy-0" / "card.json"
    elsewhere = {**json.loads(card.read_text()), "weights": str(tmp_path / "their-cache" / "model")}
    card.write_text(json.dumps(elsewhere))
    assert autotelic.json("eval", copied, "--policy", 0, "--suite", "fresh:2")["policy"] == 0
    assert json.loads(card.read_text())["weights"] == str(model)
    card.write_text(json.dumps(elsewhere | {"sha256": "0" * 64}))
    code, _, err = autotelic("eval", copied, "--policy", 0, "--suite", "fresh:2")
    assert code == 2 and "the run began with weights that hash to 0000000000000000; smollm2" in err


def test_eval_answers_what_is_missing(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    found = autotelic.json("eval", copied, "--policy", 0)
    rows = ledger.rows(EvaluationRow, suite="frozen", policy=0)
    assert found["accuracy"]["mean"] == pytest.approx(sum(solved(r.score) for r in rows) / len(rows))
    assert {f["family"] for f in found["families"]} == {r.family for r in rows}
    assert not ledger.count(EvaluationRow, suite="sealed", policy=1)
    assert autotelic.json("eval", copied, "--policy", 1, "--suite", "sealed")["accuracy"]["n"] == 24
    assert ledger.count(EvaluationRow, suite="sealed", policy=1) == 24
    helped = autotelic.json("eval", copied, "--suite", "fresh:1", "--policy", 0, "--memory")
    assert helped["accuracy"]["n"] == small().evaluate.fresh
    alone = autotelic.json("eval", copied, "--suite", "fresh:1", "--policy", 0)
    assert helped["accuracy"]["mean"] > alone["accuracy"]["mean"]
    code, _, err = autotelic("eval", copied, "--suite", "fresh")
    assert code == 2 and "no suite 'fresh'" in err and "fresh:1, fresh:2, frozen" in err and "sealed" in err


def test_train_makes_proves_and_judges_one_more(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    autotelic.json("policies", "rollback", copied, 0)
    found = autotelic.json("train", copied, "--round", 2)
    assert (found["round"], found["candidate"], found["promoted"]) == (3, 3, True)
    assert ledger.rows(PolicyRow, number=3)[0].parent == 0 and ledger.champion().number == 3
    source = set(ledger.column(ExampleRow, "id", round=2))
    assert set(ledger.column(ExampleRow, "id", round=3)) == source
    assert ledger.count(EvaluationRow, suite="fresh", round=3) > small().evaluate.fresh
    assert [r["round"] for r in autotelic.json("report", copied)["rounds"]] == [1, 2, 3]
    code, _, err = autotelic("train", copied, "--round", 9)
    assert code == 2 and "round 9 has no curated data. Rounds that have: [1, 2, 3]" in err


def test_train_goes_on_where_it_failed(
    autotelic: Command, copied: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    autotelic.json("policies", "rollback", copied, 0)
    monkeypatch.setattr(SimulatedTrainer, "fail", "the trainer process ended with exit code -9")
    code, _, err = autotelic("train", copied)
    assert code == 1 and "exit code -9. The champion is untouched" in err and "Traceback" not in err
    monkeypatch.setattr(SimulatedTrainer, "fail", None)
    found = autotelic.json("train", copied)
    assert (found["round"], found["candidate"]) == (3, 3) and ledger.count(GateRow) == 3


def test_train_asks_a_person_where_the_run_does(autotelic: Command, copied: Path, ledger: Ledger) -> None:
    path = copied / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "human_gate": True}))
    autotelic.json("policies", "rollback", copied, 0)
    code, out, _ = autotelic("train", copied, "--json")
    assert code == 3 and json.loads(out)["waiting"]["ask"] == "promote policy-3?"
    assert ledger.champion().number == 0 and not ledger.count(GateRow, round=3)
    code, out, _ = autotelic("train", copied)
    assert code == 3 and "promote policy-3?" in out and "{" not in out
    (said,) = [line for line in out.splitlines() if "autotelic approve" in line]
    _, _, _, run, request, answers = said.split()
    assert (run, answers) == (str(copied), "--yes|--no")
    assert autotelic.json("approve", run, request, "--yes")["answer"] is True
    assert autotelic.json("train", copied)["promoted"] is True
    assert ledger.champion().number == 3 and ledger.count(PolicyRow) == 4


def test_a_session_that_waits_says_for_what_and_how_it_is_answered(
    autotelic: Command, simulate: Simulate, tmp_path: Path
) -> None:
    simulate(SimulatedTrainer)
    config, run = tmp_path / "some.yaml", tmp_path / "a run"
    config.write_text(yaml.safe_dump(small(rounds=1, oversight=["training"]).model_dump(mode="json")))
    code, out, _ = autotelic("self-play", config, "--run", run)
    assert code == 3 and "of round 1?" in out and "{" not in out and f"autotelic approve '{run}' " in out
    (waiting,) = autotelic.json("approvals", run)["waiting"]
    assert waiting["id"] in out
    assert autotelic("self-play", config, "--run", run, "--refuse")[0] == 0


def test_run_asks_the_champion_with_the_memory_of_a_run(autotelic: Command, copied: Path) -> None:
    found = autotelic.json("run", "solve", "--run", copied, "--input", json.dumps(QUESTION))
    assert found["answer"].isdigit() and len(found["memory_ids"]) == 2


# -- a model elsewhere


class Elsewhere(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that knows one answer."""

    asked: ClassVar[list[Any]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Elsewhere.asked.append(body)
        assert body["stream"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text, reason in (("The answer ", None), ("is 4.", None), ("", "stop")):
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            self.wfile.write(b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def elsewhere() -> Iterator[list[str]]:
    """The command that asks the model elsewhere how much 2 + 2 is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    command = [sys.executable, "-c", "from autotelic.cli import main; main()", "run", "solve"]
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield [*command, "--input", '{"question": "2 + 2?"}', "--remote", "openai/some-model", "--base-url", url]
    server.shutdown()
    server.server_close()
    thread.join()


ENVIRONMENT = {**os.environ, "OPENAI_API_KEY": "none", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def test_run_asks_a_model_elsewhere(elsewhere: list[str]) -> None:
    ended = subprocess.run([*elsewhere, "--json"], capture_output=True, text=True, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["answer"] == "4"
    assert Elsewhere.asked[0]["model"] == "some-model" and Elsewhere.asked[0]["messages"][-1]["content"] == "2 + 2?"


def test_an_answer_is_shown_once_in_a_terminal(elsewhere: list[str]) -> None:
    here, terminal = os.openpty()
    ended = subprocess.run(elsewhere, stdout=terminal, stderr=terminal, env={**ENVIRONMENT, "TERM": "dumb"})
    os.close(terminal)
    shown = os.read(here, 10_000).decode().split("\r\n")
    os.close(here)
    assert ended.returncode == 0, shown
    assert "The answer is 4." in shown and "4" not in shown
    piped = subprocess.run(elsewhere, capture_output=True, text=True, env=ENVIRONMENT)
    assert piped.stdout == "4\n"


# -- mistakes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(yaml.safe_dump(small().model_dump(mode="json")))
    return path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["self-play", "CONFIG", "solve.sampels=3"], "unknown key 'solve.sampels'. Did you mean 'samples'?"),
        (["self-play", "CONFIG", "solve.samples"], "'solve.samples' is not of the form key=value"),
        (["self-play", "missing.yaml"], "there is no config file missing.yaml"),
        (
            ["self-play", "CONFIG", "curate.min_examples=700"],
            "curate.min_examples (700) exceeds curate.max_examples (600)",
        ),
        (["self-play", "CONFIG", "propose.tasks=3"], "curate.min_examples (4) exceeds what a round can give"),
        (["self-play", "CONFIG", "curate.replay=0.8", "curate.real=0.3"], "curate.replay (0.8) and curate.real (0.3)"),
        (["self-play", "CONFIG", "solve.samples=1"], "solve.samples = 1: Input should be greater than or equal to 2"),
        (["self-play", "CONFIG", "evaluate.fresh=8"], "gate.min_tasks (30) exceeds evaluate.fresh (8)"),
        (["self-play", "CONFIG", "rounds=0"], "rounds = 0: Input should be greater than or equal to 1"),
        (["self-play", "CONFIG", "environment.name=resoning_gym"], "no environment is called 'resoning_gym'"),
        (["self-play", "CONFIG", "memory.embedder=none"], "no embedder is called 'none'"),
        (["self-play", "CONFIG", "sandbox=docker", "environment.families=[gdc]"], "names 'gdc'"),
        (["self-play", "CONFIG", "train.method=stf"], "train.method: no method is called 'stf'"),
        (["self-play", "CONFIG", "feedback.method=pdo"], "feedback.method: no method is called 'pdo'"),
        (["self-play", "CONFIG", "memory.recipes=recipe.py"], "there is no file recipe.py"),
        (["self-play", "CONFIG", "memory.scopes=[run, team/x]"], "'team/x' is no scope"),
        (["self-play", "CONFIG", "solve.others=[opnai/x]"], "nobody is known who provides the model 'opnai/x'"),
        (["report", "nowhere"], "there is no run in"),
        (["eval", "nowhere"], "there is no run in"),
        (["train", "nowhere"], "there is no run in"),
        (["train", "nowhere", "--feedback", "--round", "2"], "Give one of them"),
        (["policies", "list", "nowhere"], "there is no run in"),
        (["policies", "rollback", "nowhere"], "there is no run in"),
        (["run", "solve", "--input", "what is 2 + 2?"], "--input is not JSON"),
        (["run", "solve", "--input", "[1]"], "expected an object"),
        (["run", "slove", "--input", "{}"], "no graph is called 'slove'"),
        (["run", "solve", "--input", "{}", "--run", "nowhere"], "there is no run in"),
        (["run", "solve", "--input", "{}", "--tool", "hammer"], "'hammer'"),
        (["run", "solve", "--input", "{}", "--calls", "3", "--seconds", "2"], "--calls, --seconds would do nothing"),
        (["run", "solve", "--input", "{}", "--model", "a", "--run", "b"], "--model a is for who names neither"),
        (["chat", "--model", "a", "--remote", "openai/b"], "--model a is for who names neither"),
        (["serve", "--model", "a", "--run", "b"], "--model a is for who names neither"),
        (["run", "solve", "--input", "{}", "--base-url", "http://127.0.0.1:1"], "that --remote names"),
        (["graphs", "history", "solve", "t", "--threads", "none.sqlite"], "there are no threads in none.sqlite"),
    ],
)
def test_a_mistake_is_one_line(
    autotelic: Command, simulate: Simulate, config: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str
) -> None:
    simulate(SimulatedTrainer)
    monkeypatch.chdir(config.parent)
    code, out, err = autotelic(*[str(config) if a == "CONFIG" else a for a in args])
    assert code == 2 and not out
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("autotelic: "), err
    assert says in lines[0]
    assert not (config.parent / "runs" / "some" / "config.yaml").exists(), "a mistake binds nobody"
    assert not (config.parent / "none.sqlite").exists(), "looking makes nothing"


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of a group, and of the groups in it."""
    for name, one in group.commands.items():
        yield (*names, name), one
        if hasattr(one, "commands"):
            yield from commands(one, *names, name)


def test_no_word_of_a_help_text_is_taken_for_a_colour() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 40
    for name, one in found.items():
        for text in [one.help, *(getattr(option, "help", None) for option in one.params)]:
            assert text is None or Text.from_markup(text).plain == text, name


@pytest.mark.parametrize("args", [["show", "RUN", "7"], ["promote", "RUN", "7"]])
def test_a_policy_that_is_not_there(autotelic: Command, copied: Path, args: list[str]) -> None:
    code, _, err = autotelic("policies", *[str(copied) if a == "RUN" else a for a in args])
    assert code == 2 and "the run has no policy-7. It has: policy-0, policy-1, policy-2." in err


def test_a_run_that_has_not_ended_cannot_be_trained_or_unsealed(
    autotelic: Command, copied: Path, simulate: Simulate
) -> None:
    ledger = Ledger(copied / "ledger.sqlite")
    with ledger.session() as session:
        from sqlalchemy import text

        session.connection().execute(text("UPDATE run SET finished_at = NULL"))
    ledger.close()
    assert "has not ended. Finish it first" in autotelic("train", copied)[2]
    code, _, err = autotelic("eval", copied, "--suite", "sealed")
    assert code == 2 and "opened once, when the run has ended" in err


def test_a_damaged_ledger_is_one_line(autotelic: Command, copied: Path) -> None:
    shutil.copy(copied / "config.yaml", copied / "ledger.sqlite")
    for leftover in copied.glob("ledger.sqlite-*"):
        leftover.unlink()
    code, _, err = autotelic("policies", "list", copied)
    assert code == 1 and len(err.splitlines()) == 1 and "Is it a ledger?" in err
