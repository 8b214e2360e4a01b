"""The encoder's states at one position of each row: its last layer attends from no other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from erc_bench.encoders.loading import BERTS

if TYPE_CHECKING:
    from torch import Tensor


def states_at(encoder: Any, positions: Tensor, **inputs: Tensor) -> Tensor:
    """The encoder's last hidden states at one position ``(B,)`` of each row ``(B, d)``.

    In the last layer only these attend and go on: of the others it needs the keys and values. The
    result is the same. An encoder of another build computes them all.
    """
    import torch

    rows = torch.arange(len(positions), device=positions.device)
    if not _is_known(getattr(encoder, "config", None)):
        return encoder(**inputs).last_hidden_state[rows, positions]
    attention = encoder.encoder.layer[-1].attention
    attention.forward = partial(_attend, attention, rows, positions)
    try:
        return encoder(**inputs).last_hidden_state[:, 0]
    finally:
        del attention.forward


def _is_known(config: Any) -> bool:
    """Whether the attention of an encoder is what :func:`_attend` computes."""
    return (
        getattr(config, "model_type", "") in BERTS
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and getattr(config, "_attn_implementation", "eager") in ("eager", "sdpa")
        and not getattr(config, "is_decoder", False)
    )


def _attend(
    attention: Any,
    rows: Tensor,
    positions: Tensor,
    states: Tensor,
    attention_mask: Tensor | None = None,
    *_: Any,
    position_bias: Tensor | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """What ``attention``, a module of a BERT, RoBERTa or MPNet, makes of ``states`` ``(B, L, d)``
    at one position of each row ``(B, 1, d)``."""
    import torch

    if mpnet := hasattr(attention, "attn"):
        inner = attention.attn
        query, key, value = inner.q, inner.k, inner.v
    else:
        inner = attention.self
        query, key, value = inner.query, inner.key, inner.value

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)

    def at(every: Tensor) -> Tensor:
        """Of what is said of pairs of positions, what is said of these ``(B, h, 1, L)``."""
        return every.expand(len(rows), -1, states.shape[1], -1)[rows, :, positions][:, :, None]

    read = states[rows, positions][:, None]
    q, k, v = heads(query(read)), heads(key(states)), heads(value(states))
    scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if position_bias is not None:
        scores = scores + at(position_bias)
    if attention_mask is not None:
        mask = at(attention_mask)
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
    weights = inner.dropout(scores.softmax(-1)).to(v.dtype)
    context = (weights @ v).transpose(1, 2).flatten(2)
    if mpnet:
        return attention.LayerNorm(attention.dropout(inner.o(context)) + read), None
    return attention.output(context, read), None
