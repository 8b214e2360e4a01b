"""Plain fine-tuning: the control that every other method must beat.

It has the input of EACL (past turns, then a query with a mask for the emotion), a linear layer on
the mask's state, and cross-entropy. It has nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.encoders.loading import in_float32, load_encoder
from erc_bench.encoders.optimisation import adamw, linear_warmup
from erc_bench.method import Batch, ErcMethod, LabelSet, MethodConfig
from erc_bench.method.config import above, added_later, at_least, between_0_and_1

from .prompts import MOST_TURNS, AnchorReader, prompt_states


@dataclass
class FinetuneConfig(MethodConfig):
    """Hyper-parameters of plain fine-tuning, for a large encoder."""

    encoder: str = "princeton-nlp/sup-simcse-roberta-large"  # hub id or folder
    epochs: int = 5
    batch_size: int = 32
    max_len: int = 256  # tokens of context and query
    dropout: float = 0.1  # before the linear layer
    encoder_lr: float = 1e-5  # highest learning rate of the encoder
    lr: float = 4e-4  # highest learning rate of the linear layer
    warmup: float = 0.1  # share of the steps in which the rates rise, before they fall to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    window: int = added_later(MOST_TURNS)  # past turns at most; -1 = as many as fit

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 16, "max_len")
        at_least(self, 0, "weight_decay")
        at_least(self, -1, "window")
        between_0_and_1(self, "dropout", "warmup")
        above(self, 0, "encoder_lr", "lr")


class Finetune(ErcMethod):
    """An encoder and a linear layer, trained by cross-entropy."""

    Config = FinetuneConfig
    context: Literal["past", "full"] = "past"
    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = AnchorReader(config.encoder, config.max_len, window=config.window)
        self.encoder = load_encoder(config.encoder, config.max_len)
        size = self.encoder.config.hidden_size
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(size, len(labels)))

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``, in float32 even under autocast: in a smaller type many are equal."""
        return in_float32(self.head, self.states(batch))

    def states(self, batch: Batch) -> Tensor:
        """The encoder's state at the token that is read ``(B, d)``."""
        return prompt_states(self.encoder, batch)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(output, batch["labels"])}

    def configure_optimizers(self) -> Any:
        """AdamW; both learning rates rise linearly, then fall linearly to 0."""
        optimizer = adamw(self, self.encoder, self.config.encoder_lr)
        return [optimizer], [linear_warmup(self, optimizer, self.config.warmup)]
