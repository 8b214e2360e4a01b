"""What the contrastive methods share: their similarity, and the terms of their losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """``(1 + cos) / 2 + 1e-8`` of every row of ``x`` ``(N, d)`` with every one of ``y`` ``(M, d)``:
    ``(N, M)``, in float32 under autocast too."""
    with torch.autocast(x.device.type, enabled=False):
        units = (F.normalize(rows.float(), dim=-1, eps=EPSILON) for rows in (x, y))
        cosines = next(units) @ next(units).T
    return (1 + cosines) / 2 + EPSILON


def scaled(scores: Tensor, temperature: float) -> Tensor:
    """``s/τ − max`` of similarities ``(N, M)``, ``N <= M``, whose column ``i`` is row ``i``.

    The self-similarities are set to 0 before; the maximum is a constant without gradient.
    """
    own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    logits = scores.masked_fill(own, 0.0) / temperature
    return logits - logits.max().detach()


def pair_masks(row_labels: Tensor, column_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which columns ``(M,)`` are positives of each row ``(N,)``, and which negatives ``(N, M)``.

    Those of the row's label are, but for the row itself (column ``i``); those of other labels.
    """
    same = row_labels[:, None] == column_labels
    own = torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    return same & ~own, ~same


def contrastive_terms(
    scores: Tensor, row_labels: Tensor, column_labels: Tensor, temperature: float
) -> Tensor:
    """``ℓ_i = −log(P_i / (P_i + N_i) / (|positives_i| + ε) + ε)`` for each row ``(N,)``.

    P and N are sums over :func:`pair_masks` of ``exp`` of the :func:`scaled` scores ``(N, M)``.
    """
    exponents = scaled(scores, temperature).exp()
    positive, negative = pair_masks(row_labels, column_labels)
    positives = (exponents * positive).sum(dim=1)
    negatives = (exponents * negative).sum(dim=1)
    share = positives / (positives + negatives) / (positive.sum(dim=1) + EPSILON)
    return -torch.log(share + EPSILON)


def mean_above(terms: Tensor, bound: float) -> Tensor:
    """Mean of the terms greater than ``bound``; 0 if there is none."""
    counted = terms > bound
    return (terms * counted).sum() / (counted.sum() + EPSILON)
