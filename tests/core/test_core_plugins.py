"""Code of the user's by name: what it may import, and what of it is run again when it is loaded again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotelic.core.errors import UsageError
from autotelic.core.plugins import load_source

COUNTED = "import builtins\nbuiltins.some_count = number = getattr(builtins, 'some_count', 0) + 1\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory. Modules and the path of this process are left as they were found."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("builtins.some_count", 0, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("some_")]:
        del sys.modules[name]


def write(file: Path, text: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def test_a_file_imports_what_stands_beside_it_also_later(place: Path) -> None:
    write(place / "elsewhere" / "some_near.py", "x = 3\n")
    write(place / "elsewhere" / "some_late.py", "y = 4\n")
    text = "from some_near import x\n\ndef later():\n    import some_late\n    return some_late.y\n"
    module = load_source(write(place / "elsewhere" / "main.py", text))
    assert module.x == 3 and module.later() == 4


def test_a_module_is_found_in_the_current_directory(place: Path) -> None:
    write(place / "some_pkg" / "mod.py", "z = 5\n")
    assert load_source("some_pkg.mod").z == 5
    with pytest.raises(UsageError, match=r"some_pkg.none cannot be loaded: ModuleNotFoundError"):
        load_source("some_pkg.none")


def test_a_file_is_run_again_with_its_neighbours_and_its_package(place: Path) -> None:
    write(place / "some_pkg" / "__init__.py", "")
    write(place / "some_pkg" / "deep.py", COUNTED)
    write(place / "some_pkg" / "some_near.py", COUNTED)
    write(place / "some_pkg" / "late.py", COUNTED)
    late = "def late():\n    from some_pkg import late\n    return late.number\n"
    file = write(
        place / "some_pkg" / "main.py", f"from some_pkg.deep import number\nfrom some_near import number as n\n{late}"
    )
    sys.path.insert(0, str(place))
    first = load_source(file)
    assert (first.number, first.n, first.late()) == (1, 2, 3)
    assert load_source(file) is first
    again = load_source(file, again=True)
    assert (again.number, again.n, again.late()) == (4, 5, 6)


def test_what_was_there_before_or_is_installed_is_not_run_again(place: Path) -> None:
    write(place / "some_shared.py", COUNTED)
    assert load_source("some_shared").number == 1
    write(place / "some_env" / "site-packages" / "some_library.py", COUNTED)
    write(place / "some_env" / "site-packages" / "some_own.py", "from some_library import number\n" + COUNTED)
    sys.path.insert(0, str(place / "some_env" / "site-packages"))
    text = "from some_shared import number\nimport some_library, json, autotelic\n"
    file = write(place / "main.py", text)
    first = load_source(file)
    import json

    again = load_source(file, again=True)
    assert (again.number, again.some_library.number) == (1, 2) and again is not first
    assert again.json is json and again.autotelic is sys.modules["autotelic"]
    own = load_source("some_own")
    assert (own.number, load_source("some_own", again=True).number, sys.modules["some_library"].number) == (3, 4, 2)
