"""Which tests one worker runs, one after the other, and which come first.

Together run those of one file, which share what was made for them, and those that count what there is in the whole
machine. What takes long comes first, or one worker ends it alone.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

TOGETHER = {"sandbox", "training"}
SESSIONS = "tests/e2e/test_e2e_self_play.py"
LONGEST = (SESSIONS, "tests/e2e/", "tests/ui/test_ui_browser.py", "")


class ByRoom(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps the files of some rooms together, and the tests of every other file but the sessions."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        room = path.split("/")[1]
        return room if room in TOGETHER else nodeid if path == SESSIONS else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next(i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByRoom:
    config.option.loadscopereorder = False  # not by how many tests a file has
    return ByRoom(config, log)
