"""EACL: Emotion-Anchored Contrastive Learning (Yu et al., Findings of NAACL 2024, 2403.20289).

The emotion words themselves, encoded by the pre-trained encoder, are anchors: a supervised
contrastive loss pulls each utterance to its own emotion's anchor, an angle loss spreads the
anchors, and a second stage fits the anchors alone to the frozen utterances.

Where the authors' code departs from sound practice, the default here is the paper's protocol:

==============================================  ===============================================
the authors' code                               here
==============================================  ===============================================
selects stage 1 on test                         dev; ``evaluation.oracle=true`` shows the gap
stage 2 starts at the last epoch's projection   the selected epoch's; ``anchors_from=last``
reads position 0 (a mask id that never occurs)  the mask token; ``representation=first``
steps the optimiser when ``batch % k == 0``     ordinary accumulation (the same for ``k = 1``)
==============================================  ===============================================
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.encoders.loading import in_float32, load_encoder
from erc_bench.encoders.optimisation import adamw
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import score
from erc_bench.method import Batch, ErcDataModule, ErcMethod, LabelSet, MethodConfig
from erc_bench.method.config import above, added_later, at_least, between_0_and_1

from .contrastive import contrastive_terms, mean_above, similarity
from .prompts import AnchorReader, prompt_states


@dataclass
class EACLConfig(MethodConfig):
    """Hyper-parameters of EACL; defaults as in the paper."""

    encoder: str = "princeton-nlp/sup-simcse-roberta-large"  # hub id or folder
    max_len: int = 256  # tokens of context and query
    projection_size: int = 1024  # m, size of the mapped space; never more than the encoder's
    dropout: float = 0.1  # before the classifier head
    temperature: float = 0.1  # τ of the contrastive loss, the scores and stage 2
    ce_weight: float = 0.1  # w_ce, share of the cross-entropy in the loss
    angle_weight: float = 0.1  # w_angle, weight of the angle loss next to the contrastive loss
    encoder_lr: float = 1e-5  # learning rate of the encoder
    lr: float = 4e-4  # learning rate of everything else
    lr_decay: float = 0.5  # both rates are multiplied by it after every epoch
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    stage2_epochs: int = 10  # epochs of anchor adaptation; 0 = stage 1 alone
    stage2_lr: float = 1e-4  # learning rate of anchor adaptation
    stage2_batch_size: int = 64  # utterances per batch of anchor adaptation
    representation: Literal["mask", "first"] = "mask"  # the token read as the utterance
    anchors_from: Literal["best", "last"] = "best"  # the epoch whose projection starts stage 2
    # true = score dev with anchors adapted to each epoch's weights; false = with those of stage 1
    select_adapted: bool = added_later(False)
    # false = the similarities to the anchors are learnt by cross-entropy, as in stage 2
    contrastive: bool = added_later(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select_adapted and (self.anchors_from == "last" or not self.stage2_epochs):
            raise ErcBenchError(
                "select_adapted=true adapts the anchors after every epoch, from that epoch's "
                "projection: it takes anchors_from=best and stage2_epochs of 1 or more."
            )
        at_least(self, 16, "max_len")
        at_least(self, 1, "projection_size", "stage2_batch_size")
        at_least(self, 0, "angle_weight", "weight_decay", "stage2_epochs")
        between_0_and_1(self, "dropout", "ce_weight")
        above(self, 0, "temperature", "encoder_lr", "lr", "lr_decay", "stage2_lr")


class AnchoredEncoder(nn.Module):
    """The network: utterance vectors, a linear head, and anchors in the same mapped space.

    Args:
        encoder: a Hugging Face encoder with states of size d.
        anchors: one constant vector per emotion ``(C, d)``, see :func:`label_anchors`.
        projection_size: m.
        dropout: before the head.
    """

    anchors: Tensor

    def __init__(self, encoder: Any, anchors: Tensor, projection_size: int, dropout: float) -> None:
        super().__init__()
        classes, size = anchors.shape
        self.encoder = encoder
        self.project = nn.Sequential(
            nn.Linear(size, size), nn.LayerNorm(size), nn.ReLU(), nn.Linear(size, projection_size)
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(size, classes))
        self.register_buffer("anchors", anchors)

    def mapped_anchors(self) -> Tensor:
        """Mapped anchors ``(C, m)``, in float32 even under autocast, as they are close together."""
        return in_float32(self.project, self.anchors)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States ``h`` ``(B, d)`` at the ``positions``, and mapped vectors ``z`` ``(B, m)``."""
        h = prompt_states(self.encoder, batch)
        return h, self.project(h)


@torch.no_grad()
def label_anchors(encoder: Any, tokenizer: Any, labels: LabelSet) -> Tensor:
    """Mean state over all tokens of each label's word, specials included ``(C, d)``.

    Raises:
        ErcBenchError: the tokenizer reads two labels as the same tokens.
    """
    rows = tokenizer(list(labels.names), padding=True, return_tensors="pt")
    read_as: dict[tuple[int, ...], str] = {}
    for name, ids in zip(labels.names, rows["input_ids"].tolist(), strict=True):
        other = read_as.setdefault(tuple(ids), name)
        if other != name:
            raise ErcBenchError(
                f"The encoder's tokenizer reads the labels {other!r} and {name!r} as the same "
                "tokens, so they would have the same anchor. Give the corpus labels of different "
                "words (`labels` in its corpus.yaml), or choose another encoder."
            )
    encoder.eval()
    mask = rows["attention_mask"]
    states = encoder(input_ids=rows["input_ids"], attention_mask=mask).last_hidden_state
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def contrastive_loss(z: Tensor, labels: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss over utterances ``z`` ``(B, m)`` and mapped anchors ``(C, m)``.

    Every row of both is an anchor point (Yu et al. 2024, eq. 4–6). The loss is the mean over the
    rows whose term is positive.
    """
    rows = torch.cat([z, anchors])
    row_labels = torch.cat([labels, torch.arange(len(anchors), device=labels.device)])
    scores = similarity(rows, rows)
    return mean_above(contrastive_terms(scores, row_labels, row_labels, temperature), 0.0)


def angle_loss(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Negative mean angle between centred anchors ``(C, m)`` and their nearest; the largest cosine.

    Yu et al. 2024, eq. 7.
    """
    anchors = anchors.float()
    unit = F.normalize(anchors - anchors.mean(dim=0), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        cosines = unit @ unit.T
    cosines = cosines - 2 * torch.eye(len(cosines), device=cosines.device)
    nearest = cosines.max(dim=1).values
    return -torch.acos(nearest.clamp(-0.99999, 0.99999)).mean(), nearest.max()


def eacl_loss(
    z: Tensor,
    logits: Tensor,
    labels: Tensor,
    anchors: Tensor,
    *,
    temperature: float,
    ce_weight: float,
    angle_weight: float,
    contrast: bool = True,
) -> dict[str, Tensor]:
    """``w_ce·CE + (1 − w_ce)·(L_con + w_angle·L_angle)`` and its parts (eq. 8).

    Without ``contrast``, ``L_con`` is the cross-entropy of the similarities to the anchors: no
    utterance is compared with another, but the anchors are still learnt.
    """
    if contrast:
        contrastive = contrastive_loss(z, labels, anchors, temperature)
    else:
        contrastive = F.cross_entropy(anchor_scores(z, anchors, temperature), labels)
    angle, cosine = angle_loss(anchors)
    ce = F.cross_entropy(logits.float(), labels)
    loss = ce_weight * ce + (1 - ce_weight) * (contrastive + angle_weight * angle)
    parts = {"contrastive": contrastive, "angle": angle, "ce": ce, "max_anchor_cosine": cosine}
    return {"loss": loss, **parts}


def anchor_scores(z: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """``s(z, anchor)/τ`` ``(B, C)``: both the prediction of stage 1 and the logits of stage 2."""
    return similarity(z, anchors) / temperature


def adapt_anchors(
    start: Tensor,
    train: tuple[Tensor, Tensor],
    dev: tuple[Tensor, Tensor],
    config: EACLConfig,
    seed: int,
    dev_score: Callable[[Tensor, Tensor], float],
) -> Tensor:
    """Return anchors ``(C, m)`` fitted to frozen utterances (section 3.4), of the best dev epoch.

    Args:
        start: mapped anchors of stage 1 ``(C, m)``.
        train: utterance vectors ``(N, m)`` and their labels ``(N,)``; ``dev`` likewise.
        config: temperature, and the settings of stage 2.
        seed: of the order of the examples.
        dev_score: computes the corpus's metric from predicted and gold classes ``(N,)``.
    """
    z, labels = train
    anchors = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([anchors], lr=config.stage2_lr)
    generator = torch.Generator().manual_seed(seed)
    best, best_f1 = start, -1.0
    for _ in range(config.stage2_epochs):
        order = torch.randperm(len(z), generator=generator).to(z.device)
        for rows in order.split(config.stage2_batch_size):
            scores = anchor_scores(z[rows], anchors, config.temperature)
            optimizer.zero_grad()
            F.cross_entropy(scores, labels[rows]).backward()
            if config.gradient_clip:
                nn.utils.clip_grad_norm_([anchors], config.gradient_clip)
            optimizer.step()
        with torch.no_grad():
            predicted = anchor_scores(dev[0], anchors, config.temperature).argmax(dim=1)
        f1 = dev_score(predicted, dev[1])
        if f1 > best_f1:
            best, best_f1 = anchors.detach().clone(), f1
    return best


class EACL(ErcMethod):
    """Emotion-anchored contrastive learning, both stages."""

    Config = EACLConfig
    context = "past"
    config: EACLConfig
    adapted_anchors: Tensor

    def __init__(self, config: EACLConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = AnchorReader(config.encoder, config.max_len, config.representation)
        encoder = load_encoder(config.encoder, config.max_len)
        anchors = label_anchors(encoder, self.reader.tokenizer, labels)
        size = min(config.projection_size, anchors.shape[1])
        self.network = AnchoredEncoder(encoder, anchors, size, config.dropout)
        # Empty until stage 2 is done, then the anchors that it learnt.
        self.register_buffer("adapted_anchors", torch.empty(0, size))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States ``h`` ``(B, d)`` and mapped vectors ``z`` ``(B, m)``."""
        return self.network(batch)

    def loss(self, output: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The loss of stage 1."""
        h, z = output
        return eacl_loss(
            z,
            self.network.head(h),
            batch["labels"],
            self.network.mapped_anchors(),
            temperature=self.config.temperature,
            ce_weight=self.config.ce_weight,
            angle_weight=self.config.angle_weight,
            contrast=self.config.contrastive,
        )

    def scores(self, output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        """Similarity to the :meth:`anchors`, divided by τ ``(B, C)``."""
        return anchor_scores(output[1], self.anchors(), self.config.temperature)

    def anchors(self) -> Tensor:
        """The mapped anchors ``(C, m)``; after stage 2, the adapted ones."""
        return self.adapted_anchors if len(self.adapted_anchors) else self.network.mapped_anchors()

    def states(self, batch: Batch) -> Tensor:
        """Mapped vectors ``z`` ``(B, m)``, which are compared with the anchors."""
        return self(batch)[1]

    def configure_optimizers(self) -> Any:
        """AdamW; both learning rates decay after every epoch."""
        optimizer = adamw(self, self.network.encoder, self.config.encoder_lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, self.config.lr_decay)]

    def after_epoch(self, data: ErcDataModule, epoch: int) -> None:
        """With ``select_adapted``, run stage 2 for the weights of this epoch."""
        if self.config.select_adapted:
            with torch.no_grad():
                start = self.network.mapped_anchors()
            self.adapted_anchors = self._adapted(data, start)

    def adapt(self, data: ErcDataModule, last_state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Stage 2: the anchors alone are fitted to the frozen utterance vectors."""
        if not self.config.stage2_epochs or self.config.select_adapted:
            return  # no stage 2, or the selected weights have their adapted anchors
        project = self.network.project
        if self.config.anchors_from == "last":
            prefix = "network.project."
            project = copy.deepcopy(project)
            project.load_state_dict(
                {k[len(prefix) :]: v for k, v in last_state().items() if k.startswith(prefix)}
            )
        with torch.no_grad():
            start = project(self.network.anchors)
        self.adapted_anchors = self._adapted(data, start)

    def _adapted(self, data: ErcDataModule, start: Tensor) -> Tensor:
        """Anchors ``(C, m)``, fitted from ``start`` to the vectors that the weights give now."""
        some = self.config.max_batches * self.config.batch_size or None
        everything = np.arange(len(data.columns["train"]["dialogue"]))
        mapped = {
            split: data.encode(split, lambda batch: self(batch)[1], examples)
            for split, examples in (("train", everything[:some]), ("dev", None))
        }
        dev_score = partial(score, labels=self.labels.names, metric=data.corpus.metric)
        with torch.enable_grad():  # gradients may be off, because dev is scored next
            return adapt_anchors(
                start, mapped["train"], mapped["dev"], self.config, data.seed, dev_score
            )
