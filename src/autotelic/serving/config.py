"""The knobs of the model server, and nothing that can be found out instead of asked.

Whether to use a GPU, which port is free, which flags keep the CPU build fast and quiet: `server.py` decides these.
What is here is what a person may want to say, with defaults that were measured on two CPU cores with the 135M model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autotelic.core.words import Frozen

__all__ = ["ServingConfig"]


class ServingConfig(Frozen):
    """How the local vLLM server runs and what delivery calls proved."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the NVIDIA GPU if there is one and the interpreter's vLLM is not the CPU build."""
    python: str | None = None
    """Interpreter of the environment that holds vLLM; by default the one that runs Autotelic."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Type of weights and activations in the server; the trainer's is bfloat16."""
    max_model_len: int = Field(default=2048, ge=16)
    """Longest prompt and answer together, tokens."""
    kv_cache_gib: float = Field(default=2.0, gt=0)
    """Memory for the key-value cache, GiB."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Sequences that the server decodes at once, and requests that the gateway keeps in flight."""
    enforce_eager: bool | None = None
    """Skip compilation. By default true on the CPU and false on a GPU."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of the server on a CPU; by default one for each core this process may use."""
    host: str = "127.0.0.1"
    """Address to listen on. The server can be told to load weights, so keep it on this machine."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port to listen on; by default a free one."""
    startup_seconds: float = Field(default=300.0, gt=0)
    """A server that does not answer after so many seconds has failed to start."""
    request_seconds: float = Field(default=600.0, gt=0)
    """A request that takes longer counts as lost, seconds."""
    guess_ahead: int = Field(default=0, ge=0, le=16)
    """Tokens that are guessed ahead where the last few were said before, and checked at once (n-gram speculative
    decoding); 0 is none. What it gains depends on how much answers repeat: `benchmarks/speculation.py`."""
    extra_args: tuple[str, ...] = ()
    """More flags for vLLM's API server, as on its command line."""
    proof_max: float = Field(default=1.0, gt=0)
    """Largest log-probability difference to the trainer on any compared canary token that still counts as agreement,
    nats; the quarter that the trainer held least likely is not compared. Measured between transformers and vLLM, both
    bfloat16: 0.19 to 0.52."""
    proof_mean: float = Field(default=0.1, gt=0)
    """Largest mean of the same over the compared tokens, nats. Measured: 0.034 to 0.056."""
