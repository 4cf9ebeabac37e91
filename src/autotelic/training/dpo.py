"""Direct preference optimisation of LoRA adapters: what a person chose, against what it was chosen over.

The loss is that of TRL's DPOTrainer with `loss_type=["sigmoid", "sft"]`; the batches are those of the method `sft`, so
that prompts which begin alike, and the two answers to one prompt, share what they have in common. The reference is the
model as it was before the first step, when adapters add nothing yet. Rows that were chosen over nothing have the second
part of the loss alone.

DPO: Rafailov et al., arXiv 2305.18290. The second part: Pang et al., arXiv 2404.19733.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from autotelic.training.kernels import head_logps, head_loss
from autotelic.training.packing import Row, pack
from autotelic.training.sft import SFT, FastSFTTrainer, SFTConfig

__all__ = ["DPO", "DPOConfig", "FastDPOTrainer"]


class DPOConfig(SFTConfig):
    """Settings of the method `dpo`."""

    beta: float = Field(default=0.1, gt=0)
    """How much a log-ratio counts: the larger, the nearer the model stays to what it was."""
    sft: float = Field(default=1.0, ge=0)
    """Weight of the likelihood of what was chosen, beside that of the preference."""


class FastDPOTrainer(FastSFTTrainer):
    """The trainer on packed batches of chosen and rejected answers."""

    beta = 0.1
    """See `DPOConfig`."""
    sft = 1.0
    """See `DPOConfig`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._margins: dict[int, float] = {}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the model as it is, then train."""
        self._margins = self._measured()
        return super().train(*args, **kwargs)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pack each row's answers; `chosen_B` tells which were, `chosen_K` and `rejected_K` are the pairs' rows."""
        answers: list[Row] = []
        pairs: list[tuple[int, int, float]] = []
        chosen: list[bool] = []
        for row in rows:
            answers.append(Row(row["prompt_ids"], row["completion_ids"], row["weight"]))
            chosen.append(True)
            if row["rejected_ids"]:
                answers.append(Row(row["prompt_ids"], row["rejected_ids"], row["weight"]))
                chosen.append(False)
                pairs.append((len(answers) - 2, len(answers) - 1, self._margins.get(row["index"], 0.0)))
        return vars(pack(answers)) | {
            "chosen_B": torch.tensor(chosen),
            "weight_B": torch.tensor([answer.weight for answer in answers]),
            "chosen_K": torch.tensor([pair[0] for pair in pairs], dtype=torch.long),
            "rejected_K": torch.tensor([pair[1] for pair in pairs], dtype=torch.long),
            "margin_K": torch.tensor([pair[2] for pair in pairs]),
        }

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the preference's loss, averaged over pairs, and `sft` times that of what was chosen, over tokens.

        Both depend on the weights through the answers' log-probabilities alone. So the gradient is that of a likelihood
        in which each answer counts with the loss's slope at its log-probability.
        """
        del model, return_outputs, num_items_in_batch
        learned_M_D, head = self._predictions(inputs)
        said_B = self._said(learned_M_D, head, inputs)
        chosen_B, row_P = inputs["chosen_B"], inputs["row_P"]
        weight_B = inputs["weight_B"] * chosen_B * self.sft / chosen_B[row_P].sum()
        value = -(weight_B * said_B).sum()
        if len(inputs["chosen_K"]):
            gained_K = self.beta * (said_B[inputs["chosen_K"]] - said_B[inputs["rejected_K"]] - inputs["margin_K"])
            slope_K = self.beta * torch.sigmoid(-gained_K) / len(gained_K)
            weight_B = weight_B.index_add(0, inputs["chosen_K"], slope_K)
            weight_B = weight_B.index_add(0, inputs["rejected_K"], -slope_K)
            value = value - F.logsigmoid(gained_K).mean()
        weight_M = torch.zeros_like(inputs["weight_M"]).index_add(0, inputs["made_P"], weight_B[row_P])
        slope = head_loss(learned_M_D, head, inputs["target_M"], weight_M)
        self.losses.append(value.item())
        self.tokens += inputs["tokens"]
        return slope + (value - slope).detach()

    def _said(self, learned_M_D: Tensor, head: nn.Linear, inputs: dict[str, Any]) -> Tensor:
        """Return the log-probability of each answer, nats."""
        said_M = head_logps(learned_M_D.detach(), head, inputs["target_M"])
        said_B = torch.zeros(len(inputs["chosen_B"]), device=said_M.device)
        return said_B.index_add(0, inputs["row_P"], said_M[inputs["made_P"]])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _measured(self) -> dict[int, float]:
        """Return by how much the model as it is prefers what was chosen, nats, by row."""
        found: dict[int, float] = {}
        rows = [row for row in self.train_dataset if row["rejected_ids"]]
        size = self.args.per_device_train_batch_size
        for begin in range(0, len(rows), size):
            batch = rows[begin : begin + size]
            inputs = self._prepare_inputs(self._collate(batch))
            said_B = self._said(*self._predictions(inputs), inputs)
            margins = said_B[inputs["chosen_K"]] - said_B[inputs["rejected_K"]]
            found |= {row["index"]: margin for row, margin in zip(batch, margins.tolist(), strict=True)}
        return found


class DPO(SFT):
    """The method `dpo`."""

    name = "dpo"
    settings = DPOConfig
    trainer_class = FastDPOTrainer

    def trainer(self, *args: Any, **kwargs: Any) -> FastDPOTrainer:
        """See `SFT.trainer`."""
        made = super().trainer(*args, **kwargs)
        assert isinstance(made, FastDPOTrainer) and isinstance(self.config, DPOConfig)
        made.beta, made.sft = self.config.beta, self.config.sft
        return made

    def _columns(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        rejected = [list(row.rejected) for row in rows]
        return {**super()._columns(rows), "rejected_ids": rejected, "index": list(range(len(rows)))}
