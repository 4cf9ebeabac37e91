"""Who answers, opened: a remote model, the champion of a run, or a model on a server of ours; with memory and tools."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from autotelic.agents import ToolPicker
from autotelic.core.errors import UsageError
from autotelic.core.progress import Progress
from autotelic.core.run_dir import RunDir
from autotelic.core.words import PolicyFiles
from autotelic.graphs.ask import GraphContext
from autotelic.graphs.config import run_config
from autotelic.graphs.others import open_others, open_remote
from autotelic.graphs.session import find_base, open_memory, run_embedder
from autotelic.graphs.skill_library import open_made
from autotelic.serving import DEFAULT_MODEL, Gateway, PolicyServer, ServingConfig, resolve_model
from autotelic.store import Ledger
from autotelic.tools import Tool, ToolsConfig, open_toolbox
from autotelic.training import Trainer, read_policy

__all__ = ["Served", "Source", "graph_context", "open_source"]


@dataclass(frozen=True)
class Source:
    """Who answers: `remote` if given, else the champion of `run`, else `model` on a server of our own."""

    run: Path | None
    """A run, with its memory."""
    model: str | None = None
    """What vLLM serves if neither a run nor a remote model is named; by default `DEFAULT_MODEL`."""
    remote: str | None = None
    """A model that LiteLLM calls, e.g. `openai/NAME`."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server for `remote`."""
    others: tuple[str, ...] = ()
    """Models that take part beside it, by LiteLLM's names; `NAME=URL` for one on an OpenAI-compatible server."""

    def __post_init__(self) -> None:
        """Refuse what would not be used."""
        if self.model and (self.run or self.remote):
            raise UsageError(
                f"--model {self.model} is for who names neither --run nor --remote. Leave one of them out."
            )
        if self.base_url and not self.remote:
            raise UsageError("--base-url is the address of the model that --remote names; name one, e.g. openai/NAME.")


@dataclass(frozen=True)
class Served:
    """Who answers, opened by `open_source`."""

    gateway: Gateway
    """Where calls of the model go."""
    server: PolicyServer | None = None
    """Our own server, if the model is not remote."""
    ledger: Ledger | None = None
    """The run's, if there is one."""
    run: RunDir | None = None
    """The run."""


@asynccontextmanager
async def open_source(source: Source, progress: Progress, *, log: str = "vllm.log") -> AsyncIterator[Served]:
    """Open who answers. The run's lease is not taken.

    Args:
        source: who that is.
        progress: shows how far it is.
        log: name of the server's log in a run.
    """
    async with AsyncExitStack() as stack:
        if source.remote:
            yield Served(open_remote(stack, source.remote, source.base_url))
            return
        if source.run is None:
            policy, log_file = await _base(stack, source.model or DEFAULT_MODEL, progress)
            server = await _serve(stack, ServingConfig(), policy, log_file, progress)
            yield Served(server.gateway, server)
            return
        run = RunDir(source.run).require()
        config = run_config(run)
        ledger = Ledger(run.ledger)
        stack.callback(ledger.close)
        await asyncio.to_thread(find_base, config, run)
        policy = read_policy(run.policy(ledger.champion().number))
        server = await _serve(stack, config.serving, policy, run.logs / log, progress)
        yield Served(server.gateway, server, ledger, run)


@asynccontextmanager
async def graph_context(source: Source, *, tools: ToolsConfig, progress: Progress) -> AsyncIterator[GraphContext]:
    """Open what a graph is built from, under the run's lease if there is a run.

    Args:
        source: who answers.
        tools: which there are, and what is allowed.
        progress: shows how far it is.
    """
    async with AsyncExitStack() as stack:
        memory = None
        made: dict[str, Sequence[Tool]] = {}
        if source.run is not None:
            directory = stack.enter_context(RunDir(source.run).require().held())
            config = run_config(directory)
            embedder = run_embedder(stack, config, directory)
            memory = await open_memory(stack, config, directory, embedder)
            own = open_made(memory, tools.use, scopes=config.memory.scopes, sandbox=config.sandbox)
            made = await stack.enter_async_context(own)
        toolbox = await stack.enter_async_context(open_toolbox(tools, workers=1, made=made))
        for tool in toolbox.refused:
            progress.say(f"{tool.name} may not be called: allow {tool.name}, or its class {tool.permission}")
        served = await stack.enter_async_context(open_source(source, progress))
        others = open_others(stack, source.others)
        context = GraphContext(served.gateway, memory=memory, toolbox=toolbox, others=others)
        if memory is not None:
            seen = config.memory
            context = replace(
                context,
                demonstrations=seen.demonstrations,
                lessons=seen.lessons,
                scopes=tuple(seen.scopes),
                ranking=seen.ranking,
            )
            if config.tools.pick:
                context = replace(context, picker=ToolPicker(embedder, config.tools.pick, config.tools.pinned))
        yield context


async def _base(stack: AsyncExitStack, model: str, progress: Progress) -> tuple[PolicyFiles, Path]:
    """Return a model's weights as policy-0, and where its server is to write its log."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autotelic-")))
    progress.start("model")
    found = await asyncio.to_thread(resolve_model, model)
    async with Trainer(scratch / "trainer.log") as trainer:
        base = await trainer.prepare_base(Path(found.path))
    progress.stop("model")
    return PolicyFiles(number=0, path=found.path, sha256=base.sha256, canary=base.canary), scratch / "vllm.log"


async def _serve(
    stack: AsyncExitStack, config: ServingConfig, policy: PolicyFiles, log: Path, progress: Progress
) -> PolicyServer:
    server = PolicyServer(config, log=log)
    stack.push_async_callback(server.stop)
    progress.start("server")
    await server.start(policy)
    progress.stop("server")
    return server
