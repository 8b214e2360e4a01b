"""The tokenizer and the network of a pre-trained encoder."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from erc_bench.encoders.checking import (
    HEADS,
    check_vocabulary,
    check_weights,
    refuse_nested,
    tensors_alone,
)
from erc_bench.encoders.locating import (
    EncoderFiles,
    brief,
    check_fetched,
    check_whole,
    digest_of,
    find_encoder,
    has_tokenizer,
    weight_files,
)
from erc_bench.encoders.tokenising import panics_as_errors, special_tokens
from erc_bench.errors import ErcBenchError
from erc_bench.progress import say_once

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BERTS = ("bert", "roberta", "mpnet")
"""Types of encoders whose layers are built like BERT's."""

POSITIONS = {"position_embeddings", "embed_positions", "wpe"}
"""Names of modules that hold position embeddings."""

BOM = b"\xef\xbb\xbf"
"""The byte-order mark that some editors put before UTF-8 text."""

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
    _refuse_quantised(name)
    who = f"The tokenizer of the encoder {name!r}"
    tokenizer = _own_tokenizer(found)
    missing = [t for t in ("cls", "mask", "pad") if getattr(tokenizer, f"{t}_token_id") is None]
    if missing:
        raise ErcBenchError(
            f"{who} has no {' and no '.join(missing)} token. The methods read encoders of BERT's "
            "kind: choose one that was trained to fill in a mask."
        )
    check_vocabulary(tokenizer, said_of(name), type(config), found)
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
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
        # no longer adds it since version 5.
        own = AddedToken(mask.content, lstrip=True, normalized=False, special=True)
        tokenizer.add_special_tokens({"mask_token": own})
    # Turns are encoded whole and cut to the window afterwards.
    tokenizer.model_max_length = 1 << 30
    try:
        with panics_as_errors():
            before, after = special_tokens(tokenizer)
            tokenizer.backend_tokenizer.encode("☃ \u10fb")  # no vocabulary has all characters
    except Exception as error:  # the tokenizers library raises a bare one
        raise ErcBenchError(
            f"{who} can't read every text ({brief(error)}). Copy its tokenizer files again from "
            f"where the encoder comes from to {found.folder}."
        ) from error
    if not before and not after:
        file = found.folder / "tokenizer.json"
        without = f": {file} has no post_processor" if file.is_file() else ""
        raise ErcBenchError(
            f"{who} puts nothing before a text and nothing after it{without}. The methods' inputs "
            f"begin with the CLS token ({tokenizer.cls_token}) that the encoder was trained with. "
            f"Copy the tokenizer files again from where the encoder comes from to {found.folder}; "
            "if they are the same there, choose an encoder of the kind of BERT or RoBERTa."
        )
    if before != [tokenizer.cls_token_id]:
        said, ends = (
            " ".join(str(token) for token in tokenizer.convert_ids_to_tokens([*ids])) or "nothing"
            for ids in (before, after)
        )
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
        # Transformers would make one that knows nothing but the special tokens.
        raise ErcBenchError(
            f"The folder {found.folder} of the encoder {name!r} has no tokenizer: neither "
            "tokenizer.json nor vocab.txt, vocab.json with merges.txt, or a *.model file. Copy "
            "them from where the encoder comes from, or save them beside the weights: "
            "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)."
        )
    for file in _tokenizer_files(found.folder):
        check_fetched(found.folder / file, "part of the tokenizer")
        if (found.folder / file).read_bytes()[:3] == BOM:
            raise ErcBenchError(
                f"{found.folder / file} begins with a byte-order mark, which would be a part of "
                "its first entry. Save it as UTF-8 without one."
            )
    try:
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(found.folder, trust_remote_code=False)
    except Exception as error:  # several libraries raise many kinds of errors here
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


def said_of(name: str) -> dict[str, Any]:
    """The contents of an encoder's ``config.json``.

    Raises:
        ErcBenchError: it is not a JSON object.
    """
    path = find_encoder(name).folder / "config.json"
    check_fetched(path, "the configuration")
    try:
        said = json.loads(path.read_bytes())
        if not isinstance(said, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise ErcBenchError(
            f"{path} of the encoder {name!r} can't be used ({brief(error)}). Download it again."
        ) from error
    return said


def _refuse_quantised(name: str) -> None:
    """Raise if the weights of an encoder are quantised, so that it can't be fine-tuned."""
    path = find_encoder(name).folder / "config.json"
    if quantised := said_of(name).get("quantization_config"):
        kind = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ErcBenchError(
            f"{path} says that the weights are quantised ({kind or 'quantization_config'}), and "
            "such an encoder can't be fine-tuned as the methods do. Take the weights in float32, "
            "float16 or bfloat16 that it was made from."
        )


def _refuse_decoder(name: str, config: Any) -> None:
    """Raise if the tokens of an encoder attend only to the tokens before them."""
    both = getattr(config, "is_encoder_decoder", False)
    if getattr(config, "is_decoder", False) and not both:
        raise ErcBenchError(
            f'{find_encoder(name).folder / "config.json"} says "is_decoder": true. A token would '
            "then attend only to the tokens before it. The methods use the state of the first "
            "token, which would know nothing of the text. Write false there if the weights are "
            "an encoder's."
        )


def load_config(name: str) -> Any:
    """An encoder's configuration.

    Raises:
        ErcBenchError: as :func:`said_of`, or its kind is not known here.
    """
    from transformers import AutoConfig

    path = find_encoder(name).folder / "config.json"
    said_of(name)
    try:
        return AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    except Exception as error:  # several libraries raise many kinds of errors here
        raise ErcBenchError(
            f"{path} of the encoder {name!r} can't be used ({brief(error)}). Download it again; "
            "encoders that bring their own code, or are newer than the installed transformers, "
            "are not read."
        ) from error


def tokenizer_digest(name: str) -> str:
    """SHA-256 of the tokenizer: of its files, or of what an older form is converted to."""
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
        max_len: how many tokens it must be able to read.

    Raises:
        ErcBenchError: it can't be loaded, weights are missing, or it has fewer positions.
    """
    found = find_encoder(name)
    config = load_config(name)
    _refuse_quantised(name)
    _refuse_decoder(name, config)
    for path in weight_files(found.folder):
        check_whole(path)
    encoder = _with_weights(found, config)
    # Some configurations ask for more or other outputs.
    encoder.config.return_dict = True
    encoder.config.output_hidden_states = encoder.config.output_attentions = False
    if getattr(config, "is_encoder_decoder", False):
        say_once(
            f"The encoder {name} has a decoder. The decoder's last states are used. The decoder "
            "gets the same tokens, each one place later, and attends to the encoder's states of "
            "all of them."
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
        ErcBenchError: it can't be loaded, is not a causal language model, or weights are missing.
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
    optional: frozenset[str] = HEADS,
    **options: Any,
) -> PreTrainedModel:
    """Load a network with all of its weights; those of ``optional`` parts may be missing."""
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
        named = re.search(r"GLOBAL (\S+)", str(error))
        said = f"they name {named[1]}" if named else brief(error)
        raise ErcBenchError(
            f"The weights in {found.folder} hold more than tensors, which could run code on this "
            f"machine, and are not loaded ({said}). Take a copy with safetensors. Only "
            f"if you trust their origin, make a folder NEW with the tensors alone and name it: "
            f"{tensors_alone(found)}"
        ) from error
    except Exception as error:  # several libraries raise many kinds of errors here
        refuse_nested(found)
        raise ErcBenchError(
            f"The encoder in {found.folder} can't be loaded ({brief(error)}). Its weights are cut "
            "off or damaged, or its config.json is another model's: download both again."
        ) from error
    check_weights(encoder, report, found, optional)
    return encoder


def most_positions(encoder: Any) -> int | None:
    """How many tokens an encoder can read, by its position embeddings; None for any number."""
    import torch

    found = []
    for name, module in encoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in POSITIONS:
            # RoBERTa's kind counts positions from the index after the padding's, BART's from 2.
            offset = getattr(module, "offset", None)
            if offset is None:
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - offset)
    return min(found, default=None)


def _try_out(encoder: Any, name: str, max_len: int) -> None:
    """Run an encoder of a kind that is not known here, and raise if it fails.

    If it fails only under bfloat16 autocast, as DeBERTa version 1 does, it is computed in float32.
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
                who = f"The encoder {name!r} ({encoder.config.model_type})"
                try:
                    read(ids[:, :2])
                except Exception:
                    raise ErcBenchError(
                        f"{who} can't be read as the methods do, which give an encoder the ids of "
                        f"a text and take its last states ({brief(error)}). Choose an encoder of "
                        "another kind, such as a BERT or a RoBERTa."
                    ) from error
                raise ErcBenchError(
                    f"{who} can't read {ids.shape[1]} tokens ({brief(error)}), but fewer. Choose a "
                    "smaller max_len, or an encoder of another kind, such as a RoBERTa."
                ) from error
            try:
                with torch.autocast("cpu", torch.bfloat16):
                    read(ids[:, :2])
            except Exception:
                _compute_in_float32(encoder)
                say_once(
                    f"The encoder {name} ({encoder.config.model_type}) can't be computed in lower "
                    "precision, so it is computed in float32, whatever precision= says."
                )
    finally:
        encoder.train(training)


def _compute_in_float32(encoder: Any) -> None:
    """Make an encoder compute without autocast from now on."""
    import torch

    kind = type(encoder)

    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return kind.forward(self, *args, **inputs)

    # A class of the same name, since a saved encoder's configuration holds the name.
    encoder.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def in_float32(layers: Any, states: Tensor) -> Tensor:
    """``layers(states)`` in float32, also under autocast."""
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return layers(states.float())
