"""SACL-LSTM: Supervised Adversarial Contrastive Learning (Hu et al., ACL 2023, 2306.01505).

Every utterance is a vector of an encoder fine-tuned without context (``erc_bench.vectors``). Two
bidirectional LSTMs read these vectors: one reads the dialogue (the situation), the other each
speaker's own utterances. They are trained by a focal loss and a supervised contrastive loss.
Contextual adversarial training repeats every step with the LSTMs' input weights moved so that the
loss rises.

Where the authors' code departs from sound practice:

================================================  =============================================
the authors' code                                 here
================================================  =============================================
padded steps run through both LSTMs, so that a    packed sequences; ``pad_through=true``
prediction depends on what else is in the batch
IEMOCAP: selects on test, random tenth as dev     dev, as everywhere
the first window of an epoch accumulates one      ordinary accumulation
batch more
================================================  =============================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from erc_bench.errors import ErcBenchError
from erc_bench.method import Batch, Columns, ErcDataModule, LabelSet, Ragged, devices
from erc_bench.method.config import SelectOn, above, added_later, at_least, between_0_and_1

from .dialogues import DialogueConfig, DialogueMethod, DialogueReader


@dataclass
class SACLConfig(DialogueConfig):
    """Hyper-parameters of SACL-LSTM; defaults as in the paper for MELD."""

    epochs: int = 100  # passes over the training split
    accumulate: int = 2  # batches per optimiser step; their gradients are added
    gradient_clip: float = 0.0  # largest gradient norm; 0 = no clipping
    patience: int = 20  # epochs without improvement on dev before stopping; 0 = never
    select_on: SelectOn = "loss"  # the dev metric that selects the epoch
    hidden_size: int = 128  # of each direction of both LSTMs
    layers: int = 1  # of both LSTMs
    dropout: float = 0.2  # between the layers and before the classifier
    weight_decay: float = 2e-4  # L2 penalty of Adam
    gamma: float = 1.0  # γ, how strongly the focal loss prefers utterances that are not yet right
    class_weights: Literal["none", "inverse", "log_inverse"] = "none"  # α, from counts in train
    temperature: float = 0.1  # t of the contrastive loss
    contrastive_weight: float = 0.1  # w, of the contrastive loss
    adversarial_contrastive_weight: float = 0.05  # w2, the same in the adversarial pass
    contrast_on: Literal["log_probs", "hidden"] = "log_probs"  # what the contrastive loss compares
    epsilon: float = 5.0  # ε, how far each weight matrix is moved
    at_rate: float = 1.0  # share of the batches with an adversarial pass
    situ_rate: float = 0.0  # share of those that move only the situation LSTM
    speaker_rate: float = 0.0  # share of those that move only the speaker LSTM; others: both
    at_layer: Literal["first", "last"] = "first"  # the layer that is moved
    pad_through: bool = False  # run padded steps through the LSTMs, as the authors do
    # what the adversarial pass moves: the LSTMs' input weights, or their inputs (no context)
    attack: Literal["weights", "vectors"] = added_later("weights")
    speaker_lstm: bool = added_later(True)  # false = the situation LSTM alone

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "layers")
        at_least(self, 0, "gamma", "epsilon")
        at_least(self, 0, "contrastive_weight", "adversarial_contrastive_weight")
        between_0_and_1(self, "at_rate", "situ_rate", "speaker_rate")
        above(self, 0, "temperature")
        if self.situ_rate + self.speaker_rate > 1:
            raise ErcBenchError(
                f"situ_rate + speaker_rate={self.situ_rate + self.speaker_rate:g} are shares of "
                "the same batches: together they must be 1 at most."
            )
        if self.pad_through and self.micro_batch:
            raise ErcBenchError(
                f"pad_through=true pads each dialogue to the longest one of its batch, and "
                f"micro_batch={self.micro_batch} computes a part of the batch at a time. Leave one "
                "of them out."
            )


class DualLSTM(nn.Module):
    """The network: a situation LSTM, a speaker LSTM, and a linear classifier over both.

    Args:
        size: length d of an utterance's vector.
        classes: C.
        hidden_size: h, of each direction.
        layers: of both LSTMs.
        dropout: between layers and before the classifier.
        with_speaker: False = the situation LSTM alone, with the same initial weights.
    """

    speaker: nn.LSTM | None

    def __init__(
        self,
        size: int,
        classes: int,
        hidden_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        with_speaker: bool = True,
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        options: dict[str, Any] = {"num_layers": layers, "dropout": between, "bidirectional": True}
        self.situation = nn.LSTM(size, hidden_size, **options)
        self.speaker = nn.LSTM(size, hidden_size, **options) if with_speaker else None
        read = (4 if with_speaker else 2) * hidden_size
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(read, classes))

    def forward(
        self, features: Tensor, situation: PackedSequence, speaker: PackedSequence
    ) -> Tensor:
        """States ``u = [situation ; speaker]`` ``(T, 4h)`` of turns, from vectors ``(T, d)``.

        Without the speaker LSTM they are ``(T, 2h)``. The sequences hold numbers of turns, or T for
        a padded step; see :func:`sequences`.
        """
        features = F.pad(features, (0, 0, 0, 1))  # padded steps read this row and write to it
        read = [_read(self.situation, features, situation)]
        if self.speaker is not None:
            read.append(_read(self.speaker, features, speaker))
        return torch.cat(read, dim=1)[:-1]

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities ``(N, C)`` of turns, from their states ``(N, 4h)``."""
        return self.head(hidden).float().log_softmax(dim=1)

    def input_parameters(self, lstm: str, layer: str) -> list[nn.Parameter]:
        """Input weights and biases of an LSTM's ``first`` or ``last`` layer, both directions."""
        module: nn.LSTM = getattr(self, lstm)
        k = 0 if layer == "first" else module.num_layers - 1
        names = [f"{kind}_ih_l{k}{way}" for way in ("", "_reverse") for kind in ("weight", "bias")]
        return [getattr(module, name) for name in names]


def _read(lstm: nn.LSTM, features: Tensor, turns: PackedSequence) -> Tensor:
    """States ``(T, 2h)`` of all turns; 0 for turns that are not in the packed batch."""
    if not len(turns.data):
        return features.new_zeros(len(features), 2 * lstm.hidden_size)
    device = features.device.type
    # PyTorch has no LSTM in bfloat16 for a CPU without AVX-512: sequences of one length fail there.
    able = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.autocast(device, enabled=able and torch.is_autocast_enabled(device)):
        states = lstm(PackedSequence(features[turns.data], turns.batch_sizes))[0].data
    empty = states.new_zeros(len(features), states.shape[1])
    return empty.index_copy(0, turns.data, states)


def sequences(turns: Ragged, pad_to: int = 0, pad: int = 0) -> PackedSequence:
    """Sequences of turn numbers as one packed batch, the longest first.

    Args:
        turns: the numbers of each sequence's turns, in the order they were spoken.
        pad_to: pad every sequence to this length with ``pad``; 0 = no padding.
    """
    if pad_to:
        padded = np.full((len(turns), pad_to), pad)
        padded[turns.row_of_value, turns.position_in_row] = turns.values
        turns = Ragged(padded.ravel(), np.arange(len(turns) + 1) * pad_to)
    sequence, step = turns.row_of_value, turns.position_in_row
    order = np.lexsort((sequence, -turns.lengths[sequence], step))
    # The number of sequences longer than t is the number of turns at step t.
    batch_sizes = torch.from_numpy(np.bincount(step))
    return PackedSequence(torch.from_numpy(np.asarray(turns.values)[order]), batch_sizes)


def speaker_turns(turns: np.ndarray, dialogues: np.ndarray, speakers: np.ndarray) -> Ragged:
    """The turns, in order, of each speaker who has two or more in a dialogue.

    Args:
        turns: numbers of the turns ``(T,)``, rising.
        dialogues: the dialogue of each ``(T,)``.
        speakers: the speaker of each ``(T,)``, numbered in its dialogue.
    """
    of_whom = dialogues * (speakers.max(initial=0) + 1) + speakers
    order = np.argsort(of_whom, kind="stable")
    _, group, lengths = np.unique(of_whom[order], return_inverse=True, return_counts=True)
    several = lengths >= 2
    return Ragged(turns[order][several[group]], np.concatenate([[0], np.cumsum(lengths[several])]))


def focal_loss(log_probs: Tensor, labels: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """``Σ −(1 − p_y)^γ · α_y · log p_y`` over utterances ``(N, C)``; the factor has no gradient."""
    own = log_probs.gather(1, labels[:, None]).squeeze(1)
    factor = (1 - own.detach().exp()).clamp(min=0) ** gamma
    return -(factor * weights[labels] * own).sum()


def nt_xent(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised NT-Xent of vectors ``(N, d)`` (Hu et al. 2023, section 3.2).

    The term of an ordered pair (i, j) of the same label is ``−log(p / (p + Σ_k e^{s_ik/t}))`` with
    ``p = e^{s_ij/t}``. s is the cosine, and k runs over the vectors of other labels. The loss is
    the mean over the pairs, or 0 if there are no pairs or no other labels. The sum over k is the
    same for all pairs of a row, so N×N numbers are enough.
    """
    with torch.autocast(x.device.type, enabled=False):
        unit = F.normalize(x.float(), dim=1)
        scores = unit @ unit.T / temperature
    same = labels[:, None] == labels
    own = torch.eye(len(labels), dtype=torch.bool, device=x.device)
    # The lowest finite number, since the gradient of a row with nothing but −inf would be nan.
    lowest = torch.finfo(scores.dtype).min
    others = scores.masked_fill(same, lowest).logsumexp(dim=1, keepdim=True)
    pairs = same & ~own
    return (F.softplus(others - scores) * pairs).sum() / pairs.sum().clamp(min=1)


def sacl_loss(
    hidden: Tensor,
    log_probs: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    class_weights: Tensor,
    temperature: float,
    contrastive_weight: float,
    contrast_on: str,
) -> dict[str, Tensor]:
    """``Σ focal + w · N · NT-Xent`` over the N labelled utterances of a batch, and its parts."""
    focal = focal_loss(log_probs, labels, gamma, class_weights)
    contrast = nt_xent(hidden if contrast_on == "hidden" else log_probs, labels, temperature)
    loss = focal + contrastive_weight * len(labels) * contrast
    return {"loss": loss, "focal": focal, "contrastive": contrast}


@contextlib.contextmanager
def moved(parameters: list[nn.Parameter], along: list[Tensor], epsilon: float) -> Iterator[None]:
    """Move each parameter by ``ε·g/‖g‖`` inside the context, and restore it afterwards."""
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, along, strict=True):
            norm = torch.linalg.vector_norm(g)
            p.add_(g * torch.where(norm > 0, epsilon / norm, 0.0))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)


def adversarial_backward(
    clean: Tensor,
    adversarial: Callable[[], Tensor],
    attacked: list[nn.Parameter],
    others: list[nn.Parameter],
    epsilon: float,
    backward: Callable[..., Any] = Tensor.backward,
) -> None:
    """Add the gradients of contextual adversarial training (Hu et al. 2023, section 3.3).

    The clean pass adds to the gradients of all parameters. Then the attacked ones are moved along
    the gradient of the clean pass alone, and the adversarial pass adds to the gradients of the
    others. The attacked ones keep the gradients that they have from the clean pass.

    Args:
        clean: loss of the clean pass.
        adversarial: runs the forward pass again and returns its loss.
        attacked: parameters to be moved; those without a gradient are left alone.
        others: all other parameters.
        backward: ``backward(loss, inputs=...)``.
    """
    before = [None if p.grad is None else p.grad.clone() for p in attacked]
    backward(clean)
    known = [(p, old) for p, old in zip(attacked, before, strict=True) if p.grad is not None]
    along = [p.grad if old is None else p.grad - old for p, old in known]  # type: ignore[operator]
    with moved([p for p, _ in known], along, epsilon):  # type: ignore[arg-type]
        backward(adversarial(), inputs=others)


class SequenceReader(DialogueReader):
    """Whole dialogues, and the sequence of each speaker's own turns.

    Args:
        pad_through: make all sequences of a batch equally long (see :func:`sequences`).
    """

    def __init__(self, pad_through: bool) -> None:
        super().__init__()
        self.pad_through = pad_through

    def collate(self, columns: Columns) -> Batch:
        """The rows ``turns`` ``(T,)``, ``targets`` ``(N,)`` among them, and the packed sequences.

        ``situation`` and ``speaker`` are sequences of numbers of turns; see :func:`sequences`.
        """
        speakers, targets = columns["speakers"], columns["targets"]
        assert isinstance(speakers, Ragged)
        assert isinstance(targets, Ragged)
        dialogues = speakers.row_of_value
        rows = np.asarray(columns["first_row"])[dialogues] + speakers.position_in_row
        present = np.flatnonzero(self.has_vector[rows])
        counts = np.bincount(dialogues[present], minlength=len(speakers))
        whole = Ragged(present, np.concatenate([[0], np.cumsum(counts)]))
        own = speaker_turns(present, dialogues[present], np.asarray(speakers.values)[present])
        pad_to = int(counts.max()) if self.pad_through else 0
        return {
            "turns": torch.from_numpy(rows),
            "targets": torch.from_numpy(speakers.offsets[targets.row_of_value] + targets.values),
            "situation": sequences(whole, pad_to, len(rows)),
            "speaker": sequences(own, pad_to, len(rows)),
        }


Output = tuple[Tensor, Tensor]
"""States ``u`` ``(N, 4h)`` and log-probabilities ``(N, C)`` of a batch's targets."""


class SACLLSTM(DialogueMethod):
    """Supervised adversarial contrastive learning over a Dual-LSTM."""

    Config = SACLConfig
    context = "full"
    config: SACLConfig
    reader: SequenceReader
    network: DualLSTM
    class_weights: Tensor

    def __init__(self, config: SACLConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        # A step has two losses and two backward passes.
        self.automatic_optimization = False
        self.reader = SequenceReader(config.pad_through)
        self.network = DualLSTM(
            self.vector_size,
            len(labels),
            config.hidden_size,
            config.layers,
            config.dropout,
            config.speaker_lstm,
        )
        self.register_buffer("class_weights", torch.ones(len(labels)))

    def prepare(self, data: ErcDataModule) -> None:
        """Get the vectors of all turns, and compute the class weights from train.

        Raises:
            ErcBenchError: ``pad_through`` is asked for on several devices.
        """
        if self.config.pad_through and devices.position().count > 1:
            raise ErcBenchError(
                "pad_through=true pads each dialogue to the longest one of its batch, and several "
                "devices compute parts of the batch. Leave --devices out."
            )
        super().prepare(data)
        trained = self.class_weights.ne(1).any()
        if self.config.class_weights != "none" and "train" in data.splits and not trained:
            gold = data.gold[data.rows("train")]
            counts = torch.bincount(gold, minlength=len(self.labels)).clamp(min=1)
            inverse = len(gold) / counts.float()
            if self.config.class_weights == "log_inverse":
                inverse = inverse.log()
            self.class_weights = inverse.to(self.device)

    def forward(self, batch: Batch, own: tuple[Tensor, Tensor] | None = None) -> Output:
        """States and log-probabilities of the targets.

        ``own`` replaces the stored vectors: rows of turns ``(T,)``, those of the batch among them,
        and their vectors ``(T, d)``.
        """
        turns = batch["turns"]
        if own is None:
            vectors = self.features[turns]
        else:
            vectors = own[1][(turns[:, None] == own[0]).int().argmax(dim=1)]
        hidden = self.network(vectors, batch["situation"], batch["speaker"])[batch["targets"]]
        return hidden, self.network.log_probs(hidden)

    def loss(
        self, output: Output, batch: Batch, contrastive_weight: float | None = None
    ) -> dict[str, Tensor]:
        """The paper's loss divided by the number of utterances, so that batches are comparable."""
        hidden, log_probs = output
        config = self.config
        if contrastive_weight is None:
            contrastive_weight = config.contrastive_weight
        parts = sacl_loss(
            hidden,
            log_probs,
            batch["labels"],
            gamma=config.gamma,
            class_weights=self.class_weights,
            temperature=config.temperature,
            contrastive_weight=contrastive_weight,
            contrast_on=config.contrast_on,
        )
        return {name: value / len(batch["labels"]) for name, value in parts.items()}

    def scores(self, output: Output, batch: Batch) -> Tensor:
        """The log-probabilities."""
        return output[1]

    def states(self, batch: Batch) -> Tensor:
        """States ``u`` ``(N, 4h)`` of both LSTMs."""
        return self(batch)[0]

    def attacked(self) -> list[nn.Parameter]:
        """Draw the input weights that the adversarial pass of this batch moves; empty = no pass."""
        config = self.config
        attack, which = torch.rand(2).tolist()
        if attack >= config.at_rate:
            return []
        if self.network.speaker is None:
            return self.network.input_parameters("situation", config.at_layer)
        situation = self.network.input_parameters("situation", config.at_layer)
        speaker = self.network.input_parameters("speaker", config.at_layer)
        if which < config.situ_rate:
            return situation
        return speaker if which < config.situ_rate + config.speaker_rate else situation + speaker

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Run both passes; after ``accumulate`` batches, make a step of the optimiser."""
        utterances = len(batch["labels"])
        attacked = self.attacked()
        own, backward = None, self.manual_backward
        if attacked and self.config.attack == "vectors":  # moves one matrix instead of the weights
            vectors = nn.Parameter(self.features[batch["turns"]])
            own, attacked = (batch["turns"], vectors), [vectors]

            def backward(loss: Tensor, **options: Any) -> None:
                self.manual_backward(loss, **options)
                assert vectors.grad is not None
                vectors.grad = devices.mean(vectors.grad)

        parts = self.loss(self.whole_output(batch, own), batch)
        values = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=utterances)
        if attacked:
            moved_ones = {id(p) for p in attacked}
            others = [p for p in self.network.parameters() if id(p) not in moved_ones]
            weight = self.config.adversarial_contrastive_weight
            adversarial_backward(
                utterances * parts["loss"],
                lambda: (
                    utterances * self.loss(self.whole_output(batch, own), batch, weight)["loss"]
                ),
                attacked,
                others,
                self.config.epsilon,
                backward,
            )
        else:
            self.manual_backward(utterances * parts["loss"])
        # The batches left at the end of an epoch make a step too: none is carried into the next.
        if (batch_idx + 1) % self.config.accumulate == 0 or self.trainer.is_last_batch:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
        return values["train/loss"]
