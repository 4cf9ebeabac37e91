"""What memory shows an agent of the user's is not what the agent is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotelic.agents import demonstration_turns
from autotelic.environments import open_environment
from autotelic.graphs.agent_solver import AgentSolver
from autotelic.serving import Gateway, Sampling, ScriptedBackend, open_endpoint

AGENT = """
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

OWN = {"role": "system", "content": "You are my agent."}


def build(*own):
    model = ChatOpenAI(model="any", temperature=0)

    async def speak(state):
        return {"messages": [await model.ainvoke([*own, *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("speak", speak)
    graph.add_edge(START, "speak")
    return graph


def plain():
    return build()


def with_a_prompt():
    return build(OWN)
"""


@pytest.mark.parametrize(("agent", "own"), [("plain", 0), ("with_a_prompt", 1)])
async def test_neither_examples_nor_lessons_are_trained(tmp_path: Path, agent: str, own: int) -> None:
    file = tmp_path / "my_agent.py"
    file.write_text(AGENT)
    gateway = Gateway(ScriptedBackend(lambda messages, sampling: ["7"] * sampling.n))
    gateway.unblock(0)
    async with (
        open_environment({"name": "reasoning_gym", "families": ["gcd"]}) as environment,
        open_endpoint(gateway) as endpoint,
    ):
        (task,) = environment.tasks(1, seed=0)
        solver = AgentSolver(gateway, environment, f"{file}:{agent}", endpoint)
        shown = solver.messages(task, demonstration_turns([("6 and 4?", "2")]), ["look twice"])
        (attempt,) = await solver.attempt(task, shown, Sampling())
        assert attempt.prompt is not None and attempt.bare is not None
        assert attempt.prompt[own:] == shown and "look twice" in attempt.prompt[own].content
        assert attempt.bare[own:] == solver.messages(task) and attempt.bare[:own] == attempt.prompt[:own]
