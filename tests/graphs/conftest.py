from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The helper is a module that tests and the driver's process share.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.graphs import simulated

from autotelic.graphs import Config, Outcome, SelfPlay
from autotelic.store import Ledger


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the simulated base policy."""
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Directory of an undisturbed simulated run of `small()`; nobody writes to it."""
    root = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        simulated.install(patch.setattr, model)
        outcome = asyncio.run(SelfPlay(simulated.small(), root).run())
    assert outcome == Outcome(champion=2, stop="rounds")
    return root


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[[type[simulated.SimulatedTrainer]], None]:
    """Put the simulated parts in place, with the given trainer."""
    return lambda trainer: simulated.install(monkeypatch.setattr, model, trainer)


@pytest.fixture
def play(
    tmp_path: Path, simulate: Callable[[type[simulated.SimulatedTrainer]], None]
) -> Iterator[Callable[..., tuple[Outcome, Ledger]]]:
    """Run a simulated session to where it stops: `play(config, name, trainer, answer)`; the ledger comes with it."""
    ledgers: list[Ledger] = []

    def run(
        config: Config,
        name: str = "run",
        trainer: type[simulated.SimulatedTrainer] = simulated.SimulatedTrainer,
        answer: bool | None = None,
    ) -> tuple[Outcome, Ledger]:
        simulate(trainer)
        outcome = asyncio.run(SelfPlay(config, tmp_path / name).run(answer))
        ledgers.append(Ledger(tmp_path / name / "ledger.sqlite"))
        return outcome, ledgers[-1]

    yield run
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def copied(finished: Path, tmp_path: Path, simulate: Callable[[type[simulated.SimulatedTrainer]], None]) -> Path:
    """A copy of the finished run, to be written to."""
    simulate(simulated.SimulatedTrainer)
    return Path(shutil.copytree(finished, tmp_path / "copied"))
