"""Files of utterance vectors, which ``erc-bench encode`` writes and methods read.

The suffix says the format. Each file holds a vector for every utterance, in corpus order:

``.safetensors``
    the tensor ``vectors`` ``(N, d)``; the metadata ``erc-bench`` is a JSON object.
``.npz``
    the arrays ``vectors`` ``(N, d)``, ``ids`` and ``texts`` ``(N,)``, and ``about``, JSON.
``.pkl``
    COSMIC's layout (:mod:`erc_bench.vectors.cosmic`), which other people's code reads.

The first two hold ids, the digest of each text instead of the text, and ``about``: the model, its
digest and the settings. A pickle holds the texts, as the layout requires.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erc_bench.corpus.conversation import SPLITS, Corpus, Utterance
from erc_bench.errors import ErcBenchError, listed
from erc_bench.files import replacing, temporary_name
from erc_bench.vectors.cosmic import CosmicPickler

FORM = 1
"""Version of the file format; it grows when a reader must tell versions apart."""

METADATA = "erc-bench"
"""The only key of a safetensors file's metadata, since several would have no fixed order."""

BY_ID = (".safetensors", ".npz")
"""Suffixes of the files that identify utterances by their ids."""

SUFFIXES = (*BY_ID, ".pkl")


def text_digest(text: str) -> str:
    """The digest of a text in a file of vectors: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The vectors of the turns of a corpus, or of some dialogues."""

    vectors: np.ndarray
    """``(N, d)`` in float32, in the order of :attr:`turns`."""
    corpus: Corpus
    """The corpus of the turns; dialogues without a corpus are all in ``test``."""
    about: Mapping[str, Any]
    """The ``model`` with its digest, its ``settings``, and the ``corpus``: plain data."""

    @property
    def turns(self) -> list[Utterance]:
        """The N turns, in the order train, dev, test."""
        return turns_of(self.corpus)

    @property
    def ids(self) -> list[str]:
        """The N ids of the turns."""
        return [turn.id for turn in self.turns]

    def save(self, path: Path | str, *, force: bool = False) -> Path:
        """Write a file in the format of its suffix, whole or not at all.

        Raises:
            ErcBenchError: the suffix is unknown, the file exists (``force`` replaces it), or it
                can't be written.
        """
        path = Path(path)
        check_output(path, force)
        contents = _WRITERS[path.suffix](self)
        try:
            with replacing(path, temporary_name(path)) as file:
                file.write(contents)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path


def turns_of(corpus: Corpus) -> list[Utterance]:
    """All turns of a corpus, in the order of its rows."""
    splits = [split for split in SPLITS if split in corpus.contents]
    return [u for split in splits for d in corpus.contents[split] for u in d.utterances]


def check_output(path: Path, force: bool) -> None:
    """Check that a file of vectors can be written, before the vectors are computed.

    Raises:
        ErcBenchError: as :meth:`Encoded.save`.
    """
    if path.suffix not in SUFFIXES:
        raise ErcBenchError(
            f"{path}: the suffix says in which format vectors are written: .safetensors, .npz "
            "(NumPy) or .pkl (COSMIC's layout)."
        )
    if path.is_dir() or (path.exists() and not force):
        what = "is a folder" if path.is_dir() else "is there already"
        raise ErcBenchError(f"{path} {what}. Give another name, or replace a file with --force.")
    if not path.absolute().parent.is_dir():
        raise ErcBenchError(
            f"{path} can't be written: there is no folder {path.absolute().parent}. Make it, or "
            "give another name."
        )
    try:
        probe = temporary_name(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ErcBenchError:
    return ErcBenchError(
        f"{path} can't be written: {error.strerror or error}. Make room, check the permissions, "
        "or give another name."
    )


# --- writing


def _heading(encoded: Encoded) -> dict[str, Any]:
    turns = encoded.turns
    return {
        "form": FORM,
        **encoded.about,
        "ids": [turn.id for turn in turns],
        "texts": [text_digest(turn.text) for turn in turns],
    }


def _safetensors(encoded: Encoded) -> bytes:
    from safetensors.numpy import save

    heading = json.dumps(_heading(encoded), ensure_ascii=False)
    return save({"vectors": np.ascontiguousarray(encoded.vectors)}, {METADATA: heading})


def _npz(encoded: Encoded) -> bytes:
    heading = _heading(encoded)
    ids, texts = heading.pop("ids"), heading.pop("texts")
    file = io.BytesIO()
    about = np.array(json.dumps(heading, ensure_ascii=False))
    np.savez(file, vectors=encoded.vectors, ids=np.array(ids), texts=np.array(texts), about=about)
    return file.getvalue()


def _cosmic(encoded: Encoded) -> bytes:
    """COSMIC's list of ten parts; its four vectors of an utterance are all the same here."""
    speakers: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    vectors: dict[str, list[np.ndarray]] = {}
    sentences: dict[str, list[str]] = {}
    start = 0
    corpus = encoded.corpus
    for split in (split for split in SPLITS if split in corpus.contents):
        for dialogue in corpus.contents[split]:
            turns = dialogue.utterances
            speakers[dialogue.id] = [turn.speaker for turn in turns]
            labels[dialogue.id] = [-1 if turn.label is None else turn.label for turn in turns]
            vectors[dialogue.id] = list(encoded.vectors[start : start + len(turns)])
            sentences[dialogue.id] = [turn.text for turn in turns]
            start += len(turns)
    of_split = {split: [d.id for d in dialogues] for split, dialogues in corpus.contents.items()}
    if twice := [
        i for i, n in Counter(i for ids in of_split.values() for i in ids).items() if n > 1
    ]:
        raise ErcBenchError(
            f"COSMIC's layout tells dialogues by their ids, and {listed(twice, 3)} occurs twice in "
            f"{corpus.name}. Write .safetensors or .npz."
        )
    ids = [of_split.get(split, []) for split in ("train", "test", "dev")]
    file = io.BytesIO()
    CosmicPickler(file, 4).dump([speakers, labels, *[vectors] * 4, sentences, *ids])
    return file.getvalue()


_WRITERS = {".safetensors": _safetensors, ".npz": _npz, ".pkl": _cosmic}


# --- reading


@dataclass(frozen=True, eq=False)
class VectorFile:
    """The contents of a file of vectors by utterance ids."""

    vectors: np.ndarray
    """``(N, d)``, finite, in float32."""
    ids: Sequence[str]
    """N different ids."""
    texts: Sequence[str]
    """:func:`text_digest` of the N texts; empty if the file does not have them."""
    about: Mapping[str, Any]
    """Everything else in the file: the model, its digest, its settings."""


def read_vectors(path: Path) -> VectorFile:
    """Read a ``.safetensors`` or ``.npz`` file of vectors by utterance ids, without unpickling.

    Raises:
        ErcBenchError: it can't be read, or something in it does not fit.
    """
    read = _read_safetensors if path.suffix == ".safetensors" else _read_npz
    try:
        vectors, heading = read(path)
        ids = [str(i) for i in heading.pop("ids")]
        texts = [str(text) for text in heading.pop("texts", [])]
    except OSError as error:
        raise ErcBenchError(
            f"features.path names {path}, which can't be read: {error.strerror or error}."
        ) from error
    except _UnfitError as error:
        raise ErcBenchError(f"{path} is not a file of utterance vectors: {error}.") from None
    except Exception as error:  # a damaged file raises anything
        raise ErcBenchError(
            f"{path} can't be read as a file of utterance vectors ({type(error).__name__}: "
            f"{error}). It is damaged, or holds something else; make it again."
        ) from error
    form = heading.get("form", FORM)
    if not isinstance(form, int) or form > FORM:
        raise ErcBenchError(f"{path} was written by a newer erc-bench (form {form}). Upgrade.")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != len(ids) or not ids:
        raise ErcBenchError(
            f"{path} is not a file of utterance vectors: it has {len(ids)} ids, and vectors of the "
            f"shape {vectors.shape} and type {vectors.dtype}, not floating-point numbers (ids, d)."
        )
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        bad = ids[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise ErcBenchError(f"{path}: the vector of {bad!r} is not all finite numbers.")
    if twice := [i for i, n in Counter(ids).items() if n > 1]:
        raise ErcBenchError(f"{path}: the utterance id {twice[0]!r} occurs twice.")
    if texts and len(texts) != len(ids):
        raise ErcBenchError(f"{path}: it has {len(ids)} ids and {len(texts)} digests of texts.")
    return VectorFile(vectors, ids, texts, heading)


class _UnfitError(Exception):
    """Raised when a file can be read, but lacks something."""


def _read_safetensors(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        if "vectors" not in file.keys():  # noqa: SIM118  it is no dictionary
            raise _UnfitError("it has no tensor 'vectors'")
        heading = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        if not isinstance(heading, dict) or "ids" not in heading:
            raise _UnfitError(f"its metadata {METADATA!r} have no ids")
        tensor = file.get_tensor("vectors")
        whole = tensor.float() if tensor.is_floating_point() else tensor
        return whole.numpy(), heading


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        file = np.load(path, allow_pickle=False)
    except zipfile.BadZipFile as error:
        raise _UnfitError(f"it is not an archive of arrays ({error})") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise _UnfitError("it is a single array")
    with file:
        if missing := [name for name in ("vectors", "ids") if name not in file.files]:
            raise _UnfitError(f"it has no array {missing[0]!r}")
        heading = json.loads(str(file["about"])) if "about" in file.files else {}
        if not isinstance(heading, dict):
            raise _UnfitError("its 'about' is no JSON object")
        texts = file["texts"].tolist() if "texts" in file.files else []
        return file["vectors"], {**heading, "ids": file["ids"].tolist(), "texts": texts}


def match_ids(given: VectorFile, corpus: Corpus, path: Path) -> tuple[Tensor, Tensor]:
    """The vectors of a corpus's turns ``(rows, d)``, and which of them have one ``(rows,)``.

    Utterances are found by their ids. Those without a label may lack a vector. If the file has
    digests of the texts, they must be those of the corpus.

    Raises:
        ErcBenchError: a labelled utterance has no vector, or another text.
    """
    row_of = {i: n for n, i in enumerate(given.ids)}
    turns = turns_of(corpus)
    rows = np.array([row_of.get(turn.id, -1) for turn in turns])
    missing = [t.id for t, row in zip(turns, rows, strict=True) if row < 0 and t.label is not None]
    if missing:
        remedy = "Give the vectors of this corpus: `erc-bench encode` makes them."
        if "train" not in corpus.contents:
            remedy = (
                "A run on a file of vectors predicts dialogues whose vectors are in that file, and "
                "no others."
            )
        raise ErcBenchError(
            f"{path} does not fit {corpus.name}: {len(missing):,} of {len(turns):,} utterances "
            f"have no vector there, the first is {missing[0]!r}; the file knows "
            f"{listed(given.ids, 3)}. {remedy}"
        )
    others = [
        turn.id
        for turn, row in zip(turns, rows, strict=True)
        if given.texts and row >= 0 and text_digest(turn.text) != given.texts[row]
    ]
    if others:
        raise ErcBenchError(
            f"{path} does not fit {corpus.name}: {len(others):,} of {len(turns):,} utterances had "
            f"other texts when the vectors were made; the first is {others[0]!r}. Make them again "
            "for this release, with `erc-bench encode`."
        )
    vectors = torch.from_numpy(given.vectors)
    there = torch.from_numpy(rows >= 0)
    found = torch.zeros(len(turns), vectors.shape[1])
    found[there] = vectors[torch.from_numpy(rows)[there]]
    return found, there
