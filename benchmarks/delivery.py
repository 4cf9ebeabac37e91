"""New weights into a running server: starting it again on them, against delivering them in place. Both until proved.

    .venv/bin/python benchmarks/delivery.py [--restarts 2] [--deliveries 9] [--guess-ahead 4]

The second policy is the base model with noise in its matrices; its canary is computed by transformers in bfloat16, as
the trainer does. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autotelic.core.words import PolicyFiles
from autotelic.serving import PolicyServer, ServingConfig, resolve_model

TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog, who has seen foxes before, does not even lift his head."
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n\nprint(fibonacci(10))"
)
"""In all 69 tokens, as in the canaries of the trainer."""


def make(source: Path, out: Path, noise: float) -> None:
    """Write `source` with noise (relative to each matrix) into `out` with `policy.json`. Runs in its own process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from autotelic.core.hashing import sha256_of_weights
    from autotelic.training.weights import canary_of

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        for name, weights in model.named_parameters():
            if noise and ".layers." in name and weights.ndim == 2:
                weights.add_(torch.randn_like(weights) * weights.std() * noise)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    canary = canary_of(model.eval(), tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    policy = PolicyFiles(number=0, path=str(out), sha256=sha256_of_weights(out), canary=canary)
    (out / "policy.json").write_text(policy.model_dump_json())


def make_apart(source: str, out: Path, noise: float, number: int) -> PolicyFiles:
    """Call `make` in a process of its own, so that this one stays small."""
    command = [sys.executable, "-W", "ignore", __file__, "--make", source, str(out), str(noise)]
    subprocess.run(command, check=True, capture_output=True)
    made = PolicyFiles.model_validate_json((out / "policy.json").read_text())
    return made.model_copy(update={"number": number})


async def measure(
    policies: list[PolicyFiles], serving: ServingConfig, log: Path, restarts: int, deliveries: int
) -> dict[str, list[float]]:
    """Return the seconds of each restart and of each delivery in place."""
    taken: dict[str, list[float]] = {"restart": [], "in place": []}
    server = PolicyServer(serving, log=log)
    try:
        await server.start(policies[0])
        for turn in range(restarts):
            begun = time.perf_counter()
            await server.stop()
            await server.start(policies[(turn + 1) % 2])
            taken["restart"].append(time.perf_counter() - begun)
        for turn in range(deliveries):
            begun = time.perf_counter()
            record = await server.deliver(policies[(restarts + turn + 1) % 2])
            taken["in place"].append(time.perf_counter() - begun)
            assert record.proof.to_previous_mean is not None
    finally:
        await server.stop()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--deliveries", type=int, default=9)
    parser.add_argument("--guess-ahead", type=int, default=0, help="serving.guess_ahead: tokens speculated")
    parser.add_argument("--make", nargs=3, metavar=("SOURCE", "OUT", "NOISE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.make:
        make(Path(chosen.make[0]), Path(chosen.make[1]), float(chosen.make[2]))
        return
    model = resolve_model()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        policies = [make_apart(model.path, root / f"policy-{i}", noise, i) for i, noise in enumerate((0.0, 0.02))]
        serving, log = ServingConfig(guess_ahead=chosen.guess_ahead), root / "vllm.log"
        taken = asyncio.run(measure(policies, serving, log, chosen.restarts, chosen.deliveries))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(f"{'way':<10}{'times':>6}{'median s':>10}{'least s':>10}{'most s':>10}")
    for name, seconds in taken.items():
        print(f"{name:<10}{len(seconds):>6}{medians[name]:>10.2f}{min(seconds):>10.2f}{max(seconds):>10.2f}")
    summary = {
        "benchmark": "delivery",
        "ratio": round(medians["restart"] / medians["in place"], 2),
        "restart_seconds": round(medians["restart"], 3),
        "in_place_seconds": round(medians["in place"], 3),
        "compared": "stop and start vLLM on new weights, against loading them in place; each until the proof holds",
        "guess_ahead": chosen.guess_ahead,
        "model": model.source,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
