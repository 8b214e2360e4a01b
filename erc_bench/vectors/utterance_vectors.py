"""Vectors of a corpus's utterances: made by an encoder or read from a file, and cached.

To make them, an encoder is fine-tuned to classify each training utterance without its context, as
COSMIC does (Ghosal et al. 2020, section 3.1), or used as it is (``features.epochs=0``). The CLS
state of its last layer is the utterance's vector. The fine-tuned encoder and the vectors are cached
under a key of everything that determines them. The fine-tuning has a seed of its own, so all seeds
of a run share them unless ``features.per_seed`` is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erc_bench.corpus.conversation import Corpus
from erc_bench.corpus.source import checksum_of
from erc_bench.encoders.loading import load_encoder, load_tokenizer, tokenizer_digest
from erc_bench.encoders.locating import digest_of, find_encoder
from erc_bench.encoders.tokenising import TextEncoder
from erc_bench.errors import ErcBenchError
from erc_bench.files import UNWRITABLE, cache_folder, replacing, temporary_name
from erc_bench.leases import hold
from erc_bench.method import devices
from erc_bench.method.batches import Batches
from erc_bench.method.ragged import Ragged, encoder_inputs
from erc_bench.progress import say_once, track
from erc_bench.training.precision import trainer_precision
from erc_bench.vectors.config import FeatureConfig
from erc_bench.vectors.cosmic import match, read_cosmic
from erc_bench.vectors.files import BY_ID, match_ids, read_vectors, turns_of
from erc_bench.vectors.fine_tuning import UNFINISHED, cls_states, fine_tune, fine_tuning_of

EXTRACT_BATCH = 64
"""Utterances per batch when vectors are computed; it only affects the speed."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of all turns of a corpus, its splits one after another."""

    vectors: Tensor
    """``(rows, d)``; 0 for a turn that has none."""
    present: Tensor
    """Whether a turn has one ``(rows,)``; a file may lack those of unlabelled turns."""
    key: bytes
    """SHA-256 over what determines the encoder that made them, or of the file."""
    fine_tuning: dict[str, Any] = field(default_factory=dict)
    """Where that encoder was fine-tuned, and for how many seconds; empty if that is not known."""


def vector_size(encoder: str, config: FeatureConfig) -> int:
    """Length d of a vector."""
    if config.path:
        path = Path(config.path).expanduser()
        return read_vectors(path).vectors.shape[1] if path.suffix in BY_ID else config.size
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(find_encoder(encoder).folder).hidden_size


def vectors_identity(encoder: str, config: FeatureConfig) -> dict[str, str]:
    """``name`` and ``digest`` of what makes the vectors: the encoder's weights, or the file."""
    if config.path:
        path = Path(config.path).expanduser()
        return {"name": path.name, "digest": checksum_of(path, "sha256").partition(":")[2]}
    return {"name": encoder, "digest": find_encoder(encoder).digest}


def utterance_vectors(
    corpus: Corpus,
    encoder: str,
    config: FeatureConfig,
    *,
    key: bytes | None = None,
    fine_tuned: Path | None = None,
) -> Vectors:
    """The vectors of a corpus's turns: from a file, from the cache, or made now.

    Several devices fine-tune together; the first one looks into the cache and makes the vectors.

    Args:
        corpus: it needs train and dev if an encoder has to be fine-tuned on it.
        encoder: the pre-trained encoder; ignored if the settings name a file.
        config: the settings.
        key: the fine-tuned encoder to use (``Vectors.key`` of its training); None = this
            corpus's own. A frozen encoder needs none.
        fine_tuned: the folder of that encoder, if it is not in the cache.

    Raises:
        ErcBenchError: the encoder that ``key`` names is not in the cache, or a file does not fit
            the corpus.
    """
    if config.path:
        path = Path(config.path).expanduser()
        if path.suffix in BY_ID:
            given, there = match_ids(read_vectors(path), corpus, path)
        else:
            given, there = match(read_cosmic(path), corpus, config.layer, config.size, path)
        _check_values(given, there, corpus, path)
        digest = vectors_identity(encoder, config)["digest"]
        return Vectors(given, there, bytes.fromhex(digest))
    texts = [turn.text for turn in turns_of(corpus)]
    if fine_tuned is not None and key is not None:
        found = extract(fine_tuned, texts, config.max_len)
        there = torch.ones(len(found), dtype=torch.bool)
        return Vectors(found, there, key, fine_tuning_of(fine_tuned))
    frozen, own = not config.epochs, _key(corpus, encoder, config)
    if frozen:  # a frozen encoder is known without a training
        key = own
    if key is None and not frozen and "train" not in corpus.contents:
        raise ErcBenchError(
            f"{corpus.name} has no train split, and these weights were never trained: there is no "
            "fine-tuned encoder for its utterances. Train first, or load the weights of a finished "
            "run."
        )
    key = key or own
    folder = encoder_folder(key).parent
    path = folder / f"{corpus.digest[:32]}-{config.max_len}.npy"
    tuned = find_encoder(encoder).folder if frozen else folder / "encoder"
    leads = devices.position().rank == 0
    try:
        if leads:
            folder.mkdir(parents=True, exist_ok=True)
        with hold(folder, patient=True) if leads else contextlib.nullcontext():
            shape = len(texts), vector_size(encoder, config)
            vectors = devices.first(_stored(path, shape) if leads else None)
            if vectors is None:
                made = None
                if not devices.first(leads and tuned.is_dir()):
                    if key != own or "train" not in corpus.contents:
                        raise ErcBenchError(
                            "The fine-tuned encoder that these weights were trained on is not in "
                            f"{folder}. Copy that folder from the machine of the training, or "
                            "repeat the training here (--restart, a finished run with --force)."
                        )
                    fine_tune(corpus, encoder, config, tuned)
                if leads:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
                    made = extract(tuned, texts, config.max_len)
                vectors = devices.first(made)
                assert vectors is not None
                # The vectors of new dialogues are not kept, as they are needed only once.
                if leads and "train" in corpus.contents:
                    with replacing(path, temporary_name(path)) as file:
                        np.save(file, vectors.numpy(), allow_pickle=False)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise ErcBenchError(
            f"{error.filename or folder} can't be written: {error.strerror or error}. Make room "
            "or set XDG_CACHE_HOME to a folder that can be written to."
        ) from error
    present = torch.ones(len(vectors), dtype=torch.bool)
    return Vectors(vectors, present, key, {} if frozen else fine_tuning_of(tuned))


def _check_values(given: Tensor, there: Tensor, corpus: Corpus, path: Path) -> None:
    """Raise if vectors of different texts are all the same; tell the user if some are all zeros."""
    turns = [turn for turn, has in zip(turns_of(corpus), there.tolist(), strict=True) if has]
    vectors = given[there]
    if len({turn.text for turn in turns}) > 1 and (vectors == vectors[0]).all():
        raise ErcBenchError(
            f"{path}: the vectors of all {len(turns):,} utterances of {corpus.name} are the same, "
            "so nothing could be learnt from them. Make the file again."
        )
    if zeros := torch.nonzero((vectors == 0).all(dim=1)).flatten().tolist():
        say_once(
            f"{path}: {len(zeros):,} of {len(turns):,} vectors of {corpus.name} hold nothing but "
            f"zeros, such as that of {turns[zeros[0]].id}."
        )


def encoder_folder(key: bytes) -> Path:
    """The cache folder of the fine-tuned encoder with this ``Vectors.key``; it need not exist."""
    return cache_folder() / "vectors" / key.hex()[:32] / "encoder"


def _key(corpus: Corpus, encoder: str, config: FeatureConfig) -> bytes:
    """SHA-256 over what determines the encoder that makes the vectors, including our code."""
    settings = config.of_fine_tuning()
    found = find_encoder(encoder)
    parts: list[Any] = [found.digest, digest_of(found.folder / "config.json")]
    parts += [tokenizer_digest(encoder), _code(fine_tuned=config.epochs > 0)]
    if config.epochs:
        settings["precision"] = trainer_precision(config.precision)
        parts += [corpus.digest, settings]
    else:
        parts.append(settings["max_len"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _code(*, fine_tuned: bool) -> list[str]:
    """Digests of the code that makes vectors, and versions of the packages that it uses."""
    rooms, packages = ["vectors", "encoders"], ["transformers", "tokenizers"]
    if fine_tuned:  # everything that a training uses
        rooms += ["method", "training", "evaluation"]
        packages += ["lightning", "torchmetrics", "numpy"]
    package = Path(__file__).parent.parent
    sources = sorted(source for room in rooms for source in (package / room).rglob("*.py"))
    digests = [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    return [*digests, str(torch.__version__), *map(version, packages)]


def _stored(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Vectors from the cache; None if there are none, or the file is damaged."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return torch.from_numpy(vectors) if vectors.shape == shape else None


@torch.no_grad()
def extract(encoder: Path, texts: list[str], max_len: int) -> Tensor:
    """The vector of each text ``(N, d)``, in float32 on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(str(encoder))
    network = load_encoder(str(encoder), max_len).eval()
    network.to(device)
    ids = TextEncoder(tokenizer).ids(texts, max_len)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    rows = Ragged(np.concatenate(ids), offsets)
    vectors = torch.empty(len(texts), network.config.hidden_size)
    batches = list(Batches(rows.lengths, EXTRACT_BATCH))
    for batch in track(batches, f"Computing {len(texts)} utterance vectors"):
        inputs = encoder_inputs(rows.take(batch), tokenizer.pad_token_id)
        on_device = {name: value.to(device) for name, value in inputs.items()}
        vectors[torch.from_numpy(batch)] = cls_states(network, **on_device).float().cpu()
    return vectors
