"""The process that embeds, started by `MiniLM` as a plain script; it imports nothing of Autotelic.

One request is a JSON line with texts; one reply a JSON line, then the vectors as raw float32. End of input is the
parent's death, however it died: a pipe closes even on `kill -9`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

TOKENS = 256
"""Longer texts are cut here, as the published model does."""
BATCH = 32
"""Texts in one forward pass; they are sorted by length first, so little of it is padding."""


def load(path: str, threads: int) -> tuple[Any, Any]:
    """Return tokenizer and model from a local directory, in float32 on the CPU."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.eval()


def embed(tokenizer: Any, model: Any, texts: list[str]) -> npt.NDArray[np.float32]:
    """Return `[len(texts), dimension]`: the mean over each text's tokens, scaled to unit length."""
    import torch

    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    tokens = tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer.pad({"input_ids": [tokens[i] for i in rows]}, return_tensors="pt")
            hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors


def serve(requests: BinaryIO, replies: BinaryIO, path: str, threads: int) -> None:
    """Answer until the requests end; the first reply says that the model is loaded, and its dimension."""
    tokenizer, model = load(path, threads)
    replies.write(json.dumps({"dimension": model.config.hidden_size}).encode() + b"\n")
    replies.flush()
    for line in requests:
        vectors = embed(tokenizer, model, json.loads(line))
        replies.write(json.dumps({"rows": len(vectors)}).encode() + b"\n" + vectors.tobytes())
        replies.flush()


if __name__ == "__main__":
    # Libraries that print must not write into the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies, sys.argv[1], int(sys.argv[2]))
