"""Which tests one worker runs, one after the other.

Those of one file, which share what was made for them; those that count processes; those that keep both cores busy.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = {"sandbox": "sandbox", "training": "model", "e2e": "model"}


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(HERE)
        item.add_marker(pytest.mark.xdist_group(TOGETHER.get(path.parts[0], str(path))))
