"""The self-play state machine: propose -> solve -> critique -> curate -> train -> deliver -> evaluate -> gate -> ...

The graph's state is a handful of numbers; everything else is in the ledger. LangGraph writes a checkpoint after each
node, and each node is idempotent, so a run that was killed anywhere goes on with the same command: the checkpoint says
which node, the ledger says which items of it are done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from autotelic.core.config import dump_config, load_config
from autotelic.core.errors import UsageError
from autotelic.core.progress import Progress, Silent
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Frozen
from autotelic.evaluation import write_report
from autotelic.graphs import acquire, evaluating, learning, oversight
from autotelic.graphs.alarming import raise_alarms
from autotelic.graphs.config import Config
from autotelic.graphs.curation import curate
from autotelic.graphs.session import Session, open_session
from autotelic.store import ApprovalRow, GateRow, Ledger, NodeRow, RunRow

__all__ = ["Outcome", "RoundState", "SelfPlay", "build_self_play"]

THREAD = "self-play"


class RoundState(TypedDict, total=False):
    """State of the loop: plain numbers and ids only."""

    round: int
    champion: int
    candidate: int | None
    finished_at: float | None
    stop: str | None


class Outcome(Frozen):
    """How a session ended."""

    champion: int
    """Number of the policy that is champion now."""
    stop: str
    """Why it ended: `rounds`, `seconds`, `patience`, `alarm: ...`, or `waiting` for a person."""
    question: dict[str, Any] | None = None
    """What a person is asked, if it waits for one."""


def build_self_play(s: Session) -> StateGraph[RoundState, None, RoundState, RoundState]:
    """Wire the loop over a session; the caller compiles it with a checkpointer.

    Returns:
        The uncompiled graph. Its edges: too little curated data skips `train`, `deliver` and `evaluate`, a person who
        refuses the training the last two; a candidate that learned nothing skips `evaluate`; an alarm, a budget or the
        last round ends the run.
    """
    graph: StateGraph[RoundState, None, RoundState, RoundState] = StateGraph(RoundState)

    def add(name: str, work: Callable[[RoundState], Awaitable[dict[str, Any]]], *keys: str) -> None:
        async def node(state: RoundState) -> dict[str, Any]:
            s.round = state.get("round", 0)
            async with s.node(name) as row:
                found = await work(state)
                row.detail = {**row.detail, **{k: v for k, v in found.items() if k not in keys}}
            return {k: found[k] for k in keys if k in found}

        graph.add_node(name, node)

    async def propose(state: RoundState) -> dict[str, Any]:
        # From the ledger: a person may have promoted another policy since the last round ended.
        champion = s.ledger.champion().number
        oversight.oversee_tools(s)
        s.progress.say(f"round {state['round']} of {s.config.rounds}: policy-{champion} is the champion")
        await evaluating.fresh_suite(s, state["round"])
        return {**await acquire.propose(s, state["round"], champion), "champion": champion}

    async def gate(state: RoundState) -> dict[str, Any]:
        number, champion, candidate = state["round"], state["champion"], state.get("candidate")
        found: dict[str, Any] = {"champion": champion}
        if candidate is not None:
            found = await evaluating.gate(s, number, champion, candidate)
        return {**found, **_next(s, number, await raise_alarms(s, number))}

    async def train(state: RoundState) -> dict[str, Any]:
        if not learning.may_train(s, state["round"]):
            return {"candidate": None, "finished_at": None, "refused": "a person refused the training"}
        return await learning.train(s, state["round"], state["champion"])

    async def prepare(_: RoundState) -> dict[str, Any]:
        oversight.oversee_tools(s)
        return {**await evaluating.prepare(s), "round": 1, "champion": s.ledger.champion().number, "stop": None}

    add("prepare", prepare, "round", "champion", "stop")
    add("propose", propose, "champion")
    add("solve", lambda state: acquire.solve(s, state["round"], state["champion"]))
    add("critique", lambda state: acquire.critique(s, state["round"], state["champion"]))
    add("curate", lambda state: curate(s, state["round"], state["champion"]))
    add("train", train, "candidate", "finished_at")
    add("deliver", lambda state: learning.deliver(s, state["champion"], _number(state), state.get("finished_at")))
    add("evaluate", lambda state: evaluating.evaluate(s, state["round"], state["champion"], _number(state)))
    add("gate", gate, "round", "champion", "candidate", "finished_at", "stop")
    # From the ledger here too: the claim of the report is about the champion that is there at the end.
    add("finish", lambda _: evaluating.finish(s, s.ledger.champion().number))

    for here, there in _EDGES:
        graph.add_edge(here, there)
    graph.add_conditional_edges("curate", lambda state: _enough(s, state["round"]), ["train", "gate"])
    graph.add_conditional_edges("train", _trained, ["deliver", "gate"])
    graph.add_conditional_edges("deliver", lambda state: _changed(s, state["round"]), ["evaluate", "gate"])
    graph.add_conditional_edges("gate", _after_gate, ["propose", "finish"])
    return graph


_EDGES = (
    (START, "prepare"),
    ("prepare", "propose"),
    ("propose", "solve"),
    ("solve", "critique"),
    ("critique", "curate"),
    ("evaluate", "gate"),
    ("finish", END),
)


def _number(state: RoundState) -> int:
    candidate = state.get("candidate")
    assert candidate is not None, "the nodes after train have a candidate by the graph's edges"
    return candidate


def _after_gate(state: RoundState) -> str:
    return "finish" if state.get("stop") else "propose"


def _enough(s: Session, round: int) -> str:
    new = s.ledger.node(round, "curate").detail.get("new", 0)
    return "train" if new >= s.config.curate.min_examples else "gate"


def _trained(state: RoundState) -> str:
    return "gate" if state.get("candidate") is None else "deliver"


def _changed(s: Session, round: int) -> str:
    return "gate" if "unchanged" in s.ledger.node(round, "deliver").detail else "evaluate"


def _next(s: Session, round: int, alarm: str | None) -> dict[str, Any]:
    """What comes after the gate: another round, or the reason to stop."""
    stop = f"alarm: {alarm}" if alarm else _exhausted(s, round)
    return {"round": round + 1, "candidate": None, "finished_at": None, "stop": stop}


def _exhausted(s: Session, round: int) -> str | None:
    if round >= s.config.rounds:
        return "rounds"
    promoted = {row.round for row in s.ledger.rows(GateRow) if row.promoted}
    if not promoted & set(range(round - s.config.patience + 1, round + 1)) and round >= s.config.patience:
        return "patience"
    if s.config.seconds is not None:
        spent: dict[int, float] = {}
        for row in s.ledger.rows(NodeRow):
            spent[row.round] = spent.get(row.round, 0.0) + row.seconds
        if sum(spent.values()) + max(spent[r] for r in spent if r > 0) > s.config.seconds:
            return "seconds"
    return None


class SelfPlay:
    """A self-play session: start it, or go on with it.

    Args:
        config: the whole session.
        run: its directory; an existing run goes on, and its config must be the same.
        progress: who shows how far it is.

    Example:
        outcome = await SelfPlay(config, Path("runs/mine")).run()
    """

    def __init__(self, config: Config, run: Path | str, progress: Progress | None = None) -> None:
        self.config = config
        self.run_dir = RunDir(Path(run))
        self.progress: Progress = progress or Silent()
        self._longer = False

    async def run(self, answer: bool | None = None) -> Outcome:
        """Run to the end, from wherever the run is.

        Args:
            answer: a person's answer, if the run waits for one.

        Returns:
            How it ended. `report.json` and `report.html` are written in every case but a wait.

        Raises:
            UsageError: the directory holds a run with another config.
            StoreError: another process is running it, or the disk is full.
            DeliveryError: a policy could not be proved; nothing after it was done.
        """
        with self.run_dir.create().held():
            self._same_config()
            return await self._play(answer)

    async def _play(self, answer: bool | None) -> Outcome:
        async with (
            open_session(self.config, self.run_dir, self.progress) as session,
            AsyncSqliteSaver.from_conn_string(str(self.run_dir.checkpoints)) as saver,
        ):
            # The checkpoint holds plain values; nothing else is ever made from it.
            saver.serde = JsonPlusSerializer(allowed_msgpack_modules=None)
            graph = build_self_play(session).compile(checkpointer=saver)
            thread: Any = {"configurable": {"thread_id": THREAD}, "recursion_limit": 20 * self.config.rounds + 20}
            before = await graph.aget_state(thread)
            if before.values and not before.next and self._longer:
                weights = session.policy(session.ledger.champion().number).path
                raise UsageError(
                    f"the run {self.run_dir.root} has ended and its sealed suite is open, so it gets no more rounds. "
                    f"Start another one from its champion: model={weights}"
                )
            # Not before: a config that the session cannot be opened with binds nobody.
            dump_config(self.config, self.run_dir.config)
            if before.interrupts and answer is not None:
                _answer(session.ledger, before.interrupts[0].value["request"], answer)
            if before.next or not before.values:
                await graph.ainvoke(None if before.next else RoundState(round=0), thread, durability="sync")
            after = await graph.aget_state(thread)
            champion = session.ledger.champion().number
            if after.interrupts:
                return Outcome(champion=champion, stop="waiting", question=after.interrupts[0].value)
            stop = str(after.values.get("stop"))
            self._close_run(session, stop)
        await asyncio.to_thread(write_report, self.run_dir.root)
        return Outcome(champion=champion, stop=stop)

    def _close_run(self, session: Session, stop: str) -> None:
        row = session.ledger.rows(RunRow)[0]
        if row.finished_at is None:
            row.finished_at, row.outcome = time.time(), stop
            session.ledger.put(row)

    def _same_config(self) -> None:
        path = self.run_dir.config
        if not path.exists():
            return
        old, new = (c.model_dump(mode="json") for c in (load_config(Config, path), self.config))
        changed = sorted(k for k in old if old[k] != new[k] and k not in _MAY_CHANGE)
        self._longer = any(old[k] != new[k] for k in _BUDGET)
        if changed:
            raise UsageError(
                f"{self.run_dir.root} holds a run with another config (different: {', '.join(changed)}). Go on with "
                f"{path}, or choose another directory with --run."
            )


def _answer(ledger: Ledger, request: str, yes: bool) -> None:
    """Write down what a person answers to a request, unless it was answered from elsewhere meanwhile.

    Into the ledger, by the request's id: LangGraph hands answers to a node's questions in their order, and a node that
    runs again no longer asks what was answered. The next question would get the answer to the one before.
    """
    row = ledger.get(ApprovalRow, request)
    if row is not None and row.answer is None:
        oversight.answer(ledger, request, yes)


_BUDGET = ("rounds", "seconds", "patience")
_MAY_CHANGE = (*_BUDGET, "serving", "oversight", "plugins", "feedback")
"""What does not change the meaning of what is in the ledger already."""
