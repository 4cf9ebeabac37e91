"""What the alarms see of a run's ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotelic.core.config import load_config
from autotelic.core.run_dir import RunDir
from autotelic.graphs import Config
from autotelic.graphs.alarming import raise_alarms
from autotelic.graphs.session import Session, open_session
from autotelic.store import AlarmRow, EvaluationRow


def silence(s: Session, *policies: int) -> None:
    """Leave the policies without an answer to any task of the frozen suite."""
    for row in s.ledger.rows(EvaluationRow, suite="frozen", policy=list(policies)):
        row.answer = None
        s.ledger.put(row)


@pytest.mark.parametrize(("silent", "raised"), [((), False), ((2,), True), ((0, 1), False), ((0, 1, 2), False)])
async def test_a_policy_that_says_nothing_alarms_where_one_before_it_said_something(
    copied: Path, silent: tuple[int, ...], raised: bool
) -> None:
    run = RunDir(copied)
    async with open_session(load_config(Config, run.config), run) as s:
        silence(s, *silent)
        await raise_alarms(s, 2)
        assert bool(s.ledger.count(AlarmRow, name="answer_diversity")) == raised
