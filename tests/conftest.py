"""Which tests one worker runs, one after the other: what counts processes, and what keeps both cores busy by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = {"sandbox": "sandbox", "training": "model", "e2e": "model"}


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if group := TOGETHER.get(item.path.relative_to(HERE).parts[0]):
            item.add_marker(pytest.mark.xdist_group(group))
