"""`autotelic eval --strategy` on a finished simulated run: answered once, compared, drawn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.graphs.simulated import small
from tests.refinement.kit import Model, in_turn, judging, work
from typer.testing import CliRunner, Result

from autotelic.cli.app import app
from autotelic.cli.strategies import split_strategies
from autotelic.core import registry
from autotelic.core.errors import ServingError, UsageError
from autotelic.evaluation import write_report
from autotelic.graphs import GraphContext, Outcome, build_refine
from autotelic.graphs.strategy_solver import reached
from autotelic.refinement import Budget, build_strategy, direct
from autotelic.serving import Gateway, TooLong, Unavailable
from autotelic.store import EpisodeRow, EvaluationRow, ExampleRow, Ledger, RefinementRow, StrategyRow

Play = Callable[..., tuple[Outcome, Ledger]]
WAYS = "direct, self_consistency(n=4, batch=2), reflexion(tries=2)"


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)


def test_strategies_answer_a_suite_and_are_compared_with_the_first(copied: Path) -> None:
    found = json.loads(invoke("eval", copied, "--strategy", WAYS, "--json").stdout)
    names = ["direct", "self_consistency(n=4, batch=2)", "reflexion(tries=2)"]
    assert [one["strategy"] for one in found["strategies"]] == names and found["n"] == 24
    ledger = Ledger(copied / "ledger.sqlite")
    rows = ledger.rows(StrategyRow)
    assert len(rows) == 3 * 24 and {row.suite for row in rows} == {"frozen"}
    direct, voted, tried = found["strategies"]
    champion = ledger.rows(EvaluationRow, suite="frozen", policy=found["policy"], memory=False)
    assert direct["accuracy"]["mean"] == sum(row.score or 0 for row in champion) / 24, "greedy is greedy"
    assert direct["gain"] is None and direct["calls"] == 1 and voted["gain"]["n"] == tried["gain"]["n"] == 24
    assert voted["gain"]["gain"] == pytest.approx(voted["accuracy"]["mean"] - direct["accuracy"]["mean"])
    revised = ledger.rows(StrategyRow, strategy=names[2])
    flips = [(row.first_score, row.score) for row in revised]
    assert (tried["mended"], tried["spoiled"]) == (flips.count((0.0, 1.0)), flips.count((1.0, 0.0)))
    assert all(row.drafts for row in rows if row.strategy != "direct")
    page = Path(found["page"]).read_text()
    assert all(name in page for name in names) and "<svg" in page and "<script" not in page
    ledger.close()

    again = json.loads(invoke("eval", copied, "--strategy", WAYS, "--json").stdout)
    assert again == found, "nothing was asked twice"
    shown = invoke("eval", copied, "--strategy", "direct,self_consistency(n=4, batch=2)")
    lines = shown.stdout.splitlines()
    assert any("self_consistency" in line and "[" in line for line in lines) and max(map(len, lines)) <= 80
    assert any(line.rstrip().endswith("flips") for line in lines), "the last column is there, whole"
    assert any("+0 -0" in line for line in lines)


def test_few_shot_sees_what_the_memory_held_before_the_suites_round(copied: Path) -> None:
    ledger = Ledger(copied / "ledger.sqlite")

    def answers(strategy: str, suite: str, **given: Any) -> list[tuple[Any, ...]]:
        round = int(suite.partition(":")[2] or 0)
        rows = ledger.rows(StrategyRow, strategy=strategy, round=round, order="task_id", **given)
        return [(row.task_id, row.answer, row.prompt_tokens) for row in rows]

    for suite in ("fresh:1", "fresh:2"):
        for options in (("direct", "--memory"), ("few_shot(k=2),direct",)):
            found = invoke("eval", copied, "--policy", 0, "--suite", suite, "--strategy", *options)
            assert found.exit_code == 0, found.output
        helped = answers("direct", suite, memory=True)
        assert helped and answers("few_shot(k=2)", suite) == helped != answers("direct", suite, memory=False)
    ledger.close()


def test_a_strategy_makes_the_answers_that_are_trained_on(play: Play) -> None:
    vote = "self_consistency(n=3, batch=3)"
    outcome, ledger = play(small(solve={"samples": 4, "bare": 0.5, "strategy": vote}))
    assert outcome.stop == "rounds" and outcome.champion > 0
    episodes = {e.id: e for e in ledger.rows(EpisodeRow)}
    refined = [e for e in episodes.values() if e.memory_ids]
    assert refined and all(e.answer == e.text and e.completion_tokens > len(e.text) for e in refined), "three votes"
    how = {row.episode: row for row in ledger.rows(RefinementRow)}
    assert how.keys() == {e.id for e in refined} and {row.strategy for row in how.values()} == {vote}
    assert all(len(row.drafts) == 3 and row.calls == 2 for row in how.values()), "the greedy answer, then two samples"
    assert all(how[e.id].completion_tokens == e.completion_tokens and not how[e.id].stopped for e in refined)
    later = [e for e in episodes.values() if e.round == 2 and not e.memory_ids]
    assert later and all(e.completion_tokens == len(e.text) for e in later), "a champion's bare attempts are direct"
    trained = ledger.rows(ExampleRow, role="solver", origin="new")
    assert any(row.source in {e.id for e in refined} for row in trained)
    for row in trained:
        assert [m["content"] for m in row.messages] == [m["content"] for m in episodes[row.source].bare_messages]


def test_rollouts_may_be_chosen_by_the_checker(play: Play) -> None:
    _, chosen = play(small(solve={"samples": 4, "bare": 0.0, "strategy": "best_of(n=4, by='checker')"}, rounds=1))
    _, plain = play(small(solve={"samples": 4, "bare": 0.0}, rounds=1), "plain")

    def rate(ledger: Ledger) -> float:
        scores = ledger.column(EpisodeRow, "score", round=1)
        return sum(score or 0 for score in scores) / len(scores)

    assert rate(chosen) > rate(plain) + 0.1


def test_a_report_counts_what_revisions_mended_and_a_budget_stopped(play: Play, tmp_path: Path) -> None:
    told = {"samples": 4, "bare": 0.0, "strategy": "reflexion(tries=3, by='checker')"}
    _, free = play(small(solve=told, rounds=1), "free")
    right = {id_ for id_, score in free.columns(EpisodeRow, "id", "score") if score == 1.0}
    rows = free.rows(RefinementRow)
    revised = [row for row in rows if row.revised]
    mended = [row for row in revised if row.first_score != 1.0 and row.episode in right]
    assert mended and all(row.episode in right for row in revised if row.first_score == 1.0)
    shown = write_report(tmp_path / "free", free)["rounds"][0]["refinement"]
    assert (shown["answers"], shown["mended"]) == (len(rows), len(mended))
    assert shown["spoiled"] == shown["stopped"] == 0
    assert "mended / spoiled" in (tmp_path / "free" / "report.html").read_text()
    _, tight = play(small(solve=told | {"budget": {"calls": 2}}, rounds=1), "tight")
    rows = tight.rows(RefinementRow)
    assert max(row.calls for row in rows) == 2 and {row.stopped for row in rows} == {"", "calls"}


def test_a_strategy_that_cannot_work_is_refused_at_once(play: Play) -> None:
    with pytest.raises(UsageError, match="no strategy is called 'nobody'"):
        play(small(solve={"strategy": "nobody"}))
    with pytest.raises(ValueError, match="leave one of them out"):
        small(solve={"strategy": "direct"}, tools={"use": ["calculator"]})


async def test_a_model_that_cannot_be_reached_is_no_wrong_answer() -> None:
    with pytest.raises(ServingError, match="the line is cut"):
        await reached(direct(), work(Model(in_turn("6"), fails_at=1, error=Unavailable)))
    assert (await reached(direct(), work(Model(in_turn("6"), fails_at=1, error=TooLong)))).text is None


def test_a_strategy_of_ones_own_is_an_async_function_in_a_plug_in(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    file = tmp_path / "mine.py"
    file.write_text(
        "from autotelic.core.registry import register\n"
        "from autotelic.refinement import Draft\n"
        "@register('strategy', 'mine')\n"
        "async def mine(work, n=1):\n"
        "    return [work.note(Draft(text='7', answer='7', by='mine'))] * n\n"
    )
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("plugins: []", f"plugins: ['{file}']"))
    found = json.loads(invoke("eval", copied, "--strategy", "mine,self_consistency(mine, n=2)", "--json").stdout)
    assert [one["calls"] for one in found["strategies"]] == [0, 0]
    ledger = Ledger(copied / "ledger.sqlite")
    assert {row.answer for row in ledger.rows(StrategyRow)} == {"7"}
    ledger.close()
    with pytest.raises(UsageError, match="it takes nothing"):
        build_strategy("mine(n=2)")


def test_a_budget_makes_rows_of_its_own(copied: Path) -> None:
    found = json.loads(invoke("eval", copied, "--strategy", "reflexion(tries=3)", "--calls", 1, "--json").stdout)
    (one,) = found["strategies"]
    assert one["calls"] == 1 and one["stopped"] == {"calls": 24}
    ledger = Ledger(copied / "ledger.sqlite")
    assert {row.strategy for row in ledger.rows(StrategyRow)} == {"reflexion(tries=3) within 1 calls"}
    for option, most, name in (("--tokens", 1, "1 tokens"), ("--seconds", 1e-3, "0.001 seconds")):
        assert invoke("eval", copied, "--strategy", "reflexion(tries=3)", option, most).exit_code == 0
        rows = ledger.rows(StrategyRow, strategy=f"reflexion(tries=3) within {name}")
        assert len(rows) == 24 and any(row.stopped == option[2:] for row in rows)
    ledger.close()


def test_a_list_of_strategies_is_split_between_them() -> None:
    assert split_strategies("direct,best_of(direct, n=3),direct") == ["direct", "best_of(direct, n=3)"]
    for text in ("", "direct,,", "best_of("):
        with pytest.raises(UsageError, match="no list of strategies"):
            split_strategies(text)


def test_what_cannot_work_is_said_before_anything_is_started(copied: Path) -> None:
    with pytest.raises(UsageError, match="no strategy is called 'nobody'"):
        invoke("eval", copied, "--strategy", "nobody")
    with pytest.raises(UsageError, match="has no suite 'spring'"):
        invoke("eval", copied, "--strategy", "direct", "--suite", "spring")


def test_strategies_are_listed_and_shown() -> None:
    listed = json.loads(invoke("strategies", "list", "--json").stdout)
    assert {"strategy": "universal", "parameters": "inner, n=5"}.items() <= listed[-1].items()
    assert "arXiv 2303.11366" in json.loads(invoke("strategies", "show", "reflexion", "--json").stdout)["what"]


async def test_an_open_question_is_answered_by_a_strategy_with_its_price() -> None:
    model = Model(judging(lambda answer: answer == "6", in_turn("4", "Look at both.", "6")))
    gateway = Gateway(model)
    gateway.unblock(None)
    graph = build_refine(GraphContext(gateway, strategy="reflexion(tries=2)"))
    state = await graph.ainvoke({"question": "What is the divisor?"})
    assert (state["answer"], state["stopped"], state["price"]["calls"]) == ("6", "", 5)
    assert [draft["answer"] for draft in state["drafts"]] == ["4", "6"]
    assert [m["role"] for m in state["messages"]] == ["system", "user", "assistant"]
    for given in (" ", 5, None):
        with pytest.raises(UsageError, match="needs a question"):
            await graph.ainvoke({"question": given})
    short = build_refine(GraphContext(gateway, strategy="reflexion(tries=2)", budget=Budget(calls=1)))
    assert (await short.ainvoke({"question": "And now?"}))["stopped"] == "calls"


async def test_a_person_gets_the_best_answer_there_is_when_a_call_fails_and_the_ledger_none() -> None:
    says = judging(lambda _: False, in_turn("4"))
    gateway = Gateway(Model(says, fails_at=3, error=Unavailable), attempts=1)
    gateway.unblock(None)
    state = await build_refine(GraphContext(gateway, strategy="self_refine")).ainvoke({"question": "What is it?"})
    assert state["answer"] == "4" and "the line is cut" in state["stopped"]
    with pytest.raises(ServingError, match="the line is cut"):
        await reached(build_strategy("self_refine"), work(Model(says, fails_at=3, error=Unavailable)))
    dead = Gateway(Model(says, fails_at=1, error=Unavailable), attempts=1)
    dead.unblock(None)
    with pytest.raises(ServingError, match="the line is cut"):
        await build_refine(GraphContext(dead, strategy="self_refine")).ainvoke({"question": "What is it?"})


class Parrot(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose models say their names."""

    asked = 0

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Parrot.asked += 1
        said = {"index": 0, "message": {"role": "assistant", "content": asked["model"]}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        whole = {"id": "x", "created": 1, "object": "chat.completion", "model": asked["model"]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({**whole, "choices": [said], "usage": usage}).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def parrots(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of parrots."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    Parrot.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.mark.parametrize("said", [["--other", "openai/second="], []])
def test_other_models_speak_too(said: list[str], parrots: str, tmp_path: Path) -> None:
    others = [part + parrots if part.endswith("=") else part for part in said]
    who = ("--remote", "openai/first", "--base-url", parrots, *others, "--threads", tmp_path / "threads.sqlite")
    asked = ("--input", '{"question": "Who are you?"}', "--strategy", "debate(speakers=2, rounds=1)", "--json")
    found = json.loads(invoke("run", "refine", *who, *asked).stdout)
    assert {draft["answer"] for draft in found["drafts"]} == ({"first", "second"} if said else {"first"})
    assert found["price"]["calls"] == 4


def test_other_models_speak_in_a_suite_whose_answers_are_rows_of_their_own(copied: Path, parrots: str) -> None:
    talk = "mixture(n=2)"
    alone = json.loads(invoke("eval", copied, "--strategy", talk, "--json").stdout)
    told = ("--strategy", talk, "--other", f"openai/second={parrots}", "--json")
    together = json.loads(invoke("eval", copied, *told).stdout)
    assert Parrot.asked == 24 and "with openai/second" in together["who"]
    assert parrots not in json.dumps(together) + Path(together["page"]).read_text(), "addresses are nobody's business"
    ledger = Ledger(copied / "ledger.sqlite")
    rows = {row.task_id: row for row in ledger.rows(StrategyRow, strategy=f"{talk} with openai/second")}
    assert len(rows) == 24 and any("second" in [one["answer"] for one in row.drafts] for row in rows.values())
    assert not any("second" in [one["answer"] for one in row.drafts] for row in ledger.rows(StrategyRow, strategy=talk))
    ledger.close()
    assert json.loads(invoke("eval", copied, *told).stdout) == together and Parrot.asked == 24, "asked once"
    assert json.loads(invoke("eval", copied, "--strategy", talk, "--json").stdout) == alone
    for option in (("--other", f"openai/second={parrots}"), ("--calls", 3)):
        with pytest.raises(UsageError, match="go with --strategy"):
            invoke("eval", copied, *option)


def test_other_models_speak_in_self_play(play: Play, parrots: str) -> None:
    told = {"samples": 4, "bare": 0.0, "strategy": "mixture(n=2)", "others": [f"openai/second={parrots}"]}
    _, ledger = play(small(solve=told, rounds=1))
    rows = ledger.rows(RefinementRow)
    assert Parrot.asked == len(rows) > 0 and {row.calls for row in rows} == {3}


def test_run_refine_refuses_a_strategy_before_it_starts_a_model() -> None:
    with pytest.raises(UsageError, match="no strategy is called 'nobody'"):
        invoke("run", "refine", "--strategy", "nobody", "--input", '{"question": "2 + 2?"}')


def test_answers_are_kept_where_their_page_cannot_be_written(copied: Path) -> None:
    (copied / "strategies-frozen.html").mkdir()
    with pytest.raises(UsageError, match=r"cannot be written.* The answers are kept"):
        invoke("eval", copied, "--strategy", "direct")
    ledger = Ledger(copied / "ledger.sqlite")
    assert ledger.count(StrategyRow) == 24
    ledger.close()
