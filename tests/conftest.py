"""Which tests one worker runs together: the sandbox's count processes, the training room's share a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = {"sandbox", "training"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (room := item.path.relative_to(HERE).parts[0]) in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(room))
