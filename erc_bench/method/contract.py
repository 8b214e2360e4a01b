"""The contract of a method: a LightningModule that says what it reads, learns and answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from erc_bench.corpus.conversation import Dialogue, LabelSet
from erc_bench.encoders.locating import find_encoder
from erc_bench.evaluation.metrics import Predictions, weighted_f1
from erc_bench.method.config import MethodConfig
from erc_bench.method.ragged import Columns
from erc_bench.progress import track

if TYPE_CHECKING:
    from erc_bench.method.datamodule import ErcDataModule

Example = Mapping[str, Any]
"""``targets``: positions of the turns it is about; the rest are numbers, lists of numbers, or
lists of lists of numbers, every example with the same keys. Labels are added by the framework."""

Batch = dict[str, Any]
"""What ``collate`` made, ``labels`` ``(N,)`` and ``rows`` ``(N,)``: one entry for every target, in
the order of the examples and of the targets inside an example."""


class ErcMethod(LightningModule):
    """Base class of all methods.

    A method sets ``Config`` and ``context`` and writes ``examples``, ``collate``, ``loss`` and
    ``scores``, and ``configure_optimizers`` as in any LightningModule. Selection and evaluation are
    not its business: they are the same for all.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """Its hyper-parameters, defaults as in the paper."""
    context: Literal["past", "full"]
    """Whether a prediction depends on later turns of the dialogue (``full``). Of the class, or of
    an instance where a setting decides it."""
    input_settings: ClassVar[tuple[str, ...]] = ("encoder",)
    """The settings that ``examples`` depends on: its results are cached under their values."""
    bucketed: ClassVar[bool] = True
    """Whether training batches hold examples of similar length. Not where an example is a dialogue:
    its weight in a mean over a batch's utterances would depend on its length."""

    def __init__(self, config: MethodConfig, labels: LabelSet) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self.predictions: dict[str, Predictions] = {}

    # --- what a method writes ---

    @abstractmethod
    def examples(self, dialogue: Dialogue, training: bool = False) -> list[Example]:
        """Model inputs of one dialogue, about its labelled turns. No torch, no state.

        Examples for which ``training`` is needed exist in the training split only.
        """

    @abstractmethod
    def collate(self, examples: Columns) -> Batch:
        """Examples as columns → tensors, padded to the longest row of the batch.

        A column of numbers is an array ``(B,)``; of lists, a
        :class:`erc_bench.method.ragged.Ragged` with ``pad``. The framework adds ``dialogue`` (its
        number in the split) and ``first_row`` (the
        row of its first turn) ``(B,)`` to the columns.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar to minimise, ...}`` and whatever else is worth a curve."""

    @abstractmethod
    def scores(self, batch: Batch) -> Tensor:
        """Logits ``(N, C)`` of the batch's targets: the highest is predicted, and their softmax is
        the method's probability."""

    # --- what a method may write ---

    def prepare(self, datamodule: ErcDataModule) -> None:
        """Before fitting or predicting: what is computed once from a corpus (cached features)."""

    def epoch_examples(self, datamodule: ErcDataModule, epoch: int) -> np.ndarray | None:
        """The training examples of this epoch, as indices; None = all. Called on the device."""
        return None

    def adapt(self, datamodule: ErcDataModule, last: Path) -> None:
        """After fitting, with the selected weights: a second stage of training.

        ``last`` is the checkpoint of the last epoch.
        """

    def extra_metrics(self, datamodule: ErcDataModule, split: str) -> dict[str, float]:
        """Further figures for the record, beside the emotion metrics."""
        return {}

    def encoder_identity(self) -> dict[str, Any]:
        """What turns text into vectors, for the record: ``name``, ``digest``, and whatever else
        tells two of them apart."""
        name = self.config.encoder
        return {"name": name, "digest": find_encoder(name).digest if name else ""}

    # --- the thin framework layer ---

    @torch.no_grad()
    def encode(
        self,
        datamodule: ErcDataModule,
        split: str,
        function: Callable[[Batch], Tensor],
        examples: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``function(batch)`` ``(B, …)`` in eval mode for examples with one target each.

        Returns its values in float32 and the labels ``(N,)``, in the order of ``examples`` (all).
        """
        training = self.training
        self.eval()
        loader = datamodule.evaluation_loader(split, examples)
        batches = track(loader, f"Encoding {split}")
        values, labels = [], []
        with self.trainer.precision_plugin.forward_context():
            for batch in batches:
                batch = self.trainer.strategy.batch_to_device(batch)
                values.append(function(batch).float())
                labels.append(batch["labels"])
        self.train(training)
        order = torch.from_numpy(np.argsort(np.concatenate(list(loader.sampler))))
        if examples is not None:
            order = order[np.argsort(np.argsort(examples))]
        return torch.cat(values)[order], torch.cat(labels)[order]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, with its parts logged."""
        parts = self.loss(batch)
        values = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch["labels"]))
        return parts["loss"]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *closure: Any) -> None:
        """Step, and let go of the gradients: Lightning keeps them through the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, *closure)
        optimizer.zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm; Lightning itself refuses to with a fused optimiser."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _evaluation_step(self, batch: Batch, split: str) -> None:
        self.predictions.setdefault(split, Predictions().to(self.device)).update(
            batch["rows"], self.scores(batch)
        )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores of dev (and, for the oracle gap only, of test)."""
        split = ("dev", "test")[dataloader_idx]
        self._evaluation_step(batch, split)
        if split == "dev" and self.config.select_on == "loss":
            value = self.loss(batch)["loss"]
            size = len(batch["labels"])
            self.log("dev/loss", value, batch_size=size, sync_dist=True, add_dataloader_idx=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores of the split that is being tested."""
        self._evaluation_step(batch, self.trainer.datamodule.tested)  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        """Log weighted-F1 of what was scored, the figure that selects."""
        datamodule: ErcDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        for split in list(self.predictions):
            rows, scores = self.take_predictions(split)
            value = weighted_f1(scores.argmax(dim=1), datamodule.gold[rows], len(self.labels))
            self.log(f"{split}/weighted_f1", value, prog_bar=True, add_dataloader_idx=False)

    def take_predictions(self, split: str) -> tuple[Tensor, Tensor]:
        """Rows ``(N,)`` in corpus order and scores ``(N, C)``; they are forgotten here."""
        rows, scores = self.predictions.pop(split).compute()
        return rows.reshape(-1), scores  # torchmetrics squeezes a single row
