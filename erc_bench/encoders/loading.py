"""The tokenizer and the network of a pre-trained encoder."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from erc_bench.encoders.locating import digest_of, find_encoder
from erc_bench.errors import ErcBenchError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BERTS = ("bert", "roberta", "mpnet")
"""Types of encoders whose layers are built like BERT's."""

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that a fast tokenizer is made of; only the first is always there."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The encoder's own fast tokenizer.

    Raises:
        ErcBenchError: it is a slow one, or lacks a token that the methods' inputs are made of.
    """
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_encoder(name).folder)
    if not tokenizer.is_fast:
        raise ErcBenchError(f"The encoder {name!r} has no fast tokenizer (tokenizer.json).")
    missing = [t for t in ("cls", "mask", "pad") if getattr(tokenizer, f"{t}_token_id") is None]
    if missing:
        raise ErcBenchError(
            f"The tokenizer of the encoder {name!r} has no {' and no '.join(missing)} token. The "
            "methods read encoders of BERT's kind: choose one that was trained to fill in a mask."
        )
    mask = tokenizer.added_tokens_decoder[tokenizer.mask_token_id]
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel) and not mask.lstrip:
        # RoBERTa's mask takes the space before it. Old repositories do not say so, and transformers
        # of version 5 adds it no longer.
        own = AddedToken(mask.content, lstrip=True, normalized=False, special=True)
        tokenizer.add_special_tokens({"mask_token": own})
    # Turns are encoded whole and cut to the window afterwards.
    tokenizer.model_max_length = 1 << 30
    return tokenizer


def tokenizer_digest(name: str) -> str:
    """SHA-256 of the tokenizer: of its files, or of what older forms are converted to."""
    folder = find_encoder(name).folder
    files = [folder / file for file in TOKENIZER]
    if files[0].exists():
        made = str([digest_of(file) if file.exists() else "" for file in files])
    else:
        made = load_tokenizer(name).backend_tokenizer.to_str()
    return hashlib.sha256(made.encode()).hexdigest()


def load_encoder(name: str, max_len: int = 0) -> PreTrainedModel:
    """The pre-trained encoder in float32, without a pooling layer.

    Args:
        name: hub id or folder.
        max_len: tokens that it must be able to read.

    Raises:
        ErcBenchError: it can't be loaded, or has fewer positions.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    folder = find_encoder(name).folder
    pooling = {"add_pooling_layer": False}
    if AutoConfig.from_pretrained(folder).model_type not in BERTS:
        pooling = {}
    try:
        encoder = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **pooling
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ErcBenchError(
            f"The encoder in {folder} can't be loaded: {str(error).splitlines()[0]}"
        ) from error
    if encoder.config.model_type in BERTS:
        # RoBERTa's kind counts positions from behind the padding's index.
        first = getattr(encoder.embeddings, "padding_idx", -1) + 1
        positions = encoder.config.max_position_embeddings - first
        if max_len > positions:
            raise ErcBenchError(
                f"The encoder {name!r} reads {positions} tokens at most, not max_len={max_len}."
            )
    return encoder


def in_float32(layers: Any, states: Tensor) -> Tensor:
    """``layers(states)`` in float32, also under autocast."""
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return layers(states.float())
