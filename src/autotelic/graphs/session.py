"""What the nodes of a self-play run share: the ledger, the server, the trainer, the memory, the environment.

Opened once for a run, in the order in which things can fail for reasons of the user's; closed in the reverse order
whatever happens, so that nothing is left running.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from langchain_core.runnables.config import var_child_runnable_config

import autotelic
from autotelic.agents import Critic, Curator, Picker, Proposer, Solver, ToolLoop, ToolPicker
from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source
from autotelic.core.progress import Progress, Silent
from autotelic.core.run_dir import RunDir
from autotelic.core.seeds import derive
from autotelic.core.words import DeliveryRecord, Message, PolicyFiles, PolicyState, Role
from autotelic.environments import Environment, open_environment
from autotelic.graphs.agent_solver import AgentSolver, openai_address, prove_agent
from autotelic.graphs.config import Config
from autotelic.graphs.others import open_others
from autotelic.graphs.skill_library import open_made
from autotelic.memory import CachedEmbedder, Embedder, Memory, open_embedder
from autotelic.refinement import build_strategy
from autotelic.serving import Endpoint, Gateway, PolicyServer, open_endpoint, resolve_model
from autotelic.store import DeliveryRow, Ledger, NodeRow, PolicyRow, PromptRow, RunRow
from autotelic.tools import Toolbox, open_toolbox
from autotelic.training import Card, Trainer, read_card, read_policy, write_card

__all__ = ["Session", "as_dicts", "find_base", "first_failure", "open_memory", "open_session"]

T = TypeVar("T")
Kind = Literal["start", "train", "switch", "rollback", "recover"]
_TELL_SECONDS = 5.0


@dataclass
class _Clock:
    """How long the node that runs has taken."""

    node: str
    before: float
    """Seconds of its earlier attempts."""
    started: float
    """When this one began, on the monotonic clock."""
    told: float
    """When the ledger was last told."""

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


@dataclass
class Session:
    """The resources of one run. Nodes get it by closure; the graph's state holds only numbers and ids."""

    config: Config
    run: RunDir
    ledger: Ledger
    environment: Environment
    memory: Memory
    server: PolicyServer
    trainer: Trainer
    toolbox: Toolbox = field(default_factory=Toolbox)
    picker: Picker | None = None
    endpoint: Endpoint | None = None
    progress: Progress = field(default_factory=Silent)
    others: tuple[Gateway, ...] = ()
    round: int = 0
    _clock: _Clock | None = field(default=None, init=False, repr=False)

    @property
    def loop(self) -> ToolLoop | None:
        """What answers with tools, if the run has any that may be called."""
        if not self.toolbox.allowed:
            return None
        return ToolLoop(self.server.gateway, self.toolbox, self.config.solve.bounds, self.picker)

    @property
    def solver(self) -> Solver:
        """The solver on the local policy: ours, or the user's own agent."""
        if self.config.solver is not None and self.endpoint is not None:
            return AgentSolver(self.server.gateway, self.environment, self.config.solver, self.endpoint)
        return Solver(self.server.gateway, self.environment, self.loop)

    @property
    def plain(self) -> bool:
        """Whether an answer is one turn of our own solver's, so that a known answer is a whole example."""
        return self.loop is None and self.config.solver is None

    @property
    def proposer(self) -> Proposer:
        """The proposer on the local policy."""
        settings = self.config.propose
        return Proposer(
            self.server.gateway,
            self.environment,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            system=self._evolved(Role.PROPOSER),
        )

    @property
    def critic(self) -> Critic:
        """The critic on the local policy."""
        return Critic(self.server.gateway, samples=self.config.critique.samples, system=self._evolved(Role.CRITIC))

    @property
    def curator(self) -> Curator:
        """The curator on the local policy."""
        return Curator(self.server.gateway, system=self._evolved(Role.CURATOR))

    def _evolved(self, role: Role) -> str | None:
        """Return the prompt that a role has for the policy that is served, if one is to be used and was promoted."""
        if not self.config.evolved_prompts:
            return None
        found: dict[str, Any] = {"role": role.value, "policy": self.server.policy, "promoted": True}
        rows = self.ledger.rows(PromptRow, **found, order="version")
        return rows[-1].prompts[role.value] if rows else None

    def seed(self, *names: str | int) -> int:
        """Return the seed for what the names say."""
        return derive(self.config.seed, *names)

    def policy(self, number: int) -> PolicyFiles:
        """Return policy `number` as files, from its card."""
        return read_policy(self.run.policy(number))

    async def serve(self, number: int, kind: Kind = "switch", *, finished_at: float | None = None) -> None:
        """Make the server answer with policy `number`, proved. Does nothing if that policy is proved and serving."""
        if self.server.policy == number:
            return
        files = await asyncio.to_thread(self.policy, number)
        if not self.server.running:
            await self.server.start(files)
            return
        await self.server.deliver(files, kind=kind, finished_at=finished_at)

    def record_delivery(self, record: DeliveryRecord) -> None:
        """Write one proved delivery into the ledger."""
        row = DeliveryRow(
            round=self.round,
            policy=record.policy,
            previous=record.previous,
            kind=record.kind,
            seconds=record.seconds,
            to_trainer=record.proof.to_trainer,
            to_trainer_mean=record.proof.to_trainer_mean,
            to_previous=record.proof.to_previous,
            to_previous_mean=record.proof.to_previous_mean,
        )
        self.ledger.add([row])

    async def each(self, name: str, items: list[T], work: Callable[[T], Awaitable[Any]], *, done: int = 0) -> None:
        """Run `work` over `items`, at most `solve.concurrency` at once, with a progress bar.

        The first exception cancels the rest and is raised; what was finished is in the ledger.
        """
        self.progress.start(name, len(items) + done, done)
        queue = iter(items)

        async def pull() -> None:
            for item in queue:
                await work(item)
                self.progress.advance(name)
                self.keep_time()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.config.solve.concurrency, len(items))):
                    group.create_task(pull(), context=_outside_the_graph())
        except* Exception as failures:
            raise first_failure(failures) from failures
        finally:
            self.progress.stop(name)

    def note(self, name: str, detail: dict[str, Any]) -> None:
        """Write down what a node will report, before a step after which it could not find it out again."""
        row = self.ledger.node(self.round, name)
        row.detail = {**row.detail, **detail}
        self.ledger.put(row)

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[NodeRow]:
        """Account for one execution of a node: attempts, seconds, done. The node fills `detail`."""
        row = self.ledger.node(self.round, name)
        row.attempts += 1
        self.ledger.put(row)
        now = time.monotonic()
        clock = self._clock = _Clock(name, row.seconds, started=now, told=now)
        try:
            yield row
            row.done = True
        finally:
            self._clock = None
            row.seconds = clock.seconds
            row.detail = {**self.ledger.node(self.round, name).detail, **row.detail}  # a node cut off keeps its notes
            self.ledger.put(row)

    def keep_time(self) -> None:
        """Tell the ledger, every few seconds, how long the node has taken: a budget counts what a kill cut off, too."""
        clock = self._clock
        if clock is None or time.monotonic() - clock.told < _TELL_SECONDS:
            return
        clock.told = time.monotonic()
        row = self.ledger.node(self.round, clock.node)
        row.seconds = clock.seconds
        self.ledger.put(row)


def _outside_the_graph() -> Context:
    """A context in which a graph is run for itself.

    Seen as a part of the node that runs it, its every step would be written into the session's checkpoints.
    """
    context = copy_context()
    context.run(var_child_runnable_config.set, None)
    return context


def first_failure(failures: BaseExceptionGroup[Exception]) -> BaseException:
    """Return the first exception of a group, groups in it opened."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def open_session(config: Config, run: RunDir, progress: Progress | None = None) -> AsyncIterator[Session]:
    """Open everything a run needs; the caller holds the run's lease.

    The server is started by the first node that serves a policy, because which one that is the ledger knows.
    """
    async with AsyncExitStack() as stack:
        run.require_space()
        for plugin in config.plugins:
            load_source(plugin)
        if config.solve.strategy is not None:
            build_strategy(config.solve.strategy)  # one that cannot be built is found out now
        if config.memory.recipes is not None:
            load_source(config.memory.recipes)  # and so are recipes that are not there
        ledger = Ledger(run.ledger)
        stack.callback(ledger.close)
        environment = await stack.enter_async_context(open_environment(config.environment, sandbox=config.sandbox))
        embedder = run_embedder(stack, config, run)
        memory = await open_memory(stack, config, run, embedder)
        own = open_made(memory, config.tools.use, scopes=config.memory.scopes, sandbox=config.sandbox)
        made = await stack.enter_async_context(own)
        toolbox = await stack.enter_async_context(open_toolbox(config.tools, sandbox=config.sandbox, made=made))
        trainer = Trainer(run.logs / "trainer.log", threads=config.train.threads, timeout=config.train.timeout)
        stack.push_async_callback(trainer.aclose)
        server = PolicyServer(config.serving, log=run.logs / "vllm.log")
        stack.push_async_callback(server.stop)
        session = Session(config, run, ledger, environment, memory, server, trainer, toolbox)
        session.progress = progress or Silent()
        session.others = open_others(stack, config.solve.others)
        if config.tools.pick:
            session.picker = ToolPicker(embedder, config.tools.pick, config.tools.pinned)
        if config.solver is not None:
            stack.enter_context(openai_address())  # whatever the agent does, a provider is not asked
            session.endpoint = await stack.enter_async_context(open_endpoint(server.gateway))
            await prove_agent(environment, config.solver)
        for tool in toolbox.refused:
            session.progress.say(
                f"{tool.name} may not be called: add it, or its class {tool.permission}, to tools.allow"
            )
        server.on_record = session.record_delivery
        await _found(session)
        yield session


def run_embedder(stack: AsyncExitStack, config: Config, run: RunDir) -> Embedder:
    """Open the embedder of a run's config, with what the run has embedded already; `stack` closes it."""
    made = open_embedder(config.memory.embedder, config.memory.embedder_args)
    embedder = CachedEmbedder(made, run.memory / "embeddings.sqlite")
    stack.push_async_callback(embedder.aclose)
    return embedder


async def open_memory(stack: AsyncExitStack, config: Config, run: RunDir, embedder: Embedder | None = None) -> Memory:
    """Open a run's memory with an embedder, by default that of its config; `stack` closes what is opened."""
    embedder, settings = embedder or run_embedder(stack, config, run), config.memory
    memory = await Memory.open(
        run.memory, embedder, limit=settings.per_family, records=settings.records, chroma=settings.chroma
    )
    stack.push_async_callback(memory.aclose)
    return memory


def find_base(config: Config, run: RunDir) -> None:
    """Have policy-0's card say where the base's weights are on this machine: a run may have been copied here.

    Raises:
        UsageError: the model is not here, or its weights are others.
    """
    card = read_card(run.policy(0))
    if (run.policy(0) / card.weights).is_dir():
        return
    model = resolve_model(config.model)
    if model.sha256 != card.sha256:
        raise UsageError(
            f"the run began with weights that hash to {card.sha256[:16]}; {config.model} here has {model.sha256[:16]}. "
            f"Put the former into {card.weights}."
        )
    write_card(run.policy(0), card.model_copy(update={"weights": model.path}))


async def _found(session: Session) -> None:
    """Write the run's row and policy-0, once."""
    ledger, config, run = session.ledger, session.config, session.run
    if ledger.rows(PolicyRow, number=0):
        await asyncio.to_thread(find_base, config, run)
        return
    await _check_methods(session)
    session.progress.start("model")
    model = await asyncio.to_thread(resolve_model, config.model)
    base = await session.trainer.prepare_base(Path(model.path))
    card = Card(number=0, parent=None, weights=model.path, sha256=base.sha256, canary=base.canary)
    write_card(run.policy(0), card)
    session.progress.stop("model")
    ledger.add(
        [
            RunRow(
                id=run.root.name,
                seed=config.seed,
                config=config.model_dump(mode="json"),
                model_source=model.source,
                model_sha256=model.sha256,
                sandbox=session.environment.sandbox or "",
                version=autotelic.__version__,
            ),
            PolicyRow(
                number=0,
                round=0,
                state=PolicyState.CHAMPION.value,
                path=str(run.policy(0).relative_to(run.root)),
                sha256=base.sha256,
                method="base",
                card={"source": model.source, "revision": model.revision},
            ),
        ]
    )


async def _check_methods(session: Session) -> None:
    """Refuse a method that there is not, or its settings, before the run is bound to them.

    Raises:
        UsageError: the message names the key.
    """
    config = session.config
    for key, how in (("train", config.train), ("feedback", config.feedback)):
        try:
            await session.trainer.check(how.method, how.settings, config.plugins)
        except UsageError as error:
            raise UsageError(f"{key}.method: {error}") from None


def as_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as the ledger stores them."""
    return [m.model_dump(mode="json", exclude_defaults=True) for m in messages]
