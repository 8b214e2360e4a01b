"""The settings of utterance vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from erc_bench.errors import ErcBenchError
from erc_bench.method.config import above, at_least, between_0_and_1


@dataclass
class FeatureConfig:
    """How the vectors of the utterances are made, or where they are read."""

    path: str = ""  # file of vectors (`erc-bench encode`) to be read instead; "" = fine-tune
    layer: int = 1  # of a `path` in COSMIC's layout: which of its four vectors, 1 … 4
    size: int = 1024  # of a `path` in COSMIC's layout: length of its vectors
    epochs: int = 10  # passes over the training utterances; 0 = the pre-trained encoder as it is
    max_batches: int = 0  # fine-tune on so many batches an epoch at most; 0 = all
    batch_size: int = 32  # utterances per batch
    max_len: int = 128  # tokens of an utterance
    dropout: float = 0.1  # in the classifier that is thrown away afterwards
    lr: float = 1e-5  # highest learning rate
    warmup: float = 0.06  # share of the steps in which the rate rises, before it falls to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the fine-tuning
    seed: int = 0  # of the fine-tuning, whatever the seed of the run

    def __post_init__(self) -> None:
        own = {"within": "features."}
        at_least(self, 1, "layer", "size", "batch_size", **own)
        at_least(self, 4, "max_len", **own)
        at_least(self, 0, "epochs", "max_batches", "weight_decay", "seed", **own)
        between_0_and_1(self, "dropout", "warmup", **own)
        above(self, 0, "lr", **own)
        if self.layer > 4:
            raise ErcBenchError(f"The setting features.layer={self.layer} must be one of 1 … 4.")
