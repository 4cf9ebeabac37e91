"""Weights that are ready to be written before training begins.

A model is loaded into one buffer laid out exactly as its safetensors file. Training changes the weights where they
lie, so when it ends the file's bytes exist already: writing, hashing and computing the canary from them run side by
side. Saving the usual way costs a second copy of everything at the one moment when somebody waits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from autotelic.core.errors import UsageError
from autotelic.core.words import Canary

__all__ = ["WEIGHTS", "Image", "Loaded", "canary_of", "copy_companions", "load_model", "load_tokenizer", "reserve"]

WEIGHTS = "model.safetensors"
"""Name of the weights file of every policy."""

_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_CHUNK = 8 << 20


class Image:
    """The bytes of a model's safetensors file, which are at the same time the memory of its parameters."""

    def __init__(self, model: Any, names: list[str]) -> None:
        """Move the parameters called `names` into one buffer."""
        tensors = model.state_dict()
        self._views: dict[str, torch.Tensor] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            size = tensors[name].numel() * tensors[name].element_size()
            header[name] = {
                "dtype": _DTYPES[tensors[name].dtype],
                "shape": list(tensors[name].shape),
                "data_offsets": [end, end + size],
            }
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % 64)
        self._bytes = torch.empty(8 + len(text) + end, dtype=torch.uint8)
        start = 8 + len(text)
        self._bytes[:start] = torch.frombuffer(bytearray(len(text).to_bytes(8, "little") + text), dtype=torch.uint8)
        for name in names:
            tensor = tensors[name]
            begin, stop = (start + offset for offset in header[name]["data_offsets"])
            view = self._bytes[begin:stop].view(tensor.dtype).view(tensor.shape)
            self._views[name] = view.copy_(tensor)
            # A tied parameter is one object under two names: it is moved once, for both.
            _tensor(model, name).data = view

    def take(self, model: Any) -> None:
        """Copy the weights of `model` that are no longer in the buffer, because training moved them to a GPU."""
        for name, view in self._views.items():
            tensor = _tensor(model, name).detach()
            if tensor.data_ptr() != view.data_ptr():
                view.copy_(tensor)

    def write(self, path: Path) -> None:
        """Write the file, over what `reserve` left there."""
        data = memoryview(self._bytes.numpy())
        with path.open("r+b", buffering=0) as stream:
            for begin in range(0, len(data), _CHUNK):
                stream.write(data[begin : begin + _CHUNK])
            stream.truncate()

    def sha256(self) -> str:
        """Return what `sha256_of_weights` says of a directory that holds this file as its only weights."""
        data = memoryview(self._bytes.numpy())
        digest = hashlib.sha256(f"{WEIGHTS}\0{len(data)}\0".encode())
        digest.update(data)  # releases the interpreter lock
        return digest.hexdigest()


def _tensor(model: Any, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


class Loaded(NamedTuple):
    """A model in memory."""

    model: Any
    """The `PreTrainedModel`."""
    tokenizer: Any
    """Its tokenizer."""
    image: Image
    """The bytes of its weights file, which are its memory."""


def load_tokenizer(base: Path) -> Any:
    """Load the tokenizer of the model in `base`.

    Raises:
        UsageError: there is none.
    """
    with _loading(base):
        return AutoTokenizer.from_pretrained(base)


@contextmanager
def _loading(base: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no model can be loaded from {base}: {error}. Point to one in Hugging Face format."
        ) from error


def load_model(base: Path) -> Loaded:
    """Load weights in the dtype they are stored in, with PyTorch's stock attention, on the CPU.

    Raises:
        UsageError: the directory holds no model, or one that this trainer cannot compute or write.
    """
    tokenizer = load_tokenizer(base)
    with _loading(base):
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", attn_implementation="sdpa")
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1.0):
            raise UsageError(f"the model in {base} sets {name}, which this trainer does not compute. Choose another.")
    names: list[str] = []
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names += list(file.keys())
    state = model.state_dict()
    unknown = [name for name in names if name not in state or state[name].dtype not in _DTYPES]
    if not names or unknown:
        raise UsageError(
            f"the weights in {base} are not stored as the model computes them ({unknown[:3] or 'no *.safetensors'}). "
            "Load the model with transformers and save it again with save_pretrained."
        )
    return Loaded(model, tokenizer, Image(model, names))


def reserve(base: Path, path: Path) -> None:
    """Make a file of the size of the weights in `base`.

    Done before training, for two reasons: a full disk is found out before the work, and writing later into pages that
    the system has already takes a tenth of the time (on virtual machines, first use of memory is slow).
    """
    zeros = bytes(_CHUNK)
    left = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    with path.open("wb", buffering=0) as stream:
        while left > 0:
            left -= stream.write(zeros[:left])


def copy_companions(base: Path, out: Path) -> None:
    """Copy everything but weights (config, tokenizer, chat template) from `base` to `out`."""
    for path in base.iterdir():
        if path.is_file() and not path.name.startswith(".") and ".safetensors" not in path.name:
            shutil.copyfile(path, out / path.name)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def canary_of(model: Any, token_ids: Sequence[int]) -> Canary:
    """Return the log-probabilities of one sequence under a model with stock attention, softmax in float32."""
    ids_T = torch.tensor(token_ids, device=model.device)
    logits_T_V = model(input_ids=ids_T[None], use_cache=False).logits[0, :-1].float()
    chosen_T = logits_T_V.gather(1, ids_T[1:, None])[:, 0] - logits_T_V.logsumexp(-1)
    return Canary(token_ids=(tuple(token_ids),), logprobs=(tuple(chosen_T.tolist()),))
