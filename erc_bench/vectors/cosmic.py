"""Utterance vectors that others have extracted, in COSMIC's pickle layout.

A list ``[speakers, labels, (sentiments,) roberta1..4, sentences, train ids, test ids, dev ids]`` of
dicts by dialogue id (Ghosal et al. 2020, as published with their code). A pickle can run any code.
So :class:`CosmicUnpickler` builds only plain containers, numbers, strings and numpy arrays, and
refuses everything else by name.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, Utterance
from erc_bench.errors import ErcBenchError

COSMIC_PARTS = (
    *("speakers", "labels", "sentiments", "roberta1", "roberta2", "roberta3", "roberta4"),
    *("sentences", "train", "test", "dev"),
)


class _Dtype:
    """Stands in for a plain numpy dtype while a pickle is read."""

    def __init__(self, name: Any = "", *ignored: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiub](1|2|4|8)|[SU]\d+", name):
            raise ValueError(f"a numpy dtype {name!r}")
        self.name = name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if any(part is not None for part in state[2:5]):
            raise ValueError("a structured numpy dtype")
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def read(self, data: Any) -> np.ndarray:
        """Raw bytes as a flat array."""
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, np.dtype(self.order + self.name))


class _Array:
    """Stands in for a numpy array while a pickle is read, instead of numpy's reconstruction."""

    array: np.ndarray

    def __init__(self, *ignored: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.array = dtype.read(data).reshape(shape, order="F" if fortran else "C")


def _array_from_buffer(data: Any, dtype: _Dtype, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.array = dtype.read(data).reshape(shape, order=order)
    return made


def _array(shape: Any, dtype: str, data: Any) -> _Array:
    """Stands in for ``numpy.ndarray``, as :class:`CosmicPickler` calls it."""
    plain = _Dtype(dtype.lstrip("<"))
    plain.order = "<"
    return _array_from_buffer(data, plain, shape, "C")


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    # Older protocols write bytes in this way.
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): _array,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.multiarray", "scalar"] = lambda dtype, data: dtype.read(data)[0].item()
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer


class CosmicPickler(pickle.Pickler):
    """Writes arrays so that every version of numpy reads them.

    Numpy 2 itself names its own modules in a pickle, which numpy before 1.26 does not have.
    """

    def reducer_override(self, thing: Any) -> Any:
        """How an array is written: as a call of ``numpy.ndarray``."""
        if type(thing) is not np.ndarray:
            return NotImplemented
        little = thing.astype(thing.dtype.newbyteorder("<"))
        return np.ndarray, (thing.shape, little.dtype.str, little.tobytes())


class CosmicUnpickler(pickle.Unpickler):
    """Builds plain containers, numbers, strings and numpy arrays; refuses the rest by name.

    Nothing that a pickle names is imported or called, except the stand-ins above. Arrays are
    returned as stand-ins too; :func:`as_array` converts them.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        # The files of the older corpora were written by Python 2, which wrote strings as bytes.
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of this name."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise ErcBenchError(
                f"{self.path} is refused: it asks for {module}.{name}, and a pickle of utterance "
                "vectors may hold plain containers, numbers, strings and numpy arrays only. "
                "Nothing of it was run. If you trust where it comes from, save its vectors again "
                "as lists or numpy arrays."
            ) from None


def read_cosmic(path: Path) -> dict[str, Any]:
    """The parts of a file in COSMIC's layout, by their names in ``COSMIC_PARTS``.

    The file holds a list of 11 parts, or of 10 without sentiments. The last three are the dialogue
    ids of train, test and dev; the others are dictionaries by dialogue id.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ErcBenchError(
            f"features.path names {path}, which can't be read: {error.strerror}."
        ) from error
    try:
        parts = CosmicUnpickler(data, path).load()
    except ErcBenchError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ErcBenchError(
            f"{path} can't be read as a pickle of plain data ({type(error).__name__}: {error}). "
            "It is damaged, or holds something else. Vectors are read from .safetensors, .npz, and "
            "pickles in COSMIC's layout."
        ) from error
    names = (
        COSMIC_PARTS
        if isinstance(parts, (list, tuple)) and len(parts) == 11
        else tuple(name for name in COSMIC_PARTS if name != "sentiments")
    )
    known = isinstance(parts, (list, tuple)) and len(parts) == len(names)
    if not known or not all(isinstance(part, dict) for part in parts[:-3]):
        raise ErcBenchError(
            f"{path} is not in COSMIC's layout: a list of {', '.join(COSMIC_PARTS)} (sentiments "
            "may be missing). All but the last three must be dictionaries by dialogue id."
        )
    return dict(zip(names, parts, strict=True))


def as_array(value: Any) -> np.ndarray:
    """The vectors of a dialogue ``(k, d)``, given as an array or as a list of vectors."""
    if isinstance(value, _Array):
        return value.array.astype(np.float32)
    rows = [row.array if isinstance(row, _Array) else row for row in value]
    return np.asarray(rows, dtype=np.float32)


def match(
    parts: Mapping[str, Any], corpus: Corpus, layer: int, size: int, path: Path
) -> tuple[Tensor, Tensor]:
    """The vectors of a corpus's turns ``(rows, size)``, and which of them have one ``(rows,)``.

    The vectors of ``roberta{layer}`` are used. Dialogues are found by their ids if the file has all
    of them, else by their order in the split. A dialogue has a vector for every turn, or for its
    labelled turns only. If the file has the sentences, they must be the turns' texts. In a split
    whose labels are hidden, nothing tells which turns are labelled: there a dialogue has either a
    vector for every turn or none.

    Raises:
        ErcBenchError: dialogues, utterances or their texts do not match; the message says which.
    """
    table = {str(key): value for key, value in parts[f"roberta{layer}"].items()}
    sentences = {str(key): value for key, value in parts["sentences"].items()}
    splits = [split for split in SPLITS if split in corpus.contents]
    dialogues = {split: corpus.dialogues(split) for split in splits}
    ids = {split: [d.id for d in dialogues[split]] for split in splits}
    if not all(i in table for of_split in ids.values() for i in of_split):
        for split in splits:
            there = _in_order(parts[split])
            if len(there) != len(ids[split]) or any(i not in table for i in there):
                raise ErcBenchError(
                    f"{path} does not fit {corpus.name}: it knows its dialogues by other ids than "
                    f"the corpus (such as {ids[split][0]!r}), and its {split} split has "
                    f"{len(there)} dialogues, the corpus {len(ids[split])}. Give the vectors of "
                    "this release."
                )
            ids[split] = there
    vectors, present = [], []
    others: list[tuple[Utterance, str]] = []
    for split in splits:
        hidden = not any(dialogue.labelled for dialogue in dialogues[split])
        for dialogue, i in zip(dialogues[split], ids[split], strict=True):
            where = f"{path}, dialogue {i} ({corpus.name}, {split}, {dialogue.id!r})"
            try:
                given = as_array(table[i])
            except (TypeError, ValueError) as error:
                raise ErcBenchError(f"{where}: its vectors are no numbers ({error}).") from error
            if given.ndim != 2 or given.shape[1] != size:
                raise ErcBenchError(
                    f"{where}: its vectors have the shape {given.shape}, not (utterances, "
                    f"{size}). Set features.size to the length of the file's vectors."
                )
            if not np.isfinite(given).all():
                raise ErcBenchError(f"{where}: its vectors are not all finite numbers.")
            if hidden and len(given) < len(dialogue):
                given = given[:0]
            filled = np.zeros(len(dialogue), dtype=bool)
            filled[list(dialogue.labelled) if len(given) < len(dialogue) else slice(None)] = True
            if filled.sum() != len(given):
                raise ErcBenchError(
                    f"{where}: it has {len(given)} vectors, the dialogue {len(dialogue)} "
                    f"utterances, {len(dialogue.labelled)} of them labelled. Give the vectors of "
                    "this release."
                )
            rows = np.zeros((len(dialogue), size), dtype=np.float32)
            rows[filled] = given
            vectors.append(rows)
            present.append(filled)
            if i in sentences and filled.any():
                others += _other_texts(dialogue, filled, sentences[i])
    if others:
        turn, text = others[0]
        raise ErcBenchError(
            f"{path} does not fit {corpus.name}: {len(others)} of {sum(map(len, present))} "
            f"utterances have other texts there. The first is {turn.id!r}: {text} in the file, "
            f"{turn.text!r} in the corpus. Give the vectors of this release."
        )
    return torch.from_numpy(np.concatenate(vectors)), torch.from_numpy(np.concatenate(present))


def _other_texts(
    dialogue: Dialogue, filled: np.ndarray, sentences: Any
) -> list[tuple[Utterance, str]]:
    """The turns whose sentence in the file is not their text, and that sentence."""
    sentences = sentences.array if isinstance(sentences, _Array) else sentences
    given = list(sentences) if isinstance(sentences, (list, tuple, np.ndarray)) else []
    turns = list(dialogue.utterances)
    if len(given) < len(turns):
        turns = [turn for turn, has_vector in zip(turns, filled, strict=True) if has_vector]
    if len(given) != len(turns):
        return [(turn, f"{len(given)} sentences to this dialogue") for turn in turns]
    return [
        (turn, repr(text))
        for turn, text in zip(turns, given, strict=True)
        if _letters(text) != _letters(turn.text)
    ]


def _letters(text: Any) -> str:
    """The unaccented letters and digits of a text, which encodings and transcribers keep."""
    text = text.decode("latin1") if isinstance(text, bytes) else str(text)
    spoken = re.sub(r"\[[A-Z]+\]", "", text)  # such as [LAUGHTER]
    return re.sub(r"[^a-z0-9]", "", spoken.lower())


def _in_order(ids: Iterable[Any]) -> list[str]:
    """Dialogue ids as text, in the file's order; those of a set are sorted by number."""
    if isinstance(ids, _Array):
        ids = ids.array.tolist()
    names = [str(i) for i in ids]
    unordered = isinstance(ids, (set, frozenset))
    return sorted(names, key=lambda name: (len(name), name)) if unordered else names
