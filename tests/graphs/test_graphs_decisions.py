"""What the loop does when things go otherwise: sabotage, alarms, failures, a person who is asked, budgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import ShufflingTrainer, SimulatedModel, SimulatedTrainer, small

from autotelic.cli import main
from autotelic.core.errors import DeliveryError, ServingError, StoreError, TrainingError, UsageError
from autotelic.core.words import TrainingExample
from autotelic.graphs import Outcome
from autotelic.store import (
    AlarmRow,
    DeliveryRow,
    EvaluationRow,
    ExampleRow,
    GateRow,
    Ledger,
    NodeRow,
    PolicyRow,
    RunRow,
)
from autotelic.training import TrainingJob, TrainingResult

pytestmark = pytest.mark.e2e

Play = Callable[..., tuple[Outcome, Ledger]]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
QUIET = dict.fromkeys(("min_diversity", "min_coverage", "max_text_drop", "below_base_rounds"))
BRIEF: dict[str, Any] = {
    "rounds": 10,
    "propose": {"tasks": 10, "group": 5, "examples": 2},
    "solve": {"samples": 3, "bare": 0.0},
    "critique": {"episodes": 0},
    "curate": {"min_examples": 3, "reviews": 0},
    "evaluate": {"fresh": 30, "frozen": 12, "sealed": 4, "regression": 0, "two_by_two": 0},
    "gate": {"min_tasks": 12},
    "alarms": QUIET,
}


# -- sabotage


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_shuffled_labels_nothing_is_promoted_in_ten_rounds(play: Play, seed: int) -> None:
    outcome, ledger = play(small(**BRIEF, seed=seed), trainer=ShufflingTrainer)
    assert outcome == Outcome(champion=0, stop="rounds")
    gates = ledger.rows(GateRow, order="round")
    assert [g.round for g in gates] == list(range(1, 11)), "every round had a candidate"
    assert not any(g.promoted for g in gates)
    assert {p.state for p in ledger.rows(PolicyRow) if p.number} == {"rejected"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_right_labels_the_first_candidate_is_promoted(play: Play, seed: int) -> None:
    outcome, ledger = play(small(**{**BRIEF, "rounds": 1}, seed=seed))
    assert outcome.champion == 1 and ledger.rows(GateRow)[0].promoted


def test_alarms_end_the_run_and_say_why(play: Play) -> None:
    class Spoiling(SimulatedTrainer):
        """Teaches an answer that is never right."""

        def read(self, path: Path) -> list[TrainingExample]:
            return [one.model_copy(update={"completion": "?"}) for one in super().read(path)]

    alarms = {**QUIET, "below_base_rounds": 2, "below_base_margin": 0.02}
    outcome, ledger = play(small(**{**BRIEF, "alarms": alarms}), trainer=Spoiling)
    assert outcome.stop.startswith("alarm: for 2 rounds the new policy was worse than the base")
    [alarm] = ledger.rows(AlarmRow)
    assert alarm.name == "below_base" and alarm.value < alarm.limit == -0.02 and alarm.message in outcome.stop
    assert ledger.rows(RunRow)[0].outcome == outcome.stop and ledger.count(GateRow) == alarm.round < 10
    assert ledger.count(EvaluationRow, suite="sealed", policy=0) == 4, "the claim is measured all the same"


# -- a person


ASKING = {"oversight": ("promotion",), "rounds": 1}


def test_a_person_is_asked_and_can_promote(play: Play) -> None:
    waiting, ledger = play(small(**ASKING))
    assert waiting.stop == "waiting" and waiting.champion == 0
    assert waiting.question is not None and waiting.question["ask"] == "promote policy-1?"
    assert not ledger.count(GateRow) and not ledger.count(EvaluationRow, suite="sealed")
    assert play(small(**ASKING))[0] == waiting, "it waits on"
    outcome, ledger = play(small(**ASKING), answer=True)
    assert outcome == Outcome(champion=1, stop="rounds") and ledger.rows(GateRow)[0].promoted


def test_a_person_can_refuse(play: Play) -> None:
    play(small(**ASKING))
    outcome, ledger = play(small(**ASKING), answer=False)
    assert outcome == Outcome(champion=0, stop="rounds")
    [gate] = ledger.rows(GateRow)
    assert not gate.promoted and gate.reasons[0] == "a person refused the promotion"
    assert ledger.rows(PolicyRow, number=1)[0].state == "rejected"


def test_an_answer_given_before_there_is_a_question_counts_for_nothing(play: Play) -> None:
    outcome, _ = play(small(**ASKING), answer=True)
    assert outcome.stop == "waiting"


def test_the_question_survives_the_process(play: Play, tmp_path: Path, model: Path) -> None:
    play(small(**ASKING))
    driver = [sys.executable, str(Path(__file__).with_name("driver.py")), "--cli", str(model)]
    command = [*driver, "self-play", str(tmp_path / "run" / "config.yaml"), "--run", str(tmp_path / "run"), "--json"]
    answered = subprocess.run([*command, "--approve"], env=ENVIRONMENT, capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["champion"] == 1


def test_the_command_says_what_it_waits_for(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(small(**ASKING))
    config = tmp_path / "run" / "config.yaml"
    monkeypatch.setattr(sys, "argv", ["autotelic", "self-play", str(config), "--run", str(tmp_path / "run"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert json.loads(capsys.readouterr().out)["waiting"]["ask"] == "promote policy-1?"


# -- budgets


def test_too_little_data_trains_nothing(play: Play) -> None:
    outcome, ledger = play(small(curate={"min_examples": 20, "max_examples": 20}, patience=2, rounds=5))
    assert outcome == Outcome(champion=0, stop="patience")
    nodes = {(n.round, n.node) for n in ledger.rows(NodeRow)}
    assert {r for r, _ in nodes} == {0, 1, 2, 3} and not {n for _, n in nodes} & {"train", "deliver", "evaluate"}
    assert ledger.count(PolicyRow) == 1 and not ledger.count(GateRow)


def test_patience_counts_from_the_last_promotion(play: Play) -> None:
    class Fading(SimulatedTrainer):
        """Learns in round 1, never after."""

        async def train(self, job: TrainingJob, *reports: Any) -> TrainingResult:
            Fading.idle = job.number > 1
            return await super().train(job, *reports)

    outcome, ledger = play(small(**{**BRIEF, "patience": 3}, seed=0), trainer=Fading)
    assert outcome == Outcome(champion=1, stop="patience")
    assert [g.round for g in ledger.rows(GateRow) if g.promoted] == [1]
    assert set(ledger.column(NodeRow, "round", node="gate")) == {1, 2, 3, 4}
    new = {r: set(ledger.column(ExampleRow, "id", round=r, origin="new")) for r in range(1, 5)}
    carried = {r: set(ledger.column(ExampleRow, "id", round=r, origin="carried")) for r in range(1, 5)}
    assert carried == {1: set(), 2: set(), 3: new[2], 4: new[2] | new[3]} and new[2]
    assert set(ledger.column(ExampleRow, "id", round=4, origin="replay")) <= new[1]


def test_a_run_that_is_refused_for_long_does_not_train_ever_longer(play: Play) -> None:
    changes = {"curate": {**BRIEF["curate"], "max_examples": 12}, "rounds": 5, "patience": 5}
    _, ledger = play(small(**{**BRIEF, **changes}), trainer=ShufflingTrainer)
    sizes = [
        (ledger.count(ExampleRow, round=r, origin="new"), ledger.count(ExampleRow, round=r, origin="carried"))
        for r in range(1, 6)
    ]
    assert all(carried <= max(0, 12 - new) for new, carried in sizes) and sum(new for new, _ in sizes) > 12
    last = {row.id for row in ledger.rows(ExampleRow, round=5, origin="carried")}
    assert last and last & set(ledger.column(ExampleRow, "id", round=4, origin="new")), "the newest are carried first"


def test_a_round_that_would_not_fit_is_not_begun(play: Play) -> None:
    outcome, ledger = play(small(**BRIEF, seconds=1e-3))
    assert outcome.stop == "seconds" and set(ledger.column(GateRow, "round")) == {1}


# -- failures


class Failing(SimulatedTrainer):
    fail = "the trainer process ended with exit code -9"


class Spoiling(SimulatedTrainer):
    spoil = True


class Idle(SimulatedTrainer):
    idle = True


def test_a_failed_training_leaves_the_champion_and_the_same_command_goes_on(play: Play, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="exit code -9"):
        play(small(**BRIEF), trainer=Failing)
    ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
    assert ledger.champion().number == 0 and ledger.count(PolicyRow) == 1
    assert not ledger.node(1, "train").done and ledger.node(1, "curate").done
    ledger.close()
    outcome, ledger = play(small(**{**BRIEF, "rounds": 1}))
    assert outcome.champion == 1 and ledger.node(1, "train").attempts == 2 and ledger.node(1, "curate").attempts == 1


def test_a_candidate_that_cannot_be_proved_stops_the_run(play: Play, tmp_path: Path) -> None:
    for attempt in (1, 2):
        with pytest.raises(DeliveryError, match="policy-1 is not delivered"):
            play(small(**BRIEF), trainer=Spoiling)
        ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
        assert ledger.node(1, "deliver").attempts == attempt and not ledger.node(1, "deliver").done
        assert not ledger.node(1, "evaluate").attempts and not ledger.count(GateRow)
        assert not ledger.count(EvaluationRow, policy=1) and not ledger.count(DeliveryRow, policy=1)
        assert ledger.champion().number == 0
        ledger.close()


def test_a_candidate_that_learned_nothing_is_refused_and_the_run_goes_on(play: Play) -> None:
    outcome, ledger = play(small(**{**BRIEF, "rounds": 2}), trainer=Idle)
    assert outcome == Outcome(champion=0, stop="rounds")
    gates = ledger.rows(GateRow, order="round")
    assert [(g.candidate, g.promoted) for g in gates] == [(1, False), (2, False)]
    assert gates[0].reasons == ["policy-1 cannot be told from policy-0."]
    assert not ledger.count(EvaluationRow, policy=1), "there is nothing to measure"
    assert ledger.rows(DeliveryRow, round=1, order="id")[-1].policy == 0, "the champion is served again"


def test_an_error_in_one_of_many_items_comes_out_as_it_is(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    say = SimulatedModel._say

    def refusing(self: SimulatedModel, *args: Any) -> str:
        if self.calls > 30:
            raise ServingError("the model server refused the request.")
        return say(self, *args)

    monkeypatch.setattr(SimulatedModel, "_say", refusing)
    with pytest.raises(ServingError, match="refused"):
        play(small(**BRIEF))
    monkeypatch.setattr(SimulatedModel, "_say", say)
    assert play(small(**{**BRIEF, "rounds": 1}))[0].champion == 1


# -- one run, one config, one process


def test_another_config_is_refused_by_its_keys(play: Play) -> None:
    play(small(**{**BRIEF, "rounds": 1}))
    with pytest.raises(UsageError, match=r"different: propose, seed\)\. Go on with"):
        play(small(**{**BRIEF, "rounds": 1, "propose": {"tasks": 13}}, seed=2))


def test_a_config_that_never_worked_binds_nobody(play: Play) -> None:
    with pytest.raises(UsageError, match="gdc"):
        play(small(**BRIEF, environment={"families": ["gdc"]}))
    assert play(small(**{**BRIEF, "rounds": 1}))[0].stop == "rounds"


def test_a_tuple_in_the_program_is_the_list_in_the_file(play: Play) -> None:
    config = small(**ASKING, environment={"families": ("gcd", "chain_sum", "spell_backward", "letter_counting")})
    play(config)
    assert play(config)[0].stop == "waiting"


HOLD = """
import sys
from pathlib import Path
from autotelic.core.run_dir import RunDir
run = RunDir(Path(sys.argv[1])).create()
run.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused(play: Play, tmp_path: Path) -> None:
    config = small(**{**BRIEF, "rounds": 1})
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=f"in use by process {other.pid}"):
            play(config)
        other.communicate()
    assert play(config)[0].stop == "rounds"


def test_a_promotion_by_hand_in_between_holds(play: Play) -> None:
    """A person promotes while the run waits; what the report claims is about that policy."""
    play(small(**ASKING))
    _, ledger = play(small(**ASKING))
    ledger.crown(1)
    outcome, ledger = play(small(**ASKING), answer=False)
    assert ledger.champion().number == outcome.champion
    assert ledger.count(EvaluationRow, suite="sealed", policy=outcome.champion) == small().evaluate.sealed


def test_the_regression_suite_is_what_others_than_the_champion_failed(play: Play) -> None:
    _, ledger = play(small(rounds=3, evaluate={"regression": 50}))
    champions = {g.round: g.champion for g in ledger.rows(GateRow)}
    assert champions[1] == 0 != champions[2] == 1, "the first round's failures are the old champion's"
    failed = {
        (a.round, a.policy, a.task_id)
        for a in ledger.rows(EvaluationRow, suite="fresh", memory=False)
        if a.score != 1.0
    }
    assert not ledger.suite("regression", round=1)
    for round in (2, 3):
        kept = [task.id for task in ledger.suite("regression", round=round)]
        of = {r: sorted(t for q, p, t in failed if q == r and p != champions[round]) for r in range(1, round)}
        assert set(kept) <= {task for tasks in of.values() for task in tasks}
        for tasks in of.values():
            share = [task for task in tasks if task in kept]
            assert share == tasks[: len(share)] and len(share) >= min(len(tasks), 50 // len(of))
        for policy in (champions[round], round):
            assert ledger.count(EvaluationRow, suite="regression", round=round, policy=policy) == len(kept) > 0


def test_an_ended_run_gets_no_more_rounds(play: Play, tmp_path: Path) -> None:
    play(small(**{**BRIEF, "rounds": 1}))
    for _ in range(2):
        with pytest.raises(UsageError, match="its sealed suite is open, so it gets no more rounds"):
            play(small(**{**BRIEF, "rounds": 2}))
    assert play(small(**{**BRIEF, "rounds": 1}))[0].stop == "rounds"
