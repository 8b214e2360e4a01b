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
    ``scores`` and ``configure_optimizers``. The framework selects and evaluates the model, in the
    same way for all methods.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """The class of its settings, with the paper's values as defaults."""
    context: Literal["past", "full"]
    """Whether predictions may depend on later turns (``full``) or on ``past`` ones alone. A test
    checks this for every method of the suite."""
    trains: ClassVar[bool] = True
    """False if there is nothing to fit. It is evaluated, recorded and ranked like any other."""
    several_devices: ClassVar[bool] = True
    """False if it can't be trained on several devices as on one; such a run is refused."""
    shards_encoder: ClassVar[bool] = True
    """False if the weights of its encoder can't be shared out among devices (``--strategy fsdp``):
    it trains none, or devices call it unequally often. Such a run is refused."""
    gives_probabilities: bool = True
    """False if its scores say which emotion, not how probable each is; none are recorded then."""
    reader: Reader
    prepared_for: str = ""
    """Digest of the corpus that :meth:`prepare` was called with last; set by the framework."""

    def __init__(self, config: MethodConfig, labels: LabelSet) -> None:
        super().__init__()
        self.config = config
        self.labels = labels
        self._parts_checked = False

    # --- what a method writes

    def forward(self, batch: Batch) -> Any:
        """Run the network, once per batch; its output goes to ``loss`` and ``scores``.

        With several devices, or with micro-batches, it is called with parts of a training batch,
        and the outputs are joined. Tensors are joined along their first dimension, which must be
        that of the examples or of their targets.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch).")

    def loss(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar to minimise, ...}``; everything else in it is logged as a curve too."""
        raise NotImplementedError(f"{type(self).__name__} trains, so it needs a loss.")

    def scores(self, output: Any, batch: Batch) -> Tensor:
        """Logits ``(N, C)`` of the batch's targets; by default, the output itself.

        The highest logit is the prediction, and their softmax is the probability. A row of NaN
        means that there is no answer: it counts as wrong and is reported.
        """
        return output

    # --- what a method may write

    def states(self, batch: Batch) -> Tensor:
        """The state of each target that is classified ``(N, d)``, in the order of ``scores``.

        It is what the network has before its last step. ``erc-bench encode`` writes it as the
        utterance's vector. A method without such a state does not write this: a label's likelihood,
        for example, is read off many states.
        """
        raise NotImplementedError(f"{type(self).__name__} has no states(batch).")

    def anchors(self) -> Tensor | None:
        """The vectors that ``states`` are compared with by angle, one per emotion ``(C, d)``.

        None if there are none. ``erc-bench plot vectors`` shows them.
        """
        return None

    @classmethod
    def encoder_identity(cls, config: MethodConfig) -> dict[str, str]:
        """The ``name`` of what turns text into vectors, and a ``digest`` of its weights."""
        name = config.encoder
        return {"name": name, "digest": find_encoder(name).digest if name else ""}

    @classmethod
    def further_corpora(cls, config: MethodConfig) -> tuple[str, ...]:
        """Names of corpora read besides the run's own; their contents also tell runs apart."""
        return ()

    def prepare(self, data: ErcDataModule) -> None:
        """Compute what is needed once per corpus; called before training or predicting."""

    def further_dialogues(self, data: ErcDataModule) -> Sequence[Dialogue]:
        """Dialogues to train on besides the corpus's own; their labels are ignored."""
        return ()

    def epoch_examples(self, data: ErcDataModule, epoch: int) -> np.ndarray | None:
        """Numbers of this epoch's training examples (epochs count from 0); None = all."""
        return None

    def after_epoch(self, data: ErcDataModule, epoch: int) -> None:
        """Called after the training batches of an epoch, before dev is scored."""

    def adapt(self, data: ErcDataModule, last_state: Callable[[], Mapping[str, Tensor]]) -> None:
        """A second stage of training, which starts with the selected weights of the first.

        ``last_state()`` returns what :meth:`saved_state` gave after the last epoch.
        """

    def extra_metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Counts for percentages that are recorded beside the emotion metrics, by name.

        Each holds how many answers of the batch are right, and how many were asked for ``(2,)``.
        """
        return {}

    def recorded(self) -> dict[str, Any]:
        """Plain data to record beside the encoder's identity, once the method is trained."""
        return {}

    def run_files(self) -> dict[str, str]:
        """The texts of files that a run leaves beside its model, by file name; called once dev and
        test are predicted."""
        return {}

    def saved_state(self) -> dict[str, Tensor]:
        """The weights that a checkpoint holds; by default, all of them."""
        return self.state_dict()

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`saved_state` gave; a buffer of another size is resized first."""
        for name, buffer in self.named_buffers():
            if name in state and buffer.shape != state[name].shape:
                buffer.resize_(state[name].shape)
        self.load_state_dict(state)

    # --- what Lightning calls

    def whole_output(self, batch: Batch, *further: Any) -> Any:
        """``forward(batch, *further)`` of a whole training batch, on any number of devices.

        A method's own ``training_step``, or a loss that runs the network again, must call this
        instead of ``self(batch)``.
        """
        parts = batch.get(PARTS)
        if parts is None:
            return self(batch, *further)
        if not self._parts_checked:
            check_parts(self, batch)
            self._parts_checked = True
        return output_in_parts(self, parts, *further)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss; its parts are logged."""
        parts = self.loss(self.whole_output(batch), batch)
        values = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch["labels"]))
        return parts["loss"]

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """``scores`` ``(N, C)``, and the ``loss`` if that selects the epoch."""
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
        checkpoint["state_dict"] = self.state_dict()  # Lightning then loads a complete state
