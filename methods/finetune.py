"""Plain fine-tuning: the control that every other method must beat.

The input of EACL (what was said before, then what the speaker feels: a mask), a linear layer on the
mask's state, cross-entropy. Nothing else, so that what another method gains over it is what that
method adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.corpus.conversation import Dialogue, LabelSet
from erc_bench.encoders.loading import in_float32, load_encoder, load_tokenizer
from erc_bench.encoders.optimisation import adamw, linear_warmup
from erc_bench.method.config import MethodConfig, above, at_least, shares
from erc_bench.method.contract import Batch, ErcMethod, Example
from erc_bench.method.ragged import Columns

from .prompts import anchor_examples, collate_prompts, mask_states


@dataclass
class FinetuneConfig(MethodConfig):
    """Hyper-parameters of plain fine-tuning, for a large encoder."""

    epochs: int = 5
    batch_size: int = 32
    max_len: int = 256  # tokens of context and query
    dropout: float = 0.1  # before the linear layer
    encoder_lr: float = 1e-5  # highest learning rate of the encoder
    lr: float = 4e-4  # highest learning rate of the linear layer
    warmup: float = 0.1  # share of the steps in which the rates rise, before they fall to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 16, "max_len")
        at_least(self, 0, "weight_decay")
        shares(self, "dropout", "warmup")
        above(self, 0, "encoder_lr", "lr")


class Finetune(ErcMethod):
    """An encoder and a linear layer, trained by cross-entropy."""

    Config = FinetuneConfig
    context = "past"
    input_settings = ("encoder", "max_len")
    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.tokenizer = load_tokenizer(config.encoder)
        self.encoder = load_encoder(config.encoder, config.max_len)
        size = self.encoder.config.hidden_size
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(size, len(labels)))

    def examples(self, dialogue: Dialogue, training: bool = False) -> list[Example]:
        """One example per labelled turn: ``input_ids``."""
        return anchor_examples(self.tokenizer, dialogue, self.config.max_len)

    def collate(self, examples: Columns) -> Batch:
        """``input_ids``, ``attention_mask`` ``(B, L)`` and ``positions`` ``(B,)``."""
        return collate_prompts(examples, self.tokenizer)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(self.scores(batch), batch["labels"])}

    def scores(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``, in float32 also under autocast: in a smaller type many are equal."""
        return in_float32(self.head, mask_states(self.encoder, batch))

    def configure_optimizers(self) -> Any:
        """AdamW; both learning rates rise linearly, then fall linearly to 0."""
        optimizer = adamw(self, self.encoder, self.config.encoder_lr)
        return [optimizer], [linear_warmup(self, optimizer, self.config.warmup)]
