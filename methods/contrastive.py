"""The similarity of the contrastive methods, and the terms of their losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8

LEAST = 1e-28
"""The least sum of exponents that a share is computed of, so that its gradient is finite. Only a
temperature below 1/64 gives lower ones."""


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """``(1 + cos) / 2 + 1e-8`` of each row of ``x`` ``(N, d)`` with each row of ``y`` ``(M, d)``.

    The result ``(N, M)`` is in float32, also under autocast.
    """
    with torch.autocast(x.device.type, enabled=False):
        units = (F.normalize(rows.float(), dim=-1, eps=EPSILON) for rows in (x, y))
        cosines = next(units) @ next(units).T
    return (1 + cosines) / 2 + EPSILON


def scaled(scores: Tensor, temperature: float) -> Tensor:
    """``s/τ − max`` of similarities ``(N, M)``, ``N <= M``.

    Row ``i`` and column ``i`` are the same vector; its similarity to itself is set to 0 first. The
    maximum is a constant without gradient.
    """
    own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    logits = scores.masked_fill(own, 0.0) / temperature
    return logits - logits.max().detach()


def pair_masks(row_labels: Tensor, column_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks ``(N, M)`` of the columns that are positives of each row, and of its negatives.

    Positives have the label of the row, except the row itself (column ``i``). Negatives have
    another label. The labels are ``(N,)`` and ``(M,)``.
    """
    same = row_labels[:, None] == column_labels
    own = torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    return same & ~own, ~same


def contrastive_terms(
    scores: Tensor, row_labels: Tensor, column_labels: Tensor, temperature: float
) -> Tensor:
    """``ℓ_i = −log(P_i / (P_i + N_i) / (|positives_i| + ε) + ε)`` for each row ``(N,)``.

    ``P_i`` and ``N_i`` are the sums of ``exp`` of the :func:`scaled` scores ``(N, M)`` over the
    positives and the negatives of :func:`pair_masks`. The term of a row without both is 0.
    """
    exponents = scaled(scores, temperature).exp()
    positive, negative = pair_masks(row_labels, column_labels)
    positives = (exponents * positive).sum(dim=1)
    negatives = (exponents * negative).sum(dim=1)
    sums = (positives + negatives).clamp_min(LEAST)
    share = positives / sums / (positive.sum(dim=1) + EPSILON)
    return -torch.log(share + EPSILON) * (positive | negative).any(dim=1)


def mean_above(terms: Tensor, bound: float) -> Tensor:
    """Mean of the terms greater than ``bound``; 0 if there is none."""
    counted = terms > bound
    return (terms * counted).sum() / (counted.sum() + EPSILON)
