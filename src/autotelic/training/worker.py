"""The trainer process: `python -m autotelic.training.worker`.

Reads jobs as JSON lines on stdin, writes events as JSON lines on stdout, stays warm in between (importing PyTorch and
TRL takes longer than delivering a policy), and dies with its parent: the end of stdin ends it, also in the middle of a
step. Anything a library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

from autotelic.core.errors import AutotelicError, UsageError
from autotelic.core.hashing import sha256_of_weights
from autotelic.core.plugins import load_source
from autotelic.core.registry import lookup
from autotelic.core.words import TrainingExample
from autotelic.training.job import CanaryJob, CanaryResult, TrainingJob, TrainingResult, TrainingStep, read_examples
from autotelic.training.method import Method, Trained
from autotelic.training.policies import CARD, Card, partial_of, read_card, write_card

__all__ = ["main"]

_SYNC_AFTER_SECONDS = 3.0
_CANARY_ROWS = 2
_CANARY_TOKENS = 16


def main() -> None:
    """Serve jobs until stdin ends."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    lookup("method", "sft")  # TRL and peft are slow to import: do it while nobody waits
    _emit(events, "ready")
    while True:
        order = jobs.get()
        try:
            if order["kind"] == "train":
                _train(TrainingJob.model_validate(order["job"]), events)
            elif order["kind"] == "check":
                _method(**order["job"])
                _emit(events, "result")
            else:
                _emit(events, "result", _fingerprint(CanaryJob.model_validate(order["job"])).model_dump())
        except Exception as error:
            traceback.print_exc()
            known = isinstance(error, AutotelicError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            _emit(events, "error", {"message": text, "kind": type(error).__name__ if known else ""})


def _listen(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    # The parent is gone or done with us. Nothing half-made is visible, so there is nothing to tidy first.
    os._exit(0)


def _emit(events: IO[str], event: str, payload: dict[str, Any] | None = None) -> None:
    events.write(json.dumps({"event": event, "payload": payload}) + "\n")
    events.flush()


def _method(name: str, settings: Mapping[str, Any], plugins: Sequence[str]) -> Method:
    for plugin in plugins:
        load_source(plugin)
    method: Method = lookup("method", name)(settings)
    return method


def _fingerprint(job: CanaryJob) -> CanaryResult:
    from autotelic.training.weights import canary_of, load_model

    base = Path(job.base)
    loaded = load_model(base)
    canary = canary_of(loaded.model.eval(), _canary_tokens(loaded.tokenizer, job.canary_texts))
    return CanaryResult(sha256=sha256_of_weights(base), canary=canary)


def _canary_tokens(tokenizer: Any, texts: Sequence[str], examples: Sequence[TrainingExample] = ()) -> list[int]:
    """Return the tokens of a canary: the texts, without special tokens, and the ends of what is trained on.

    They are one sequence: a server is asked for it in a third less time than for seven (1 against 7: 0.18 and 0.25 s),
    because it computes the language-model head sequence by sequence.
    """
    from autotelic.training.sft import tokenize

    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for example in examples:
        row = tokenize(tokenizer, example)[-1]
        parts.append([*row.prompt, *row.completion][-_CANARY_TOKENS:])
    return list(chain.from_iterable(parts))


def _train(job: TrainingJob, events: IO[str]) -> None:
    from autotelic.training.weights import load_tokenizer

    examples = read_examples(Path(job.examples))
    identity = job.identity(examples)
    out = Path(job.out)
    if (out / CARD).exists() and (done := read_card(out).result) is not None and done.job == identity:
        _emit(events, "result", done.model_dump())
        return
    method = _method(job.method, job.config, job.plugins)

    def report(step: TrainingStep) -> None:
        _emit(events, "step", step.model_dump())

    partial = partial_of(out)
    _prepare(Path(job.base), partial)
    canary = _canary_tokens(load_tokenizer(Path(job.base)), job.canary_texts, examples[:_CANARY_ROWS])
    _emit(events, "canary", {"token_ids": canary})
    trained = method.train(Path(job.base), examples, job.seed, report)
    result = _finish(job, identity, examples, trained, partial, canary)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    _emit(events, "result", result.model_dump())
    # Not at once: the delivery is under way, and the ledger's own writes would wait behind these for 0.15 s.
    later = threading.Timer(_SYNC_AFTER_SECONDS, _sync, [out])
    later.daemon = True
    later.start()


def _prepare(base: Path, partial: Path) -> None:
    """Do what can be done before training."""
    from autotelic.training.weights import WEIGHTS, copy_companions, reserve

    if not base.is_dir():
        raise UsageError(f"there is no directory {base} to train from. Name one with a model in Hugging Face format.")
    shutil.rmtree(partial, ignore_errors=True)
    merged = partial / "merged"
    merged.mkdir(parents=True)
    copy_companions(base, merged)
    reserve(base, merged / WEIGHTS)


def _finish(
    job: TrainingJob,
    identity: str,
    examples: list[TrainingExample],
    trained: Trained,
    partial: Path,
    canary_tokens: list[int],
) -> TrainingResult:
    """Write the policy into `partial`, as quickly as can be: somebody waits for it."""
    from autotelic.training.weights import WEIGHTS, canary_of

    clock = dict(trained.seconds)
    began = time.time()
    # Two threads are enough for two cores. The canary comes afterwards: its products want all cores, and a third busy
    # thread makes them wait for each other.
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(trained.image.sha256)
        trained.image.write(partial / "merged" / WEIGHTS)
        if trained.save_adapter is not None:
            trained.save_adapter(partial / "adapter")
        sha256 = hashing.result()
    written = time.time()
    canary = canary_of(trained.model, canary_tokens)
    clock["write"], clock["canary"] = written - began, time.time() - written
    clock["finish"] = time.time() - trained.finished_at
    result = TrainingResult(
        job=identity,
        sha256=sha256,
        canary=canary,
        steps=len(trained.losses),
        tokens=trained.tokens,
        rows=trained.rows,
        skipped=tuple(trained.skipped),
        losses=tuple(trained.losses),
        seconds={name: round(seconds, 3) for name, seconds in clock.items()},
        finished_at=trained.finished_at,
    )
    card = Card(
        number=job.number,
        parent=job.parent,
        weights="merged",
        sha256=result.sha256,
        canary=canary,
        method=job.method,
        config=job.config,
        seed=job.seed,
        data_ids=tuple(example.id for example in examples if example.id not in trained.skipped),
        result=result,
    )
    write_card(partial, card)
    return result


def _sync(directory: Path) -> None:
    """Push a finished policy to the disk. A process that dies loses nothing; this is for a machine that does."""
    for path in directory.rglob("*"):
        if path.is_file():
            with suppress(OSError), path.open("rb") as file:
                os.fsync(file)


if __name__ == "__main__":
    main()
