"""Starts vLLM's API server on a CPU, with the engine forked from it.

vLLM has the engine import everything once more, in a process of its own; that is 10 of 26 seconds on two cores. Forking
is what it does itself on a GPU. Without a GPU nothing is running yet that a fork could break.
"""

from __future__ import annotations

import multiprocessing
import runpy

if __name__ == "__main__":
    import vllm.v1.engine.utils as engine

    vars(engine)["get_mp_context"] = lambda: multiprocessing.get_context("fork")
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
