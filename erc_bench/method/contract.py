"""The contract of a method: a LightningModule that says what it reads, learns and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from lightning import LightningModule
from torch import Tensor

from erc_bench.corpus.conversation import Dialogue, LabelSet
from erc_bench.encoders.locating import find_encoder
from erc_bench.method.config import MethodConfig
from erc_bench.method.data import ErcDataModule
from erc_bench.method.parts import PARTS, check_parts, output_in_parts
from erc_bench.method.reader import Batch, Reader


class ErcMethod(LightningModule):
    """Base class of all methods.

    A method sets ``Config``, ``context`` and ``reader`` and writes ``forward``, ``loss``,
    ``scores`` and ``configure_optimizers``. How a model is selected and evaluated is the same for
    all methods and none of its business.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """Its settings, defaults as in the paper."""
    context: Literal["past", "full"]
    """Whether predictions depend on later turns (``full``) or on ``past`` ones alone: a promise,
    which a test checks for every method of the suite."""
    trains: ClassVar[bool] = True
    """False: there is nothing to fit. It is evaluated, recorded and ranked like any other."""
    several_devices: ClassVar[bool] = True
    """False: it can't be trained on several devices as on one; such a run is refused."""
    gives_probabilities: bool = True
    """False: its scores say which emotion, not how probable each is; none are recorded then."""
    reader: Reader
    prepared_for: str = ""
    """Digest of the corpus that :meth:`prepare` was called with last; the framework keeps it."""

    def __init__(self, config: MethodConfig, labels: LabelSet) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self._parts_checked = False

    # --- what a method writes

    def forward(self, batch: Batch) -> Any:
        """The network, called once a batch; its output goes to ``loss`` and ``scores``.

        With several devices, or with micro-batches, it is called with parts of a training batch,
        and the outputs are joined: tensors along the first dimension, which has to be that of the
        examples or of their targets.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch).")

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar to minimise, ...}`` and whatever else is worth a curve."""
        raise NotImplementedError(f"{type(self).__name__} trains, so it needs a loss.")

    def scores(self, output: Any, batch: Batch) -> Tensor:
        """Logits ``(N, C)`` of the batch's targets: the highest is predicted, their softmax is the
        probability. A row of NaN is no answer: it counts as wrong and is reported.

        The output itself, if a method does not say otherwise.
        """
        return output

    # --- what a method may write

    def states(self, batch: Batch) -> Tensor:
        """What is classified of each target ``(N, d)``, in the order of ``scores``: what a network
        has before its last step. ``erc-bench encode`` gives it as the utterance's vector.

        A method that does not write it has no such state: a label's likelihood, say, is read off
        many.
        """
        raise NotImplementedError(f"{type(self).__name__} has no states(batch).")

    def anchors(self) -> Tensor | None:
        """What ``states`` are compared with by their angle ``(C, d)``, one an emotion; None where
        there is no such. ``erc-bench plot vectors`` shows it."""
        return None

    @classmethod
    def encoder_identity(cls, config: MethodConfig) -> dict[str, str]:
        """What turns text into vectors: its ``name``, and a ``digest`` of its weights."""
        name = config.encoder
        return {"name": name, "digest": find_encoder(name).digest if name else ""}

    @classmethod
    def further_corpora(cls, config: MethodConfig) -> tuple[str, ...]:
        """Names of corpora that it reads beside the run's own: what they hold tells runs apart."""
        return ()

    def prepare(self, data: ErcDataModule) -> None:
        """Before training or predicting: what is computed once from a corpus."""

    def further_dialogues(self, data: ErcDataModule) -> Sequence[Dialogue]:
        """Dialogues to train on beside the corpus's own; their labels are not looked at."""
        return ()

    def epoch_examples(self, data: ErcDataModule, epoch: int) -> np.ndarray | None:
        """Numbers of this epoch's training examples (epochs count from 0); None = all."""
        return None

    def after_epoch(self, data: ErcDataModule, epoch: int) -> None:
        """After the training batches of an epoch, before dev is scored."""

    def adapt(self, data: ErcDataModule, last_state: Callable[[], Mapping[str, Tensor]]) -> None:
        """A second stage of training, after the first, with its selected weights.

        ``last_state()`` reads what :meth:`saved_state` gave after the last epoch.
        """

    def extra_metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Percentages to record beside the emotion metrics: by name how many answers of the batch
        are right, and how many were asked for ``(2,)``."""
        return {}

    def recorded(self) -> dict[str, Any]:
        """Plain data to record beside the encoder's identity, once the method is trained."""
        return {}

    def run_files(self) -> dict[str, str]:
        """Text files that a run leaves beside its model, by name, once dev and test are
        predicted."""
        return {}

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the weights; all of them, if a method does not say less."""
        return self.state_dict()

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`saved_state` gave. A buffer may have grown since it was made."""
        for name, buffer in self.named_buffers():
            if name in state and buffer.shape != state[name].shape:
                buffer.resize_(state[name].shape)
        self.load_state_dict(state)

    # --- what Lightning calls

    def whole_output(self, batch: Batch, *further: Any) -> Any:
        """``forward(batch, *further)`` of a whole training batch, on however many devices.

        What a ``training_step`` of a method's own, or a loss that runs the network again, calls in
        the place of ``self(batch)``.
        """
        parts = batch.get(PARTS)
        if parts is None:
            return self(batch, *further)
        if not self._parts_checked:
            check_parts(self, batch)
            self._parts_checked = True
        return output_in_parts(self, parts, *further)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, with its parts logged."""
        parts = self.loss(self.whole_output(batch), batch)
        values = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch["labels"]))
        return parts["loss"]

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """``scores`` ``(N, C)``, and the ``loss`` where that selects."""
        output = self(batch)
        loss = self.loss(output, batch) if self.config.select_on == "loss" else {}
        return {"scores": self.scores(output, batch), "loss": loss.get("loss")}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``scores`` ``(N, C)`` and the counts of ``extra_metrics``."""
        output = self(batch)
        return {"scores": self.scores(output, batch), "extra": self.extra_metrics(output, batch)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """``states`` ``(N, d)`` of the targets, and their ``rows`` ``(N,)``."""
        return {"rows": batch["rows"], "states": self.states(batch).float()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.saved_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.load_saved_state(checkpoint["state_dict"])
        checkpoint["state_dict"] = self.state_dict()  # what Lightning then loads is all there
