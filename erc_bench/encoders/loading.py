"""The tokenizer and the network of a pre-trained encoder."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from erc_bench.encoders.locating import (
    EncoderFiles,
    brief,
    check_whole,
    digest_of,
    find_encoder,
    has_tokenizer,
    some,
    weight_files,
)
from erc_bench.encoders.tokenising import special_tokens
from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BERTS = ("bert", "roberta", "mpnet")
"""Types of encoders whose layers are built like BERT's."""

HEADS = {"pooler", "cls", "lm_head", "classifier", "qa_outputs", "predictions"}
"""Parts of a network that are not read here, so that their weights may be missing."""

POSITIONS = {"position_embeddings", "embed_positions", "wpe"}
"""Names that modules with embeddings of positions have."""

TENSORS_ALONE = (
    "python -c \"import glob, shutil, torch; shutil.copytree('OLD', 'NEW'); "
    "[torch.save({k: v for k, v in torch.load(p, weights_only=False).items() "
    "if torch.is_tensor(v)}, p) for p in glob.glob('NEW/pytorch_model*.bin')]\""
)
"""Copies the folder of an encoder, tokenizer included, without what is pickled beside tensors."""

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
        ErcBenchError: it can't be loaded, is not this encoder's, is a slow one, lacks a token that
            the methods' inputs are made of, or does not begin a text with its CLS token.
    """
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel

    found = find_encoder(name)
    config = load_config(name)
    who = f"The tokenizer of the encoder {name!r}"
    tokenizer = _own_tokenizer(found)
    missing = [t for t in ("cls", "mask", "pad") if getattr(tokenizer, f"{t}_token_id") is None]
    if missing:
        raise ErcBenchError(
            f"{who} has no {' and no '.join(missing)} token. The methods read encoders of BERT's "
            "kind: choose one that was trained to fill in a mask."
        )
    vocabulary, embeddings = tokenizer.get_vocab(), getattr(config, "vocab_size", None)
    if embeddings:
        highest = max(vocabulary.values())
        if highest >= embeddings or 2 * len(vocabulary) < embeddings:
            raise ErcBenchError(
                f"{who} is not its own: it has {len(vocabulary)} entries with ids up to {highest}, "
                f"and config.json says {embeddings} embeddings (vocab_size). Put the tokenizer "
                f"files and the config.json of one and the same model into {found.folder}."
            )
    if not vocabulary.keys() - set(tokenizer.all_special_tokens):
        raise ErcBenchError(
            f"{who} knows no words, only special tokens. Copy its tokenizer files again from where "
            f"the encoder comes from to {found.folder}."
        )
    mask = tokenizer.added_tokens_decoder.get(tokenizer.mask_token_id)
    if (
        isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel)
        and mask is not None
        and not mask.lstrip
    ):
        # RoBERTa's mask takes the space before it. Old repositories do not say so, and transformers
        # of version 5 adds it no longer.
        own = AddedToken(mask.content, lstrip=True, normalized=False, special=True)
        tokenizer.add_special_tokens({"mask_token": own})
    # Turns are encoded whole and cut to the window afterwards.
    tokenizer.model_max_length = 1 << 30
    before, after = special_tokens(tokenizer)
    if before != [tokenizer.cls_token_id]:
        said = " ".join(tokenizer.convert_ids_to_tokens([*before])) or "nothing"
        ends = " ".join(tokenizer.convert_ids_to_tokens([*after])) or "nothing"
        raise ErcBenchError(
            f"{who} puts {said} before a text and {ends} after it. The methods' inputs begin with "
            f"the CLS token ({tokenizer.cls_token}), as those of BERT and RoBERTa do: choose an "
            "encoder of their kind."
        )
    return tokenizer


def _own_tokenizer(found: EncoderFiles) -> PreTrainedTokenizerBase:
    """The fast tokenizer that lies beside an encoder's weights.

    Raises:
        ErcBenchError: there is none, it can't be loaded, or it is a slow one.
    """
    from transformers import AutoTokenizer

    name = found.name
    if not has_tokenizer(found.folder):
        # Transformers would make one of the special tokens alone, to which all text is unknown.
        raise ErcBenchError(
            f"The folder {found.folder} of the encoder {name!r} has no tokenizer: neither "
            "tokenizer.json nor vocab.txt, vocab.json with merges.txt, or a *.model file. Copy "
            "them from where the encoder comes from, or save them beside the weights: "
            "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(found.folder, trust_remote_code=False)
    except Exception as error:  # of several libraries, about files of many forms
        raise ErcBenchError(
            f"The tokenizer of the encoder {name!r} can't be loaded from {found.folder} "
            f"({brief(error)}). One of its files "
            f"({', '.join(_tokenizer_files(found.folder))}) is damaged, or needs another package "
            "or a newer transformers: download them again, all from one source."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ErcBenchError(f"The encoder {name!r} has no fast tokenizer (tokenizer.json).")
    return tokenizer


def load_causal_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a causal language model; it needs no CLS, mask or padding token.

    Raises:
        ErcBenchError: there is none, it can't be loaded, or it is a slow one.
    """
    tokenizer = _own_tokenizer(find_encoder(name))
    tokenizer.model_max_length = 1 << 30  # prompts are cut by whole turns
    return tokenizer


def _tokenizer_files(folder: Path) -> list[str]:
    names = (*TOKENIZER, "vocab.txt", "vocab.json", "merges.txt")
    return [n for n in names if (folder / n).is_file()] + [p.name for p in folder.glob("*.model")]


def load_config(name: str) -> Any:
    """An encoder's configuration.

    Raises:
        ErcBenchError: ``config.json`` can't be read, or is not of a kind that is known here.
    """
    from transformers import AutoConfig

    path = find_encoder(name).folder / "config.json"
    try:
        said = json.loads(path.read_bytes())
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        return AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    except Exception as error:  # of several libraries, about anything that may stand there
        raise ErcBenchError(
            f"{path} of the encoder {name!r} can't be used ({brief(error)}). Download it again; "
            "encoders that bring their own code, or are newer than the installed transformers, "
            "are not read."
        ) from error


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
        ErcBenchError: it can't be loaded, its weights are not all there, or it has fewer positions.
    """
    found = find_encoder(name)
    config = load_config(name)
    for path in weight_files(found.folder):
        check_whole(path)
    encoder = _with_weights(found, config)
    # Some configurations ask for more or other outputs.
    encoder.config.return_dict = True
    encoder.config.output_hidden_states = encoder.config.output_attentions = False
    if getattr(config, "is_encoder_decoder", False):
        _say_once(
            f"The encoder {name} has a decoder. What is read of it are the decoder's last states; "
            "the decoder is given the same tokens, each one place later, and attends "
            "to the encoder's states of all of them."
        )
    positions = most_positions(encoder)
    if positions is not None and max_len > positions:
        raise ErcBenchError(
            f"The encoder {name!r} reads {positions} tokens at most, not max_len={max_len}. Choose "
            f"max_len={positions} or less, or another encoder."
        )
    if config.model_type not in BERTS:
        _try_out(encoder, name, max_len)
    return encoder


def load_causal_lm(name: str, **options: Any) -> PreTrainedModel:
    """A pre-trained causal language model.

    Args:
        name: hub id or folder.
        options: further arguments of ``from_pretrained``: ``dtype``, ``quantization_config``.

    Raises:
        ErcBenchError: it can't be loaded, is no causal language model, or its weights are not all
            there.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = find_encoder(name)
    config = load_config(name)
    for path in weight_files(found.folder):
        check_whole(path)
    kinds = getattr(config, "architectures", None) or []
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not all(
        "CausalLM" in kind or "LMHead" in kind for kind in kinds
    ):
        raise ErcBenchError(
            f"{name!r} is no causal language model but a {config.model_type} "
            f"({', '.join(kinds) or 'of no known architecture'}). Choose one that continues text, "
            "such as a Llama, Qwen or Mistral."
        )
    return _with_weights(found, config, AutoModelForCausalLM, frozenset(), **options)


def _with_weights(
    found: EncoderFiles,
    config: Any,
    kind: Any = None,
    optional: frozenset[str] = frozenset(HEADS),
    **options: Any,
) -> PreTrainedModel:
    """The network with all of its weights, but for parts that are ``optional``."""
    import torch
    from transformers import AutoModel

    for logger in ("transformers.modeling_utils", "transformers.utils.loading_report"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # what it reports is checked here
    if kind is None:
        kind = AutoModel
        options |= {"add_pooling_layer": False} if config.model_type in BERTS else {}
    try:
        encoder, report = kind.from_pretrained(
            found.folder,
            use_safetensors=found.safetensors,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, with their names
            trust_remote_code=False,
            **{"dtype": torch.float32, **options},
        )
    except UnpicklingError as error:
        said = next((line for line in str(error).splitlines() if "GLOBAL" in line), brief(error))
        raise ErcBenchError(
            f"The weights in {found.folder} hold more than tensors, which could run code on this "
            f"machine, and are not loaded ({said.strip()}). Take a copy with safetensors. Only "
            f"if you trust their origin, make a folder NEW with the tensors alone and name it: "
            f"{TENSORS_ALONE.replace('OLD', str(found.folder))}"
        ) from error
    except Exception as error:  # of several libraries, about files of many forms
        raise ErcBenchError(
            f"The encoder in {found.folder} can't be loaded ({brief(error)}). Its weights are cut "
            "off or damaged, or its config.json is another model's: download both again."
        ) from error
    _check_weights(encoder, report, found, optional)
    return encoder


def _check_weights(
    encoder: Any, report: Mapping[str, Any], found: EncoderFiles, optional: frozenset[str]
) -> None:
    """Raise if a weight of the encoder was not in its file, or a layer of the file is not used."""
    remedy = "Put the config.json and the weights of one and the same model into that folder."
    here = f"The weights in {found.folder} are not those that its config.json describes"
    of_all = f"of {len(encoder.state_dict())}"
    if sizes := [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]:
        raise ErcBenchError(
            f"{here}: {len(sizes)} {of_all} have another size ({some(sorted(sizes))}). {remedy}"
        )
    if missing := [key for key in report["missing_keys"] if not optional & set(key.split("."))]:
        others = sorted(report["unexpected_keys"])
        instead = f"; there are {some(others)} instead, which have no place in it" if others else ""
        raise ErcBenchError(
            f"{here}: {len(missing)} {of_all} are missing ({some(sorted(missing))}){instead}. "
            "They would be random. " + remedy
        )

    def anywhere(key: str) -> str:
        return re.sub(r"\.\d+\.", ".#.", key.removeprefix(f"{encoder.base_model_prefix}."))

    known = {anywhere(key) for key in encoder.state_dict() if re.search(r"\.\d+\.", key)}
    if more := sorted(key for key in report["unexpected_keys"] if anywhere(key) in known):
        raise ErcBenchError(
            f"{here}: they have further layers, which would be left out ({some(more)}). {remedy}"
        )


def most_positions(encoder: Any) -> int | None:
    """How many tokens an encoder can read, by its embeddings of positions; None: any number."""
    import torch

    found = []
    for name, module in encoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in POSITIONS:
            # RoBERTa's kind counts positions from behind the padding's index, BART's from 2.
            offset = getattr(module, "offset", None)
            if offset is None:
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - offset)
    return min(found, default=None)


def _try_out(encoder: Any, name: str, max_len: int) -> None:
    """Let an encoder of a kind that is not known here read something.

    One that fails under bfloat16's autocast, as DeBERTa of version 1 does, is computed in float32.
    """
    import torch

    pad = getattr(encoder.config, "pad_token_id", None) or 0
    ids = torch.full((1, max(max_len, 2)), (pad + 1) % (encoder.config.vocab_size or 2))
    training = encoder.training
    encoder.eval()

    def read(ids: Tensor) -> None:
        states = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        if states.shape[:2] != ids.shape:
            raise ValueError(f"states of shape {tuple(states.shape)} for {ids.shape[1]} tokens")

    try:
        with torch.no_grad():
            try:
                read(ids)
            except Exception as error:  # whatever the encoder's own code raises
                raise ErcBenchError(
                    f"The encoder {name!r} ({encoder.config.model_type}) can't read {ids.shape[1]} "
                    f"tokens ({brief(error)}). Choose a smaller max_len, or an encoder of another "
                    "kind, such as a RoBERTa."
                ) from error
            try:
                with torch.autocast("cpu", torch.bfloat16):
                    read(ids[:, :2])
            except Exception:
                _compute_in_float32(encoder)
                _say_once(
                    f"The encoder {name} ({encoder.config.model_type}) can't be computed in lower "
                    "precision, so it is computed in float32, whatever precision= says."
                )
    finally:
        encoder.train(training)


def _compute_in_float32(encoder: Any) -> None:
    """From now on let an encoder be computed without autocast."""
    import torch

    kind = type(encoder)

    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return kind.forward(self, *args, **inputs)

    # A class of the same name, which is written into a saved encoder's configuration.
    encoder.__class__ = type(kind.__name__, (kind,), {"forward": forward})


@cache
def _say_once(message: str) -> None:
    say(message)


def in_float32(layers: Any, states: Tensor) -> Tensor:
    """``layers(states)`` in float32, also under autocast."""
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return layers(states.float())
