"""SPCL-CL: Supervised Prototypical Contrastive Learning with a curriculum (Song et al., EMNLP 2022,
2210.08713).

Every emotion adds a prototype, the mean of vectors seen lately, to a supervised contrastive loss.
So every class has a positive even in a small batch. A curriculum begins with the examples near the
centre of their class. The nearest class centre is predicted.

Where the authors' code departs from sound practice:

==============================================  ===============================================
the authors' code                               here
==============================================  ===============================================
multiplies indices by the keep-mask, so that    the plain mask; ``skip_first=true``
the first example can never be drawn
loops over examples for centres and             tensors; one forward pass over the training set
difficulty, two passes over the training set    an epoch (and one before the first)
==============================================  ===============================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from erc_bench.encoders.loading import load_encoder
from erc_bench.encoders.optimisation import adamw
from erc_bench.errors import ErcBenchError
from erc_bench.method import (
    Batch,
    Columns,
    ErcDataModule,
    ErcMethod,
    LabelSet,
    MethodConfig,
    devices,
)
from erc_bench.method.config import above, added_later, at_least, between_0_and_1
from erc_bench.method.ragged import Ragged

from .contrastive import EPSILON, contrastive_terms, mean_above, pair_masks, scaled, similarity
from .prompts import FIRST_LOOKBACK, PrototypeReader, is_lookback, prompt_states

EASY = 0.3
"""Terms of the loss that are not greater than this are left out."""


@dataclass
class SPCLConfig(MethodConfig):
    """Hyper-parameters of SPCL-CL; defaults as in the paper."""

    encoder: str = "princeton-nlp/sup-simcse-roberta-large"  # hub id or folder
    epochs: int = 16
    batch_size: int = 32
    drop_last: bool = True
    patience: int = 5
    max_len: int = 256  # tokens of context and query
    temperature: float = 0.05  # τ of the loss and of the scores
    support_size: int = 64  # K, vectors whose mean is a prototype
    pool_size: int = 256  # vectors of each class that are kept to draw from
    decoupled: bool = False  # the loss without the positives in its denominator (spdcl)
    curriculum: bool = True  # from easy to hard; otherwise half the examples at random
    augmentation: float = 0.2  # probability that a window is also asked about an earlier turn
    projection: bool = False  # a linear layer between encoder and loss
    encoder_lr: float = 1e-5  # highest learning rate of the encoder
    lr: float = 1e-3  # highest learning rate of everything else
    warmup_steps: int = 128  # in the first epoch; all of its steps if it has fewer
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    fgm: float = 0.0  # length of the adversarial step on the word embeddings; 0 = none
    skip_first: bool = False  # never draw the first training example
    prototypes: bool = added_later(True)  # false = the loss compares only the batch's vectors

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 16, "max_len")
        at_least(self, 1, "support_size")
        at_least(self, self.support_size, "pool_size")
        at_least(self, 0, "warmup_steps", "weight_decay", "fgm")
        between_0_and_1(self, "augmentation")
        above(self, 0, "temperature", "encoder_lr", "lr")


class Prototypes(nn.Module):
    """Class centres, and for each class a queue of its latest vectors that starts with its centre.

    ``centers`` are the centres of the training set, which predict. ``starts`` are the centres of
    the epoch's examples, including the augmented ones.

    Args:
        classes: C.
        size: d.
        pool_size: largest number of vectors in a queue.
        support_size: K, vectors drawn for a prototype; not more than ``pool_size``.
    """

    centers: Tensor
    starts: Tensor
    queues: Tensor
    counts: Tensor

    def __init__(self, classes: int, size: int, pool_size: int, support_size: int) -> None:
        super().__init__()
        self.support_size = support_size
        self.register_buffer("centers", torch.zeros(classes, size))
        # Not saved: a resumed run starts at the beginning of an epoch, where queues are empty.
        self.register_buffer("starts", torch.zeros(classes, size), persistent=False)
        self.register_buffer("queues", torch.zeros(classes, pool_size, size), persistent=False)
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.long), persistent=False)

    def reset(self, starts: Tensor) -> None:
        """Start each queue with only its class centre.

        ``starts`` are the centres ``(C, d)``; zeros = the class has none.
        """
        self.starts.copy_(starts)
        self.queues[:, 0] = starts
        self.counts.copy_(starts.any(dim=1))

    def draw(self, generator: Generator | None = None) -> Tensor:
        """Prototypes ``(C, d)``: the mean of K vectors of each queue, drawn without replacement.

        If a queue holds fewer than K, it is the class centre.
        """
        classes, pool, _ = self.queues.shape
        keys = torch.rand(classes, pool, generator=generator, device=self.queues.device)
        empty = torch.arange(pool, device=keys.device) >= self.counts[:, None]
        drawn = keys.masked_fill(empty, 2.0).topk(self.support_size, largest=False).indices
        means = self.queues.gather(1, drawn[..., None].expand(-1, -1, self.queues.shape[2])).mean(1)
        return torch.where((self.counts >= self.support_size)[:, None], means, self.starts)

    @torch.no_grad()
    def push(self, h: Tensor, labels: Tensor, generator: Generator | None = None) -> None:
        """Add vectors ``(B, d)`` to the queues of their classes ``(B,)``.

        If a queue would hold too many, a random part of them is kept.
        """
        classes, pool, size = self.queues.shape
        numbers = torch.arange(classes, device=h.device)[:, None]
        slots = torch.arange(pool, device=h.device)
        present = torch.cat([slots < self.counts[:, None], numbers == labels], dim=1)
        keys = torch.rand(present.shape, generator=generator, device=h.device)
        chosen = keys.masked_fill(~present, 2.0).argsort(dim=1)[:, :pool]
        # The row of each chosen vector in `vectors`: all queues, followed by the batch.
        sources = torch.where(chosen < pool, numbers * pool + chosen, (classes - 1) * pool + chosen)
        vectors = torch.cat([self.queues.view(-1, size), h.to(self.queues.dtype)])
        self.queues.copy_(vectors[sources])
        self.counts.copy_(present.sum(dim=1).clamp_max(pool))


def class_centers(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of the vectors ``(N, d)`` of each class ``(C, d)``; zeros for a class that has none."""
    members = F.one_hot(labels, classes).to(h.dtype)
    return members.T @ h / members.sum(dim=0).clamp_min(1)[:, None]


def class_similarity(h: Tensor, centers: Tensor) -> Tensor:
    """``s(h, centre)`` ``(N, C)``; 0, which is less than any other, if the centre is zeros."""
    return similarity(h, centers) * centers.any(dim=1)


def spcl_loss(
    h: Tensor, labels: Tensor, prototypes: Tensor, temperature: float, decoupled: bool = False
) -> Tensor:
    """The prototypical contrastive loss of a batch ``(B, d)`` with labels ``(B,)``.

    Every vector is an anchor point, a row; the columns are the vectors and the prototypes
    ``(C, d)`` (Song et al. 2022, section 3.3). The loss is the mean over the rows whose term
    exceeds 0.3. ``decoupled`` takes the positives out of the denominator; then the mean is over the
    positive terms.
    """
    classes = torch.arange(len(prototypes), device=labels.device)
    column_labels = torch.cat([labels, classes])
    scores = torch.cat([similarity(h, h), class_similarity(h, prototypes)], dim=1)
    if decoupled:
        return mean_above(decoupled_terms(scores, labels, column_labels, temperature), 0.0)
    return mean_above(contrastive_terms(scores, labels, column_labels, temperature), EASY)


def decoupled_terms(
    scores: Tensor, row_labels: Tensor, column_labels: Tensor, temperature: float
) -> Tensor:
    """``ℓ_i = −mean over positives of (s/τ − max) + log(N_i + ε)`` ``(N,)``.

    The arguments are those of :func:`contrastive_terms`.
    """
    logits = scaled(scores, temperature)
    positive, negative = pair_masks(row_labels, column_labels)
    negatives = (logits.exp() * negative).sum(dim=1)
    attraction = (logits * positive).sum(dim=1) / (positive.sum(dim=1) + EPSILON)
    return torch.log(negatives + EPSILON) - attraction


def difficulty(h: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Distance of each vector to its class centre, divided by the sum over all centres ``(N,)``.

    The vectors are ``(N, d)``; ``dist = (1 − cos) / 2 + 1e-8`` (section 3.4). Classes without a
    centre do not count.
    """
    distances = similarity(h, -centers) * centers.any(dim=1)
    own = distances.gather(1, labels[:, None])[:, 0]
    return own / distances.sum(dim=1)


def keep_probabilities(examples: int, epoch: int, epochs: int) -> np.ndarray:
    """Probability that each example is kept ``(N,)``, from the easiest to the hardest.

    It is linear from ``1 − e/E`` to ``e/E`` (section 3.4) in epoch e of E, counted from 0.
    """
    return np.linspace(1 - epoch / epochs, epoch / epochs, examples)


def drawn_examples(columns: Columns, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of the ordinary examples and of those that augmentation adds in this epoch.

    With the given probability, a window that ends at turn :data:`FIRST_LOOKBACK` or later is also
    asked about one of its earlier turns, drawn uniformly. If that turn has no label, nothing is
    added.
    """
    targets, turns, windows, dialogues = (
        np.asarray(c.values if isinstance(c, Ragged) else c)
        for c in (columns[name] for name in ("targets", "turn", "window", "dialogue"))
    )
    ordinary = np.flatnonzero(~is_lookback(columns))
    lucky = rng.random(len(ordinary)) < probability
    asked = ordinary[lucky & (turns[ordinary] >= FIRST_LOOKBACK)]
    queries = rng.integers(windows[asked], turns[asked])
    shape = (dialogues.max() + 1, turns.max() + 1, turns.max() + 1)
    wanted = np.ravel_multi_index((dialogues[asked], turns[asked], queries), shape)
    present = np.ravel_multi_index((dialogues, turns, targets), shape)
    return np.concatenate([ordinary, np.flatnonzero(np.isin(present, wanted))])


def rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear rise over ``warmup`` steps, then a cosine to 0."""
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


class SPCL(ErcMethod):
    """Supervised prototypical contrastive learning with a curriculum."""

    Config = SPCLConfig
    context = "past"
    config: SPCLConfig

    def __init__(self, config: SPCLConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = PrototypeReader(config.encoder, config.max_len)
        self.encoder = load_encoder(config.encoder, config.max_len)
        size = self.encoder.config.hidden_size
        self.project = nn.Linear(size, size) if config.projection else nn.Identity()
        self.head = nn.Linear(size, len(labels))
        self.prototypes = Prototypes(len(labels), size, config.pool_size, config.support_size)
        # Of an epoch: its number, its examples, and their order from easy to hard.
        self.survey: tuple[int, np.ndarray, np.ndarray] | None = None

    # --- loss and scores ---

    def word_embeddings(self) -> Tensor:
        """The encoder's word embeddings ``(V, d)``."""
        return self.encoder.get_input_embeddings().get_parameter("weight")

    def forward(self, batch: Batch, words: Tensor | None = None) -> Tensor:
        """Vectors ``h`` ``(B, d)``; ``words`` replaces the encoder's word embeddings."""
        if words is None:
            return self.project(prompt_states(self.encoder, batch))
        own = self.word_embeddings()
        name = next(name for name, p in self.encoder.named_parameters() if p is own)

        def encoder(**inputs: Tensor) -> Any:
            return functional_call(self.encoder, {name: words}, (), inputs)

        return self.project(prompt_states(encoder, batch))

    def _parts(self, h: Tensor, labels: Tensor, prototypes: Tensor) -> dict[str, Tensor]:
        contrastive = spcl_loss(
            h, labels, prototypes, self.config.temperature, self.config.decoupled
        )
        # The head is only for monitoring: it learns from the vectors but does not change them.
        ce = F.cross_entropy(self.head(h.detach()).float(), labels)
        return {"loss": ce + contrastive, "contrastive": contrastive, "ce": ce}

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Contrastive loss and the head's cross-entropy; in training the batch enters the queues.

        With ``fgm``, the same loss is added with the word embeddings moved along its gradient
        (Miyato et al. 2017).
        """
        h, labels = output, batch["labels"]
        prototypes = self.prototypes.draw()
        if not self.config.prototypes:
            prototypes = prototypes[:0]
        parts = self._parts(h, labels, prototypes)
        if self.training:
            self.prototypes.push(h.detach(), labels)
            if self.config.fgm:
                if devices.position().sharded:
                    raise ErcBenchError(
                        "fgm moves the word embeddings, but with --strategy fsdp no device has "
                        "all of them. Leave out one of the two."
                    )
                words = self.word_embeddings()
                (own,) = torch.autograd.grad(parts["loss"], words, retain_graph=True)
                gradient = devices.mean(own)
                step = self.config.fgm * gradient / gradient.norm().clamp_min(EPSILON)
                shifted = self.whole_output(batch, words + step)
                adversarial = self._parts(shifted, labels, prototypes)["loss"]
                parts |= {"loss": parts["loss"] + adversarial, "adversarial": adversarial}
        return parts

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        """Similarity to the class centres, divided by τ ``(B, C)``.

        Raises:
            RuntimeError: an example is of the augmentation, so it sees turns after its target.
        """
        if batch["lookback"].any():
            raise RuntimeError("Examples of the augmentation are for training alone.")
        return class_similarity(output, self.prototypes.centers) / self.config.temperature

    def anchors(self) -> Tensor:
        """The class centres ``(C, d)``."""
        return self.prototypes.centers

    def states(self, batch: Batch) -> Tensor:
        """Vectors ``h`` ``(B, d)``, which are compared with the class centres."""
        return self(batch)

    # --- the course of an epoch ---

    def survey_epoch(self, data: ErcDataModule, epoch: int) -> None:
        """Draw the examples of an epoch, augmentation included, and pass over them once.

        The pass gives the class centres, new queues, and the order of the examples from easy to
        hard. The centres that predict are those of the training set, without augmentation. With
        ``max_batches`` the pass reads twice the examples of these batches, because about half of
        them are kept.
        """
        rng = np.random.default_rng((data.seed, epoch, 1))
        examples = drawn_examples(data.columns["train"], self.config.augmentation, rng)
        if self.config.max_batches:
            most = 2 * self.config.max_batches * self.config.batch_size
            examples = np.sort(rng.permutation(examples)[:most])
        h, labels = data.encode("train", self, examples)
        starts = class_centers(h, labels, len(self.labels))
        self.prototypes.reset(starts)
        added = is_lookback(data.columns["train"])[examples]
        own = torch.from_numpy(~added).to(h.device)
        self.prototypes.centers.copy_(class_centers(h[own], labels[own], len(self.labels)))
        order = difficulty(h, labels, starts).argsort(stable=True).cpu().numpy()
        self.survey = epoch, examples, order

    def epoch_examples(self, data: ErcDataModule, epoch: int) -> np.ndarray:
        """Draw the examples of an epoch by the curriculum, augmentation included."""
        # Needed before the first epoch and after a resume; otherwise `after_epoch` has done it.
        if self.survey is None or self.survey[0] != epoch:
            self.survey_epoch(data, epoch)
        assert self.survey is not None
        _, examples, order = self.survey
        if self.config.curriculum:
            probabilities = keep_probabilities(len(examples), epoch, self.config.epochs)
        else:
            probabilities = np.full(len(examples), 0.5)
        rng = np.random.default_rng((data.seed, epoch, 2))
        drawn = examples[order][rng.random(len(examples)) < probabilities]
        if self.config.skip_first:
            drawn = drawn[drawn != examples[0]]
        # There may be so few examples that none is drawn, but an epoch needs one.
        return drawn if len(drawn) else examples

    def after_epoch(self, data: ErcDataModule, epoch: int) -> None:
        """Survey the next epoch; the same pass gives the centres for scoring dev."""
        self.survey_epoch(data, epoch + 1)

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rates are set before every batch."""
        optimizer = adamw(self, self.encoder, self.config.encoder_lr)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates of this step, which depend only on its place in the epoch.

        So a resumed run has the same rates, however many batches the curriculum gives each epoch.
        """
        every = self.config.accumulate
        steps = math.ceil(int(self.trainer.num_training_batches) / every)
        # If the first epoch is shorter than the warm-up, its last step still has the full rate.
        warmup = min(self.config.warmup_steps, steps - 1) if self.current_epoch == 0 else 0
        factor = rate(batch_idx // every, steps, warmup)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = factor * group["initial_lr"]
