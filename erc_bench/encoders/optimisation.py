"""The optimiser and the schedule that methods with an encoder share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


def linear_warmup(module: Any, optimizer: Optimizer, warmup: float) -> dict[str, Any]:
    """A schedule by steps for Lightning: up over the share ``warmup`` of a fit, then down to 0."""
    from transformers import get_linear_schedule_with_warmup

    steps = int(module.trainer.estimated_stepping_batches)
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup * steps), steps)
    return {"scheduler": schedule, "interval": "step"}


def adamw(module: Any, encoder: Any, encoder_lr: float) -> Optimizer:
    """AdamW with a learning rate for the encoder and, of its configuration, ``lr`` for the rest of
    ``module`` and ``weight_decay``.

    Biases and the weights of LayerNorms are not decayed. Fused, but for float16, whose gradients a
    fused optimiser unscales only after they were clipped.
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
        # Lightning clips no gradients that a fused optimiser is to unscale.
        fused=None if module.trainer.precision == "16-mixed" else True,
    )
