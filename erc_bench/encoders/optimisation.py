"""The optimiser and the schedule that methods with an encoder share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


def linear_warmup(module: Any, optimizer: Optimizer, warmup: float) -> dict[str, Any]:
    """A schedule per step for Lightning: up over the share ``warmup`` of a fit, then down to 0.

    With manual optimisation, the module makes a step after ``accumulate`` batches and after the
    last batch of an epoch. Lightning does not know this and counts batches.
    """
    from transformers import get_linear_schedule_with_warmup

    steps = int(module.trainer.estimated_stepping_batches)
    if not module.automatic_optimization:
        epochs = module.config.epochs
        steps = epochs * math.ceil(steps / epochs / module.config.accumulate)
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup * steps), steps)
    return {"scheduler": schedule, "interval": "step"}


def adamw(module: Any, encoder: Any, encoder_lr: float) -> Optimizer:
    """AdamW with ``encoder_lr`` for the encoder and ``module.config.lr`` for the rest.

    The weight decay is ``module.config.weight_decay``, except for biases and the weights of
    LayerNorms, which have none. The optimiser is fused, except in float16: a fused optimiser
    unscales the gradients only after they were clipped.
    """
    import torch

    in_encoder = {id(p) for p in encoder.parameters()}
    plain = {
        id(p)
        for layer in module.modules()
        for p in layer.parameters(recurse=False)
        if p.ndim < 2 or isinstance(layer, torch.nn.LayerNorm)
    }
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for p in module.parameters():
        if p.requires_grad:
            groups.setdefault((id(p) in in_encoder, id(p) in plain), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": params,
                "name": "encoder" if of_encoder else "rest",
                "lr": encoder_lr if of_encoder else module.config.lr,
                "weight_decay": 0.0 if undecayed else module.config.weight_decay,
            }
            for (of_encoder, undecayed), params in groups.items()
        ],
        # Lightning does not clip gradients that a fused optimiser will unscale.
        fused=None if module.trainer.precision == "16-mixed" else True,
    )
