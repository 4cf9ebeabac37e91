"""The arithmetic of LoRA training, written so that a CPU does each thing once.

Measured on two cores, the stock paths lose time in three places: LoRA in float32, or cast anew at every use, next to a
bf16 model; the backward pass of `scaled_dot_product_attention` (three times that of plain products); and a head that
keeps all logits for autograd. Each has a hand-written backward here. The base model is frozen, so nothing computes a
gradient for its weights. Norms, gates and rotary embeddings gained nothing by it and are left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["head_loss", "lora_linear", "packed_attention"]

_HEAD_CHUNK = 512
"""Predictions whose logits are in memory at once."""


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a_low, b_low = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = flat @ a_low.T
        out = F.linear(flat, weight, bias)
        out.addmm_(inner, b_low.T)
        ctx.save_for_backward(flat, weight, a_low, b_low, inner)
        ctx.scale, ctx.dtypes, ctx.shape = scale, (a.dtype, b.dtype), x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a_low, b_low, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_inner = grad @ b_low
        grad_a = (grad_inner.T @ flat).to(ctx.dtypes[0])
        grad_b = (grad.T @ inner).to(ctx.dtypes[1]).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_inner, a_low)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


def lora_linear(x: Tensor, base: nn.Linear, a_R_I: Tensor, b_O_R: Tensor, scale: float) -> Tensor:
    """`base(x) + scale * B A x` with the products in the dtype of `x`; gradients for `x`, A and B only."""
    return _LoraLinear.apply(x, base.weight, base.bias, a_R_I, b_O_R, scale)


class _PackedAttention(torch.autograd.Function):  # type: ignore[misc]
    """Shapes: q N x (K G) x D, k and v N x K x D, K key heads, G queries a key head; rows B x T."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows_B_T: Tensor, read_N: Tensor, bias: Tensor, scale: float
    ) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        queries, keys, values = (_spread(x, rows_B_T, k.shape[1]) for x in (q, k, v))
        width = rows_B_T.shape[1]
        scores = torch.baddbmm(bias.repeat(groups, 1), queries, keys.transpose(1, 2), alpha=scale)
        probs = torch.softmax(scores, -1)
        mixed = probs @ values
        ctx.save_for_backward(queries, keys, values, probs, rows_B_T, read_N)
        ctx.scale, ctx.shapes = scale, (q.shape, k.shape)
        return _gather(mixed, read_N, rows_B_T.shape[0], k.shape[1], groups, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, probs, rows_B_T, read_N = ctx.saved_tensors
        q_shape, k_shape = ctx.shapes
        count, width = rows_B_T.shape
        whole = grad.new_zeros(count * width, *q_shape[1:])
        whole[read_N] = grad.reshape(-1, *q_shape[1:])
        grad_mixed = _heads_first(whole, count, width, k_shape[1])
        grad_values = probs.transpose(1, 2) @ grad_mixed
        grad_scores = torch._softmax_backward_data(grad_mixed @ values.transpose(1, 2), probs, -1, probs.dtype)
        grad_queries = (grad_scores @ keys).mul_(ctx.scale)
        grad_keys = (grad_scores.transpose(1, 2) @ queries).mul_(ctx.scale)
        grads = [
            _collect(g, rows_B_T, shape)
            for g, shape in ((grad_queries, q_shape), (grad_keys, k_shape), (grad_values, k_shape))
        ]
        return (*grads, None, None, None, None)


def _heads_first(whole: Tensor, count: int, width: int, key_heads: int) -> Tensor:
    """(B T) x (K G) x D -> (B K) x (G T) x D."""
    heads, size = whole.shape[1:]
    split = whole.view(count, width, key_heads, heads // key_heads, size)
    return split.permute(0, 2, 3, 1, 4).reshape(count * key_heads, -1, size)


def _spread(x: Tensor, rows_B_T: Tensor, key_heads: int) -> Tensor:
    """Lay nodes out as rows."""
    count, width = rows_B_T.shape
    return _heads_first(x.index_select(0, rows_B_T.view(-1)), count, width, key_heads)


def _rows_first(x: Tensor, count: int, key_heads: int, groups: int, width: int) -> Tensor:
    """(B K) x (G T) x D -> (B T) x (K G D)."""
    split = x.view(count, key_heads, groups, width, -1)
    return split.permute(0, 3, 1, 2, 4).reshape(count * width, -1)


def _gather(x: Tensor, read_N: Tensor, count: int, key_heads: int, groups: int, width: int) -> Tensor:
    return _rows_first(x, count, key_heads, groups, width).index_select(0, read_N)


def _collect(grad: Tensor, rows_B_T: Tensor, shape: torch.Size) -> Tensor:
    """Sum the gradients of all places that show the same node."""
    count, width = rows_B_T.shape
    groups = grad.shape[1] // width
    flat = _rows_first(grad, count, grad.shape[0] // count, groups, width)
    out = torch.zeros(shape[0], flat.shape[1], dtype=torch.float32, device=grad.device)
    return out.index_add_(0, rows_B_T.view(-1), flat.float()).to(grad.dtype).view(shape)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, rows_B_T: Tensor, read_N: Tensor, scale: float) -> Tensor:
    """Causal attention of every row over its own tokens, for tokens stored once (see `packing`).

    Args:
        q: Queries, 1 x heads x N x D.
        k: Keys, 1 x key heads x N x D; heads are a multiple of key heads.
        v: Values, like `k`.
        rows_B_T: Node at each place of each row.
        read_N: Place where each node's output is read.
        scale: Factor on the scores.

    Returns:
        1 x N x (heads D).
    """
    width = rows_B_T.shape[1]
    bias = torch.full((width, width), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    nodes = [x[0].transpose(0, 1) for x in (q, k, v)]
    return _PackedAttention.apply(*nodes, rows_B_T, read_N, bias, scale)[None]


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden_M_D: Tensor, head: Tensor, bias: Tensor | None, target_M: Tensor, weight_M: Tensor
    ) -> Tensor:
        grads, losses = [], []
        for hidden, target, weight in zip(
            *(x.split(_HEAD_CHUNK) for x in (hidden_M_D, target_M, weight_M)), strict=True
        ):
            logits = F.linear(hidden, head, bias).float()
            logits -= logits.logsumexp(-1, keepdim=True)
            losses.append(-(logits.gather(1, target[:, None])[:, 0] * weight).sum())
            slope = logits.exp_().mul_(weight[:, None])
            slope.scatter_add_(1, target[:, None], -weight[:, None])
            grads.append(slope.to(head.dtype) @ head)
        ctx.save_for_backward(torch.cat(grads))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grads,) = ctx.saved_tensors
        return grads * grad.to(grads.dtype), None, None, None, None


def head_loss(hidden_M_D: Tensor, head: nn.Linear, target_M: Tensor, weight_M: Tensor) -> Tensor:
    """Weighted sum of negative log-likelihoods, nats; logits in the model's dtype, softmax in float32, head frozen."""
    return _HeadLoss.apply(hidden_M_D, head.weight, head.bias, target_M, weight_M)


@torch.no_grad()  # type: ignore[untyped-decorator]
def head_logps(hidden_M_D: Tensor, head: nn.Linear, target_M: Tensor) -> Tensor:
    """Natural-log probability of each target, float32, no gradient."""
    found = []
    for hidden, target in zip(hidden_M_D.split(_HEAD_CHUNK), target_M.split(_HEAD_CHUNK), strict=True):
        logits = F.linear(hidden, head.weight, head.bias).float()
        found.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1))
    return torch.cat(found)
