"""Code of the user's, by name: a Python file or an importable module, loaded once, or anew with all that is its own.

What stands beside the file, or in the current directory for a module, can be imported, as Python has it for a script
and for `python -m`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from autotelic.core.errors import UsageError
from autotelic.core.words import content_id

__all__ = ["load_source"]

_PLUGIN = "autotelic_plugin_"
_INSTALLED = ("site-packages", "dist-packages")
_before: dict[str, frozenset[str]] = {}
"""Top-level modules that were there before a source was first loaded."""


def load_source(spec: str, *, again: bool = False) -> ModuleType:
    """Import `path/to/file.py` or `package.module` and return the module; what it registers is then known.

    Args:
        spec: which.
        again: if it was imported before, run its code again, with that of its package and of what it has imported from
            beside itself. What is installed is not run again, but for the package itself.

    Raises:
        UsageError: it is not there or cannot be imported; the message says why.
    """
    path = Path(spec).expanduser() if spec.endswith(".py") else None
    if path is not None and not path.is_file():
        raise UsageError(f"there is no file {path}. Give the path of a Python file.")
    file = path and path.resolve()
    beside = str(file.parent if file else Path.cwd())
    if beside not in sys.path:
        sys.path.insert(0, beside)
    before = _before.setdefault(str(file or spec), frozenset(_tops()))
    if again:
        _forget(*(_of_file(file) if file else _of_module(spec)), before)
    try:
        return _file(file, again) if file else importlib.import_module(spec)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{spec} cannot be loaded: {type(error).__name__}: {error}. Install or mend it.") from error


def _file(path: Path, again: bool) -> ModuleType:
    name = f"{_PLUGIN}{content_id(str(path))}"
    if name in sys.modules and not again:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # holds for every name that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _of_file(file: Path) -> tuple[set[str], set[Path]]:
    """The packages that a file is in, and where its neighbours are."""
    return {top for top in _tops() if any(file.is_relative_to(place) for place in _places(top))}, {file.parent}


def _of_module(name: str) -> tuple[set[str], set[Path]]:
    """The package that a module is in, and where that one's neighbours are, if these are the user's."""
    top = name.partition(".")[0]
    beside = {place.parent for place in _places(top)}
    return {top}, {place for place in beside if place.name not in _INSTALLED}


def _forget(packages: set[str], beside: set[Path], before: frozenset[str]) -> None:
    """Have `packages` imported again, and what stands in the folders `beside` and was not there `before`."""
    new = {top for top in _tops() - before if any(place.parent in beside for place in _places(top))}
    dropped = {top for top in packages | new if top not in ("__main__", "autotelic") and not top.startswith(_PLUGIN)}
    for name in list(sys.modules):
        if name.partition(".")[0] in dropped:
            del sys.modules[name]


def _tops() -> set[str]:
    return {name.partition(".")[0] for name in list(sys.modules)}


def _places(top: str) -> list[Path]:
    """Where a top-level module is: its folders if it is a package, else its file; nothing if it is part of Python."""
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if spec is None:
        return []
    found = spec.submodule_search_locations or ([spec.origin] if spec.has_location else [])
    return [Path(place).resolve() for place in found]
