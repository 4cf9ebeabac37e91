"""LoRA on a bf16 model: float32 adapters by peft, our arithmetic in the forward pass, merged in place at the end.

Adapters stay float32 because a bf16 parameter stops moving when a step is under 1/256 of it; products are bf16.
Merging adds them to the weights where these lie and rounds once to their dtype.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from autotelic.core.errors import UsageError
from autotelic.training.kernels import lora_linear, packed_attention

__all__ = ["PACKED", "adapter_saver", "merge", "use_fast_layers"]

PACKED = "autotelic_packed"
"""Name of our attention among the attention implementations of transformers."""

_ADAPTER = "default"


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    rows_B_T = kwargs["rows_B_T"]
    window = kwargs.get("sliding_window")
    odd = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if odd or kwargs.get("dropout") or (window is not None and window < rows_B_T.shape[1]):
        what = ", ".join(odd) or "dropout or a sliding window"
        raise UsageError(
            f"{type(module).__name__} asks for attention this trainer does not compute: {what}. "
            "Use a model with plain causal attention, or lower max_length to the window."
        )
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    return packed_attention(query, key, value, rows_B_T, kwargs["read_N"], scale), None


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, lambda *_args, **_kwargs: None)


def _layers(model: PeftModel) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def use_fast_layers(model: PeftModel) -> None:
    """Route every LoRA layer of `model` through `lora_linear`.

    Raises:
        UsageError: a layer is not plain LoRA (dropout, DoRA ...), which `lora_linear` does not compute.
    """
    for name, layer in _layers(model):
        if layer.lora_variant or not isinstance(layer.lora_dropout[_ADAPTER], torch.nn.Identity):
            raise UsageError(f"{name} is not a plain LoRA layer. Leave dropout and variants such as DoRA out.")
        layer.forward = functools.partial(
            lora_linear,
            base=layer.base_layer,
            a_R_I=layer.lora_A[_ADAPTER].weight,
            b_O_R=layer.lora_B[_ADAPTER].weight,
            scale=layer.scaling[_ADAPTER],
        )


@torch.no_grad()  # type: ignore[untyped-decorator]
def merge(model: PeftModel) -> Any:
    """Add the adapters to the base weights in place and return the plain base model."""
    for name, layer in _layers(model):
        weight = layer.base_layer.weight
        a_R_I, b_O_R = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        weight.addmm_((b_O_R * layer.scaling[_ADAPTER]).to(weight.dtype), a_R_I.to(weight.dtype))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base_layer)
    return model.get_base_model()


def adapter_saver(model: PeftModel, base: Path) -> Callable[[Path], None]:
    """Return a function that writes the adapter in peft's format; call this before `merge`."""
    state = {name: tensor.detach().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    config: LoraConfig = model.peft_config[_ADAPTER]

    def save(directory: Path) -> None:
        directory.mkdir(parents=True)
        # Relative, so that a copied run stays whole.
        config.base_model_name_or_path = os.path.relpath(base, directory)
        config.inference_mode = True
        config.save_pretrained(directory)
        save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})

    return save
