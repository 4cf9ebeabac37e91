"""Code of the user's, by name: a Python file or an importable module, loaded once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from autotelic.core.errors import UsageError
from autotelic.core.words import content_id

__all__ = ["load_source"]


def load_source(spec: str, *, again: bool = False) -> ModuleType:
    """Import `path/to/file.py` or `package.module` and return the module; what it registers is then known.

    Args:
        spec: which.
        again: run its code again if it was imported before.

    Raises:
        UsageError: it is not there or cannot be imported; the message says why.
    """
    try:
        if spec.endswith(".py"):
            return _file(Path(spec).expanduser(), again)
        known = sys.modules.get(spec)
        return importlib.reload(known) if again and known is not None else importlib.import_module(spec)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{spec} cannot be loaded: {type(error).__name__}: {error}. Install or mend it.") from error


def _file(path: Path, again: bool) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}. Give the path of a Python file.")
    name = f"autotelic_plugin_{content_id(str(path.resolve()))}"
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
