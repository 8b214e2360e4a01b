"""The settings of utterance vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from erc_bench.errors import ErcBenchError
from erc_bench.method.config import above, added_later, at_least, between_0_and_1

OF_A_FILE = ("path", "layer", "size")
"""The settings of vectors that are read from a file."""


@dataclass
class FeatureConfig:
    """How the vectors of the utterances are made, or where they are read."""

    path: str = ""  # file of vectors (`erc-bench encode`) to read instead; "" = fine-tune
    layer: int = 1  # of a `path` in COSMIC's layout: which of its four vectors, 1 … 4
    size: int = 1024  # of a `path` in COSMIC's layout: length of its vectors
    epochs: int = 10  # passes over the training utterances; 0 = the pre-trained encoder as it is
    max_batches: int = 0  # most batches per epoch of the fine-tuning; 0 = all
    batch_size: int = 32  # utterances per batch
    max_len: int = 128  # tokens of an utterance
    dropout: float = 0.1  # in the classifier that is thrown away afterwards
    lr: float = 1e-5  # highest learning rate
    warmup: float = 0.06  # share of the steps in which the rate rises, before it falls to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the fine-tuning
    seed: int = 0  # of the fine-tuning, the same for every seed of the run
    # fine-tune for every seed of a run, with the run's seed added to `seed`
    per_seed: bool = added_later(False)

    def __post_init__(self) -> None:
        own = {"within": "features."}
        at_least(self, 1, "layer", "size", "batch_size", **own)
        at_least(self, 4, "max_len", **own)
        at_least(self, 0, "epochs", "max_batches", "weight_decay", "seed", **own)
        between_0_and_1(self, "dropout", "warmup", **own)
        above(self, 0, "lr", **own)
        if self.layer > 4:
            raise ErcBenchError(f"The setting features.layer={self.layer} must be one of 1 … 4.")
        if self.per_seed and (self.path or not self.epochs):
            other = f"features.path={self.path}" if self.path else "features.epochs=0"
            why = "reads a file instead" if self.path else "takes it as it is"
            raise ErcBenchError(
                "With features.per_seed=true every seed fine-tunes the encoder, but "
                f"{other} {why}. Leave out one of the two."
            )

    def of_run(self, seed: int) -> FeatureConfig:
        """The settings for a run with this seed; ``per_seed`` adds it to the fine-tuning's seed."""
        return replace(self, seed=self.seed + seed, per_seed=False) if self.per_seed else self

    def of_fine_tuning(self) -> dict[str, Any]:
        """The settings that a fine-tuned encoder's vectors depend on, by name."""
        return {k: v for k, v in asdict(self).items() if k not in (*OF_A_FILE, "per_seed")}
