"""Checks of the files of an encoder, with errors that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erc_bench.encoders.locating import AGAIN, EncoderFiles, some, weight_files
from erc_bench.errors import ErcBenchError
from erc_bench.progress import say_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEADS = frozenset({"pooler", "cls", "lm_head", "classifier", "qa_outputs", "predictions"})
"""Parts of a network that are not used here, so their weights may be missing."""

PADDING = (8, 16, 32, 64, 100, 128, 256, 512, 1000, 1024)
"""Embeddings are rounded up to a multiple of one of these: T5 has 32,128 for 32,100 entries,
DeBERTa-v3 128,100 for 128,001, mDeBERTa-v3 251,000 for 250,102, XLM-RoBERTa-XL 250,880 for
250,002."""

SPARE = {
    (250037, 250002),  # Multilingual MiniLM, and what was made of it: multilingual-e5-small
    (32102, 31102),  # dbmdz's Italian XXL, trained with a wrong vocab_size
}
"""Numbers of embeddings and of tokenizer entries in published encoders that :data:`PADDING` does
not explain. Multilingual MiniLM also names another padding token than its tokenizer."""

UNUSED = ("token_type_embeddings", "segment", "bias")
"""Parts of the names of matrices that are all zeros in published encoders: RoBERTa has one type of
token, and some kinds of encoder have biases for each attention head."""


# --- tokenizers


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any],
    kind: type | None,
    found: EncoderFiles,
) -> None:
    """Raise if a tokenizer can't be the one that an encoder was trained with.

    Args:
        tokenizer: as transformers loads it.
        config: what ``config.json`` says.
        kind: transformers' class of that configuration. Token ids that equal its defaults are not
            compared, except for padding: they say nothing about the tokenizer.
        found: the encoder's files.
    """
    embeddings = config.get("vocab_size")
    if not isinstance(embeddings, int):
        return
    who = f"The tokenizer of the encoder {found.name!r} is not its own"
    remedy = (
        "Put the tokenizer files, the config.json and the weights of one and the same model into "
        f"{found.folder}."
    )
    vocabulary = tokenizer.get_vocab()
    entries = max(vocabulary.values()) + 1  # an id without an entry needs an embedding, too
    if (embeddings, entries) in SPARE:
        return
    if embeddings != entries and not _is_padding(embeddings, entries):
        file = next(
            (f for f in ("tokenizer.json", "vocab.txt") if (found.folder / f).is_file()), ""
        )
        few = (
            f" If nothing of {file} is missing and they do belong together, remove the unused "
            "embeddings: model.resize_token_embeddings(len(tokenizer)), then save both."
        )
        raise ErcBenchError(
            f"{who}: it has {len(vocabulary)} entries with ids up to {entries - 1}, and "
            f"config.json says {embeddings} embeddings (vocab_size). "
            f"{remedy}{few if file and entries < embeddings else ''}"
        )
    if embeddings != entries and not (found.folder / "tokenizer.json").is_file():
        say_once(
            f"Note: the tokenizer of the encoder {found.name} has {entries} entries, the encoder "
            f"{embeddings} embeddings. That is right only if the rest is padding and no line of "
            "its vocabulary is missing."
        )
    defaults = _defaults(kind)
    config = {
        name: value
        for name, value in config.items()
        if name == "pad_token_id" or value != defaults.get(name)
    }
    for name in ("pad", "cls", "sep"):
        said, own = config.get(f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if isinstance(said, int) and own is not None and said != own:
            raise ErcBenchError(
                f"{who}: its {name} token has the id {own}, and config.json says {said} "
                f"({name}_token_id). {remedy} If they do belong together, write {own} there."
            )
    # BigBird has the two swapped in one of the files, which does no harm.
    ends = [f"{name}_token_id" for name in ("bos", "eos")]
    told = {config[end] for end in ends if isinstance(config.get(end), int)}
    ids = {getattr(tokenizer, end) for end in ends} - {None}
    if len(told) == len(ids) == 2 and told != ids:
        raise ErcBenchError(
            f"{who}: its bos and eos tokens have the ids {sorted(ids)}, and config.json says "
            f"{sorted(told)} (bos_token_id, eos_token_id). {remedy}"
        )


def _defaults(kind: type | None) -> Mapping[str, Any]:
    """The default settings of a configuration class."""
    try:
        return {} if kind is None else vars(kind())
    except Exception:  # classes that are made of others have no defaults
        return {}


def _is_padding(embeddings: int, entries: int) -> bool:
    """Whether the number of embeddings is that of the entries, rounded up."""
    return any(
        embeddings == -(-entries // multiple) * multiple
        for multiple in PADDING
        if multiple == PADDING[0] or embeddings >= 8 * multiple
    )


# --- weights


def check_weights(
    encoder: Any, report: Mapping[str, Any], found: EncoderFiles, optional: frozenset[str]
) -> None:
    """Raise if weights are missing, layers of the file are not used, or weights are not trained.

    Args:
        encoder: as transformers loads it.
        report: transformers' report of the keys that are missing, unexpected or of another size.
        found: the encoder's files.
        optional: parts of the network whose weights may be missing.
    """
    _check_names(encoder, report, found, optional)
    _check_values(encoder, found)


def _check_names(
    encoder: Any, report: Mapping[str, Any], found: EncoderFiles, optional: frozenset[str]
) -> None:
    remedy = "Put the config.json and the weights of one and the same model into that folder."
    here = f"The weights in {found.folder} are not those that its config.json describes"
    of_all = f"of {len(encoder.state_dict())}"
    if sizes := [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]:
        raise ErcBenchError(
            f"{here}: {len(sizes)} {of_all} have another size ({some(sorted(sizes))}). {remedy}"
        )
    unexpected = sorted(report["unexpected_keys"])
    if missing := sorted(key for key in report["missing_keys"] if not _part_of(key, optional)):
        refuse_nested(found)
        others = [key for key in unexpected if not _part_of(key, HEADS)]
        instead = f"; there are {some(others)} instead, which have no place in it" if others else ""
        prefix = _prefix(missing, others)
        if prefix and len(weight_files(found.folder)) == 1:
            remedy = (
                f"If they only differ in that their names begin with {prefix!r}, make a "
                f"folder NEW with other names and name it: {renaming(found, prefix)}"
            )
        raise ErcBenchError(
            f"{here}: {len(missing)} {of_all} are missing ({some(missing)}){instead}. "
            "They would be random. " + remedy
        )

    def anywhere(key: str) -> str:
        return re.sub(r"\.\d+\.", ".#.", key.removeprefix(f"{encoder.base_model_prefix}."))

    known = {anywhere(key) for key in encoder.state_dict() if re.search(r"\.\d+\.", key)}
    if more := [key for key in unexpected if anywhere(key) in known]:
        raise ErcBenchError(
            f"{here}: they have further layers, which would be left out ({some(more)}). {remedy}"
        )


def _part_of(key: str, parts: frozenset[str]) -> bool:
    return bool(parts & set(key.split(".")))


def _prefix(missing: list[str], others: list[str]) -> str:
    """The prefix under which ``others`` has all missing weights; empty if there is none."""
    prefixes = {key.removesuffix(missing[0]) for key in others if key.endswith(missing[0])}
    there = set(others)
    return next((p for p in sorted(prefixes) if p and all(p + key in there for key in missing)), "")


def _check_values(encoder: Any, found: EncoderFiles) -> None:
    """Raise if weights are not finite, or a matrix is all zeros: one pass, nothing copied."""
    import torch

    floats = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
    infinite, zeros, tensors = [], [], 0
    for name, weight in encoder.named_parameters():
        if not weight.numel() or weight.is_meta or weight.dtype not in floats:
            continue  # such as the weights of a quantised language model
        tensors += 1
        low, high = (float(bound) for bound in torch.aminmax(weight.detach()))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            infinite.append(name)
        elif low == high == 0 and weight.ndim > 1 and not any(part in name for part in UNUSED):
            zeros.append(name)
    for names, what in ((infinite, "NaN or infinity"), (zeros, "nothing but zeros")):
        if names:
            raise ErcBenchError(
                f"{_files_of(names, found)}: {len(names)} of {tensors} weights hold {what} "
                f"({some(names)}). Its download was interrupted, it is damaged, or a training "
                f"that diverged wrote it. {AGAIN}"
            )


def _files_of(names: list[str], found: EncoderFiles) -> str:
    """The files that hold some weights; all files if that is not known."""
    files = weight_files(found.folder)
    if len(files) > 1:
        index = next(found.folder.glob(f"*{files[0].suffix}.index.json"), None)
        if index is not None:
            places = json.loads(index.read_text())["weight_map"]
            holding = {f for key, f in places.items() if any(key.endswith(name) for name in names)}
            files = [path for path in files if path.name in holding] or files
    return f"{files[0].parent}: {some([f.name for f in files])}" if files[1:] else str(files[0])


def refuse_nested(found: EncoderFiles) -> None:
    """Raise if a ``pytorch_model.bin`` is a training checkpoint, whose weights are one level
    deeper."""
    import torch

    for path in () if found.safetensors else weight_files(found.folder):
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # the caller reports what is wrong with the file
            return
        for name, value in held.items() if isinstance(held, dict) else ():
            if isinstance(value, dict) and any(torch.is_tensor(v) for v in value.values()):
                raise ErcBenchError(
                    f"{path} is the checkpoint of a training, and its weights are under "
                    f"{name!r}. Make a folder NEW with them alone and name it: "
                    f"{tensors_alone(found, str(name))}"
                )


# --- copies that can be loaded


def tensors_alone(found: EncoderFiles, nested: str = "") -> str:
    """A command that copies an encoder's folder to NEW and keeps only the tensors of its pickles.

    From a pickled network or a training checkpoint it takes the weights. With ``nested``, the key
    of the weights in a checkpoint, it unpickles nothing that could run code.
    """
    names = (nested,) if nested else ("state_dict", "model_state_dict", "model")
    return (
        'python -c "import glob, shutil, torch; '
        f"shutil.copytree('{found.folder}', 'NEW'); "
        "[torch.save({k: v for k, v in d.items() if torch.is_tensor(v)}, p) "
        "for p in glob.glob('NEW/pytorch_model*.bin') "
        f"for m in [torch.load(p, map_location='cpu', weights_only={bool(nested)})] "
        "for s in [m if isinstance(m, dict) else m.state_dict()] "
        f'for d in [next((s[n] for n in {names} if isinstance(s.get(n), dict)), s)]]"'
    )


def renaming(found: EncoderFiles, prefix: str) -> str:
    """A command that copies an encoder's folder to NEW without a prefix of the weights' names.

    The folder must have one file of weights.
    """
    if found.safetensors:
        imports, file = "from safetensors.torch import load_file, save_file", "model.safetensors"
        load, save = "load_file(p)", "save_file(d, p, {'format': 'pt'})"
    else:
        imports, file = "import torch", "pytorch_model.bin"
        load, save = "torch.load(p, map_location='cpu')", "torch.save(d, p)"
    return (
        f"python -c \"import shutil; {imports}; shutil.copytree('{found.folder}', 'NEW'); "
        f"p = 'NEW/{file}'; d = {{k.removeprefix('{prefix}'): v for k, v in {load}.items()}}; "
        f'{save}"'
    )
