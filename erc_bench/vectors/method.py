"""The base of methods that read a vector for every utterance instead of its text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erc_bench.corpus.conversation import LabelSet
from erc_bench.method.config import MethodConfig
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.vectors.config import FeatureConfig
from erc_bench.vectors.utterance_vectors import utterance_vectors, vector_size, vectors_identity


@dataclass
class VectorMethodConfig(MethodConfig):
    """Settings of a method on utterance vectors."""

    features: FeatureConfig = field(default_factory=FeatureConfig)  # the vectors of the utterances


class VectorMethod(ErcMethod):
    """A method on utterance vectors, which are in ``features`` when it trains and predicts.

    Attributes:
        features: the vectors of all turns of the corpus it was prepared for ``(rows, d)``; not in
            a checkpoint.
        present: which of those turns have one ``(rows,)``, on the CPU. A file may lack the vectors
            of unlabelled turns.
    """

    Config = VectorMethodConfig
    shards_encoder = False  # it trains none, apart from the fine-tuning that makes the vectors
    config: VectorMethodConfig
    features: Tensor
    present: Tensor
    encoder_key: Tensor

    def __init__(self, config: VectorMethodConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        # Names the fine-tuned encoder, so that it makes the vectors of new dialogues too.
        self.register_buffer("encoder_key", torch.zeros(32, dtype=torch.uint8))
        self.register_buffer("features", torch.empty(0, self.vector_size), persistent=False)
        self.present = torch.empty(0, dtype=torch.bool)
        self.fine_tuned_encoder: Path | None = None  # its folder, if it came with the weights
        self.fine_tuning: dict[str, Any] = {}  # where that encoder was trained, and how long

    @property
    def vector_size(self) -> int:
        """Length d of a vector."""
        return vector_size(self.config.encoder, self.config.features)

    @classmethod
    def encoder_identity(cls, config: MethodConfig) -> dict[str, str]:
        """The encoder, or the file of vectors that is read instead."""
        assert isinstance(config, VectorMethodConfig)
        return vectors_identity(config.encoder, config.features)

    def prepare(self, data: ErcDataModule) -> None:
        """Get the vectors of all turns."""
        found = utterance_vectors(
            data.corpus,
            self.config.encoder,
            self.config.features.of_run(data.seed),
            key=bytes(self.encoder_key.tolist()) if self.encoder_key.any() else None,
            fine_tuned=self.fine_tuned_encoder,
        )
        self.features = found.vectors.to(self.device)
        self.present = found.present
        self.fine_tuning = found.fine_tuning
        self.encoder_key = torch.tensor(list(found.key), dtype=torch.uint8, device=self.device)

    def recorded(self) -> dict[str, Any]:
        """A digest of the vectors, which tells fine-tunings of one encoder apart; and what is known
        about the fine-tuning."""
        vectors = hashlib.sha256(self.features.cpu().numpy().tobytes()).hexdigest()
        return {"vectors": vectors} | (
            {"fine_tuning": self.fine_tuning} if self.fine_tuning else {}
        )
