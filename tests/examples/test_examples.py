"""The examples are what a new user copies: they load, hold to the contracts and do what they say."""

from __future__ import annotations

import ast
from pathlib import Path
from random import Random

from autotelic.core.config import load_config
from autotelic.core.plugins import load_source
from autotelic.core.words import Proposal, Task
from autotelic.environments import Environment, open_environment
from autotelic.evaluation import self_test
from autotelic.graphs import Config
from autotelic.tools import load_tools

EXAMPLES = Path(__file__).parents[2] / "examples"


async def test_the_environment_example_holds_to_the_contract() -> None:
    config = load_config(Config, EXAMPLES / "roman.yaml")
    assert config.plugins == ("examples/plug_in_an_environment.py",)
    load_source(str(EXAMPLES / "plug_in_an_environment.py"))
    async with open_environment(config.environment) as environment:
        assert isinstance(environment, Environment)
        tasks = environment.tasks(60, seed=3)
        assert [t.id for t in tasks] == [t.id for t in environment.tasks(60, seed=3)]
        assert len({t.id for t in tasks}) == 60
        assert all(sheet.passed for sheet in (await self_test(environment, tasks)).sheets)
        for task in tasks:
            text = environment.proposal_text(task)
            made = await environment.validate(Proposal(id="p", environment="roman", text=text, seed=1))
            assert isinstance(made, Task)
            assert made.id == task.id
        assert [m.role for m in environment.proposal_prompt(Random(0), demonstrations=0)] == ["system", "user"]


async def test_the_tool_example_is_a_tool() -> None:
    (tool,) = load_tools(str(EXAMPLES / "plug_in_a_tool.py"))
    assert (await tool({"year": 1789, "month": 7, "day": 14})).content == "Tuesday"
    assert (await tool({"year": 1789, "month": 13, "day": 14})).reason == "failed"


async def test_the_recipe_beside_it_works_every_task_of_its_config() -> None:
    config = load_config(Config, EXAMPLES / "weekday.yaml")
    assert config.tools.use == (config.memory.recipes,) == ("examples/plug_in_a_tool.py",)
    (tool,) = load_tools(str(EXAMPLES / "plug_in_a_tool.py"))
    recipe = vars(load_source(str(EXAMPLES / "plug_in_a_tool.py")))["calendar_arithmetic"]
    async with open_environment(config.environment) as environment:
        for task in environment.tasks(80, seed=3):
            name, arguments = recipe(task.question)
            assert name == tool.name and (await tool(arguments)).content == task.answer
    assert recipe("How many days has a week?") is None


def test_the_loop_in_100_lines_is_one() -> None:
    source = (EXAMPLES / "loop_in_100_lines.py").read_text()
    ast.parse(source)
    assert len(source.splitlines()) <= 100
