"""The config of a self-play session: a frozen tree, one branch per node of the loop.

A working config is ten lines; everything has a default. Combinations that cannot work are refused here, with the
numbers and the mend, before anything is started.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from autotelic.agents import Bounds
from autotelic.core.config import load_config
from autotelic.core.plugins import load_source
from autotelic.core.run_dir import RunDir
from autotelic.core.words import Frozen
from autotelic.evaluation import AlarmConfig, GateConfig, SkillGateConfig
from autotelic.refinement import Budget
from autotelic.serving import ServingConfig
from autotelic.tools import ToolsConfig

__all__ = [
    "Config",
    "CritiqueConfig",
    "CurateConfig",
    "EvaluateConfig",
    "MemoryConfig",
    "ProposeConfig",
    "SolveConfig",
    "ToolsmithConfig",
    "TrainConfig",
    "run_config",
]


class ProposeConfig(Frozen):
    """Data acquisition: how tasks come to be."""

    tasks: int = Field(default=320, ge=1)
    """Proposals a round."""
    explore: float = Field(default=0.25, ge=0, le=1)
    """Share of the proposals that is drawn from the environment instead, so that no family dies out."""
    focus: float = Field(default=0.5, ge=0, lt=1)
    """Share of these that goes, from round 2 on, to families and difficulties at which the last rounds were sometimes
    right, by more than luck (`curate.luck`), and often not; the rest is drawn evenly from all."""
    examples: int = Field(default=4, ge=0)
    """Earlier successful proposals shown to the proposer."""
    group: int = Field(default=8, ge=1)
    """Proposals sampled after the same examples."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(default=64, ge=1)
    """Bound on one proposal, tokens."""


class SolveConfig(Frozen):
    """Rollouts."""

    samples: int = Field(default=8, ge=2)
    """Attempts at each task."""
    bare: float = Field(default=0.75, ge=0, le=1)
    """Share of the attempts that gets no help from memory, once a trained policy is champion. Such a policy has learned
    to answer without help, and its prompts are short."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(default=24, ge=1)
    """Bound on one answer, tokens."""
    concurrency: int = Field(default=32, ge=1)
    """Tasks in flight at once."""
    strategy: str | None = None
    """How attempts with help are answered, e.g. `self_consistency(n=8)`; by default directly. What it finds is trained
    as one answer to the bare prompt."""
    budget: Budget | None = None
    """How much one answer by the strategy may cost: `calls`, `tokens`, `seconds`."""
    others: tuple[str, ...] = ()
    """Models that speak beside the policy in strategies such as `debate` and `mixture`: `provider/name` as LiteLLM has
    it, or `openai/NAME=URL` for one on an OpenAI-compatible server."""
    bounds: Bounds = Bounds(calls=2, turns=4, call_first=True)
    """How far an answer with tools may go; `max_tokens` then bounds each turn."""


class MemoryConfig(Frozen):
    """What the run remembers, and what of it the solver sees."""

    demonstrations: int = Field(default=3, ge=0)
    """Solved examples in the prompt when memory is on."""
    lessons: int = Field(default=0, ge=0)
    """Lessons in the prompt when memory is on; above 0 the curator draws them from tasks that went right and wrong."""
    new_lessons: int = Field(default=16, ge=1)
    """Most lessons drawn in a round."""
    retire: bool = True
    """Retire items with which attempts did worse than bare ones at the same tasks (95% interval below zero)."""
    consolidate: bool = False
    """After a promotion, put demonstrations out of sight whose question the new policy answers without help."""
    real: int = Field(default=8, ge=0)
    """Real solved examples of each family that the memory starts with; also the real data that is replayed."""
    recipes: str | None = None
    """For a run with tools: Python file with a function for each family, from a question to the call (tool, arguments)
    that answers it. By it real examples are worked; the memory starts with those that come out right."""
    per_family: int = Field(default=500, ge=1)
    """Bound on what is remembered of one family."""
    records: int = Field(default=1000, ge=1)
    """Bound on the records of one namespace: notes, and what agents keep by LangGraph's store. The oldest leaves."""
    keywords: bool = False
    """Find what the solver sees by words (BM25) too, not by meaning alone."""
    variety: float = Field(default=0.0, ge=0, le=1)
    """How much it counts that solved examples, or lessons, of one prompt are unlike each other; 0: not at all."""
    tokens: int | None = Field(default=None, ge=1)
    """Most tokens that solved examples add to a prompt, and as many again for lessons, by a rough count (a token for
    three characters); what does not fit is passed over. `None`: no bound."""
    scopes: tuple[str, ...] = Field(default=("run",), min_length=1)
    """Scopes that the solver sees: `run`, and what was imported or written under `project/NAME` or `user/NAME`."""
    embedder: str = "minilm"
    """Registered embedder, or `package.module:Name` of LangChain embeddings."""
    embedder_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of LangChain embeddings."""
    chroma: str | None = None
    """URL of a Chroma server; by default the index is in the run's directory."""

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        for scope in scopes:
            root, *rest = scope.split("/")
            if root not in ("run", "project", "user") or not all(rest):
                raise ValueError(f"{scope!r} is no scope; expected run, project/NAME or user/NAME.")
        return scopes

    @property
    def ranking(self) -> dict[str, Any]:
        """How the solver's share is chosen: arguments of `Memory.retrieve`."""
        return {"keywords": self.keywords, "variety": self.variety, "tokens": self.tokens}


class CritiqueConfig(Frozen):
    """The critic's share of a round."""

    episodes: int = Field(default=32, ge=0)
    """Trajectories that are criticised, half right and half wrong where there are enough."""
    samples: int = Field(default=4, ge=1)
    """Judgements sampled for each."""


class CurateConfig(Frozen):
    """Data selection."""

    min_examples: int = Field(default=24, ge=1)
    """Fewer new solver examples than this, and the round does not train."""
    max_examples: int = Field(default=600, ge=1)
    """Bound on new solver examples a round, and on all examples that the champion was not trained on."""
    per_task: int = Field(default=1, ge=1)
    """Right trajectories kept of one task."""
    per_family: int = Field(default=200, ge=1)
    """Bound on new solver examples of one family a round."""
    max_proposals: int = Field(default=60, ge=1)
    """Bound on new proposer examples a round."""
    answer_share: float = Field(default=0.3, gt=0, le=1)
    """Largest share that one answer may have of a family's new rows, so that a lucky guess does not become a habit."""
    luck: float = Field(default=0.2, gt=0, le=1)
    """Tasks that a trained champion may have solved by guessing with a higher probability than this are left out; 1
    keeps all. The base's guesses are kept: they teach the form of an answer."""
    near_duplicate: float = Field(default=0.8, gt=0, le=1)
    """Similarity from which two examples are the same one."""
    contamination: float = Field(default=0.7, gt=0, le=1)
    """Similarity from which an example is a copy of an evaluation task."""
    replay: float = Field(default=0.3, ge=0, lt=1)
    """Share of a round's training rows that is replayed from earlier rounds."""
    real: float = Field(default=0.05, ge=0, lt=1)
    """Share of a round's training rows that comes from the real set."""
    reviews: int = Field(default=24, ge=0)
    """Items a round that the curator's model reviews, half right and half wrong; 0 asks it nothing."""


class TrainConfig(Frozen):
    """Model optimization."""

    method: str = "sft"
    """Registered method."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the method takes; see its own config."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the trainer; all cores by default."""
    timeout: float = Field(default=600.0, gt=0)
    """A training that makes no step for so long counts as hung, is ended and fails, seconds."""


class FeedbackConfig(Frozen):
    """Training on what people said in chats."""

    method: str = "dpo"
    """Registered method."""
    settings: dict[str, Any] = Field(default_factory=lambda: {"epochs": 5})
    """What the method takes; see its own config."""
    replay: float = Field(default=0.8, ge=0, lt=1)
    """Share of rows of earlier rounds: what a person says is few, and is not to cost what was learned."""


class EvaluateConfig(Frozen):
    """Autonomous evaluation."""

    fresh: int = Field(default=200, ge=1)
    """Tasks of the fresh suite, new every round."""
    frozen: int = Field(default=120, ge=1)
    """Tasks of the frozen suite."""
    regression: int = Field(default=100, ge=0)
    """At most so many past failures."""
    sealed: int = Field(default=400, ge=1)
    """Tasks of the sealed suite, opened once at the end."""
    two_by_two: int = Field(default=100, ge=0)
    """Fresh tasks answered with the memory's help too, for the 2x2."""


class ToolsmithConfig(Frozen):
    """Tools that the model makes."""

    drafts: int = Field(default=8, ge=1)
    """Functions sampled for a family."""
    examples: int = Field(default=4, ge=1)
    """Solved examples of the family in the prompt."""
    max_tokens: int = Field(default=640, ge=1)
    """Bound on one function with its tests, tokens."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of the functions."""
    tasks: int = Field(default=100, ge=1)
    """Tasks of a matched rollout."""
    gate: SkillGateConfig = SkillGateConfig()
    """What is asked of a skill."""

    @model_validator(mode="after")
    def _can_admit(self) -> ToolsmithConfig:
        if self.gate.min_tasks > self.tasks:
            raise ValueError(
                f"toolsmith.gate.min_tasks ({self.gate.min_tasks}) exceeds toolsmith.tasks ({self.tasks}), so no skill "
                "would ever be let in: raise toolsmith.tasks."
            )
        return self


Overseen = Literal["promotion", "training", "tools", "forgetting"]
"""What may have to wait for a person."""


class Config(Frozen):
    """A whole session."""

    model: str = "smollm2-135m-instruct"
    """Built-in name, local directory or hub id."""
    seed: int = Field(default=0, ge=0)
    """Everything random is derived from it."""
    environment: dict[str, Any]
    """`name` of a registered environment, and what it takes."""
    rounds: int = Field(default=2, ge=1)
    """At most so many rounds."""
    seconds: float | None = Field(default=None, gt=0)
    """No new round is started that, by the longest one so far, would end after this many seconds."""
    patience: int = Field(default=2, ge=1)
    """Rounds in a row without a promotion after which the run ends."""
    oversight: tuple[Overseen, ...] = ()
    """What waits for a person: `promotion`; `training`, every start; `tools`, each that writes or reaches other
    machines, once; `forgetting`, what somebody wants deleted from the memory."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are loaded first; what they register can be named here."""
    sandbox: str = "auto"
    """Back end for model-written code."""
    propose: ProposeConfig = ProposeConfig()
    """Node `propose`."""
    solve: SolveConfig = SolveConfig()
    """Node `solve`."""
    memory: MemoryConfig = MemoryConfig()
    """What the run remembers."""
    critique: CritiqueConfig = CritiqueConfig()
    """Node `critique`."""
    curate: CurateConfig = CurateConfig()
    """Node `curate`."""
    train: TrainConfig = TrainConfig()
    """Node `train`."""
    feedback: FeedbackConfig = FeedbackConfig()
    """`autotelic train --feedback`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Node `evaluate`."""
    gate: GateConfig = GateConfig()
    """Node `gate`."""
    alarms: AlarmConfig = AlarmConfig()
    """What stops a run that collapses."""
    tools: ToolsConfig = ToolsConfig()
    """Tools that the solver has."""
    toolsmith: ToolsmithConfig = ToolsmithConfig()
    """Tools that the model makes."""
    evolved_prompts: bool = False
    """Have proposer, critic and curator work by the prompts that `prompts evolve` got promoted for the policy that is
    served. The solver's are for `solve.strategy: prompted`. What is trained never holds one."""
    solver: str | None = None
    """A LangGraph agent of your own as the solver: `file.py:graph` or `package.module:graph`."""
    serving: ServingConfig = ServingConfig()
    """The model server."""

    @model_validator(mode="before")
    @classmethod
    def _formerly(cls, given: Any) -> Any:
        """Read `human_gate`, as it was called before."""
        if not isinstance(given, dict) or "human_gate" not in given:
            return given
        kept = {key: value for key, value in given.items() if key != "human_gate"}
        return {**kept, "oversight": ["promotion"]} if given["human_gate"] is True else kept

    @model_validator(mode="after")
    def _can_work(self) -> Config:
        if "name" not in self.environment:
            raise ValueError("environment has no name: add environment.name, for example reasoning_gym.")
        if self.curate.min_examples > self.curate.max_examples:
            raise ValueError(
                f"curate.min_examples ({self.curate.min_examples}) exceeds curate.max_examples "
                f"({self.curate.max_examples}), so nothing would ever train: raise curate.max_examples."
            )
        if self.curate.min_examples > self.propose.tasks * self.curate.per_task:
            raise ValueError(
                f"curate.min_examples ({self.curate.min_examples}) exceeds what a round can give, propose.tasks x "
                f"curate.per_task ({self.propose.tasks} x {self.curate.per_task}): raise propose.tasks."
            )
        if self.solver is not None and self.tools.use:
            raise ValueError(
                f"solver is {self.solver}, which brings its own tools, and tools.use names "
                f"{', '.join(self.tools.use)}: "
                "leave one of them out."
            )
        if self.solve.strategy is not None and (self.tools.use or self.solver is not None):
            raise ValueError(
                f"solve.strategy is {self.solve.strategy}, whose answers are trained as one turn, and the run has "
                "tools or an agent as solver, whose answers are not: leave one of them out."
            )
        if self.curate.replay + self.curate.real >= 1:
            raise ValueError(
                f"curate.replay ({self.curate.replay:g}) and curate.real ({self.curate.real:g}) leave no room for new "
                "rows: make their sum less than 1."
            )
        if self.gate.min_tasks > self.evaluate.fresh:
            raise ValueError(
                f"gate.min_tasks ({self.gate.min_tasks}) exceeds evaluate.fresh ({self.evaluate.fresh}), so nothing "
                "would ever be promoted: raise evaluate.fresh."
            )
        return self


def run_config(run: RunDir) -> Config:
    """Return a run's config; what its plug-ins register can be named from then on.

    Raises:
        UsageError: there is no config, it is wrong, or a plug-in cannot be loaded.
    """
    config = load_config(Config, run.config)
    for plugin in config.plugins:
        load_source(plugin)
    return config
