"""Which tests one worker runs, one after the other.

Those of one file, which share what was made for them; those that count processes; those that keep both cores busy.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER = {"sandbox", "training", "e2e"}


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the files of some rooms together, and the tests of every other file."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        room = path.split("/")[1]
        return room if room in TOGETHER else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByRoom:
    return ByRoom(config, log)
