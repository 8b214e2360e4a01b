"""A vector for every utterance: made here from its text alone, or read from a file of others.

Made here: the encoder is fine-tuned to classify each training utterance without its context, as
COSMIC does (Ghosal et al. 2020, section 3.1), and the CLS state of its last layer is the
utterance's vector. Both the fine-tuned encoder and the vectors are kept in the cache, under what
determines them; the fine-tuning has a seed of its own, so that all seeds of a run share them.

A file of others is a pickle, and a pickle can run anything: :class:`CosmicUnpickler` builds plain
containers, numbers, strings and numpy arrays, and refuses the rest by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_linear_schedule_with_warmup

from erc_bench.config import Experiment, MethodConfig, above, at_least
from erc_bench.conversation import SPLITS, Corpus, Dialogue, LabelSet
from erc_bench.corpus_files import cache_folder, checksum_of
from erc_bench.datamodule import Batches, ErcDataModule
from erc_bench.encoders import adamw, find_encoder, load_encoder, load_tokenizer
from erc_bench.errors import ErcBenchError
from erc_bench.method import Batch, ErcMethod, Example
from erc_bench.progress import say, track
from erc_bench.ragged import Columns, Ragged
from erc_bench.runner import build_trainer, fit, load_weights
from erc_bench.training_log import TrainingLog

FORMAT = 1
"""Part of the cache's key: raise it when the code makes other vectors than before."""

EXTRACT_BATCH = 64
"""Utterances per batch when vectors are read off; it changes nothing but the speed."""

SMALL = 50_000_000
"""Parameters that a machine without a GPU fine-tunes in minutes."""


@dataclass
class FeatureConfig:
    """How the vectors of the utterances are made, or where they are read."""

    path: str = ""  # pickle in COSMIC's layout to be read instead; "" = fine-tune the encoder
    layer: int = 1  # of `path`: which of its four vectors per utterance, 1 … 4
    size: int = 1024  # of `path`: length of its vectors
    epochs: int = 10  # passes over the training utterances
    max_batches: int = 0  # fine-tune on so many batches an epoch at most; 0 = all
    batch_size: int = 32  # utterances per batch
    max_len: int = 128  # tokens of an utterance
    dropout: float = 0.1  # in the classifier that is thrown away afterwards
    lr: float = 1e-5  # highest learning rate
    warmup: float = 0.06  # share of the steps in which the rate rises, before it falls to 0
    weight_decay: float = 0.01  # not of biases and LayerNorm weights
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the fine-tuning
    seed: int = 0  # of the fine-tuning, whatever the seed of the run

    def __post_init__(self) -> None:
        at_least(self, 1, "layer", "size", "epochs", "batch_size")
        at_least(self, 4, "max_len")
        at_least(self, 0, "max_batches", "dropout", "warmup", "weight_decay", "seed")
        above(self, 0, "lr")
        if self.layer > 4:
            raise ErcBenchError(f"The setting features.layer={self.layer} must be one of 1 … 4.")


@dataclass(frozen=True)
class Vectors:
    """The vectors of all turns of a corpus, its splits one after another."""

    vectors: Tensor
    """``(rows, d)``, 0 where there is none."""
    present: Tensor
    """Whether a turn has one ``(rows,)``; a file may lack those of unlabelled turns."""
    key: bytes
    """SHA-256 over what determines the encoder that made them, or of the file."""


class UtteranceFeatures:
    """Where the vectors of utterances come from.

    Args:
        encoder: the pre-trained encoder, not looked at where the settings name a file.
        config: the settings.
    """

    def __init__(self, encoder: str, config: FeatureConfig) -> None:
        self.encoder = encoder
        self.config = config

    @cached_property
    def size(self) -> int:
        """Length d of a vector."""
        if self.config.path:
            return self.config.size
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(find_encoder(self.encoder).folder).hidden_size

    def identity(self) -> dict[str, str]:
        """Name and digest of what makes the vectors: the encoder's weights, or the file."""
        if self.config.path:
            path = Path(self.config.path).expanduser()
            return {"name": path.name, "digest": checksum_of(path, "sha256").partition(":")[2]}
        return {"name": self.encoder, "digest": find_encoder(self.encoder).digest}

    def of(self, datamodule: ErcDataModule, key: bytes = bytes(32)) -> Vectors:
        """The vectors of a datamodule's turns, from the cache or made now.

        Args:
            datamodule: its corpus needs train and dev only if there is no encoder in the cache.
            key: which fine-tuned encoder is to be used; all zeros = the one of this corpus.

        Raises:
            ErcBenchError: an encoder is asked for that is not in the cache, or a file does not
                fit the corpus.
        """
        if self.config.path:
            return self._given(datamodule.corpus)
        corpus, own = datamodule.corpus, self._key(datamodule.corpus)
        if key == bytes(32):
            if "train" not in datamodule.splits:
                raise ErcBenchError(
                    f"{corpus.name} has no train split, and these weights were never trained: "
                    "there is no fine-tuned encoder for its utterances. Train first, or load the "
                    "weights of a finished run."
                )
            key = own
        folder = cache_folder() / "features" / key.hex()[:32]
        path = folder / f"{corpus.digest[:32]}.npy"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "lock"):
                vectors = _stored(path, (len(datamodule.ids), self.size))
                if vectors is None:
                    if not (folder / "encoder").is_dir():
                        if key != own or "train" not in datamodule.splits:
                            raise ErcBenchError(
                                f"The fine-tuned encoder that these weights were trained on is not "
                                f"in {folder}. Copy that folder from the machine of the training, "
                                "or repeat the training here."
                            )
                        fine_tune(corpus, self.encoder, self.config, folder / "encoder")
                    vectors = extract(folder / "encoder", _texts(corpus), self.config.max_len)
                    _store(path, vectors)
        except OSError as error:
            raise ErcBenchError(
                f"{error.filename or folder} can not be written: {error.strerror or error}. Make "
                "room or set XDG_CACHE_HOME to a folder that can be written to."
            ) from error
        return Vectors(vectors, torch.ones(len(vectors), dtype=torch.bool), key)

    def _key(self, corpus: Corpus) -> bytes:
        """What determines the fine-tuned encoder."""
        settings = asdict(self.config)
        for of_a_file in ("path", "layer", "size"):
            del settings[of_a_file]
        found = find_encoder(self.encoder)
        tokenizer = checksum_of(found.folder / "tokenizer.json", "sha256")
        parts = [FORMAT, found.digest, tokenizer, corpus.digest, settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()

    def _given(self, corpus: Corpus) -> Vectors:
        path = Path(self.config.path).expanduser()
        vectors, present = match(read_cosmic(path), corpus, self.config, path)
        return Vectors(vectors, present, bytes.fromhex(self.identity()["digest"]))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; who waits for another run says so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another run is making these utterance vectors; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _texts(corpus: Corpus) -> list[str]:
    """The text of every turn, in the order of the rows."""
    splits = [split for split in SPLITS if split in corpus.splits]
    columns = [corpus.splits[s].data.column("utterances").combine_chunks() for s in splits]
    return [text for c in columns for text in c.flatten().field("text").to_pylist()]


def _stored(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Vectors of the cache; None where there are none, or a damaged file."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return torch.from_numpy(vectors) if vectors.shape == shape else None


def _store(path: Path, vectors: Tensor) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, vectors.numpy(), allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- fine-tuning on single utterances ---


@dataclass
class UtteranceConfig(MethodConfig):
    """:class:`FeatureConfig` as the settings of a method; ``gradient_clip`` is 5 there too."""

    max_len: int = 128
    dropout: float = 0.1
    lr: float = 1e-5
    warmup: float = 0.06
    weight_decay: float = 0.01


class UtteranceClassifier(ErcMethod):
    """The encoder and a classifier of the CLS state, on each utterance alone."""

    Config = UtteranceConfig
    context = "past"
    input_settings = ("encoder", "max_len")
    config: UtteranceConfig

    def __init__(self, config: UtteranceConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.tokenizer = load_tokenizer(config.encoder)
        self.encoder = load_encoder(config.encoder)
        size = self.encoder.config.hidden_size
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(size, size),
            nn.Tanh(),
            nn.Dropout(config.dropout),
            nn.Linear(size, len(labels)),
        )

    def examples(self, dialogue: Dialogue, training: bool = False) -> list[Example]:
        """One example per labelled turn: ``input_ids`` of its text."""
        texts = [dialogue.utterances[i].text for i in dialogue.labelled]
        ids = token_ids(self.tokenizer, texts, self.config.max_len) if texts else []
        return [
            {"targets": [i], "input_ids": r} for i, r in zip(dialogue.labelled, ids, strict=True)
        ]

    def collate(self, examples: Columns) -> Batch:
        """``input_ids`` and ``attention_mask`` ``(B, L)``."""
        rows = examples["input_ids"]
        assert isinstance(rows, Ragged)
        return dict(padded(rows, self.tokenizer.pad_token_id))

    def scores(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        return self.head(cls_states(self.encoder, batch["input_ids"], batch["attention_mask"]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(self.scores(batch).float(), batch["labels"])}

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises linearly, then falls to 0."""
        lr = self.config.lr
        optimizer = adamw(
            self, self.encoder, encoder_lr=lr, lr=lr, weight_decay=self.config.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_linear_schedule_with_warmup(
            optimizer, int(steps * self.config.warmup), steps
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def token_ids(tokenizer: Any, texts: list[str], max_len: int) -> list[list[int]]:
    """Token ids of each text with its special tokens, ``max_len`` at most."""
    return tokenizer(texts, truncation=True, max_length=max_len).input_ids


def padded(rows: Ragged, pad: int) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` ``(B, L)``."""
    ids = torch.from_numpy(rows.pad(pad))
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(rows.lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def cls_states(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """State of the first token at the last layer ``(B, d)``."""
    return encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]


def fine_tune(corpus: Corpus, encoder: str, config: FeatureConfig, folder: Path) -> None:
    """Fine-tune an encoder on a corpus's single utterances and keep the epoch best on dev.

    The random numbers of the caller are left as they are.

    Args:
        corpus: with train and dev.
        encoder: the pre-trained encoder.
        config: the settings.
        folder: where the encoder and its tokenizer are put, once they are complete.
    """
    shared = {k: v for k, v in asdict(config).items() if k not in ("path", "layer", "size", "seed")}
    settings = UtteranceConfig(encoder=encoder, **shared)
    with isolate_rng(), tempfile.TemporaryDirectory(dir=folder.parent, prefix="part-") as part:
        seed_everything(config.seed, verbose=False)
        method = UtteranceClassifier(settings, corpus.labels)
        size = sum(p.numel() for p in method.parameters())
        hint = ""
        if size > SMALL and not torch.cuda.is_available():
            hint = " There is no GPU; --preset small is made for that."
        say(
            f"Fine-tuning {encoder} on the single utterances of {corpus.name}, once for all runs "
            f"and seeds with these settings.{hint}"
        )
        datamodule = ErcDataModule(corpus, method, config.seed)
        experiment = Experiment("utterance vectors", corpus.name, "", config.seed, settings)
        trainer = build_trainer(method, Path(part) / "fit", [TrainingLog(experiment)])
        fit(trainer, method, datamodule, None)
        load_weights(method, Path(trainer.checkpoint_callback.best_model_path))  # type: ignore[union-attr]
        method.encoder.save_pretrained(Path(part) / "encoder")
        method.tokenizer.save_pretrained(Path(part) / "encoder")
        (Path(part) / "encoder").replace(folder)


@torch.no_grad()
def extract(encoder: Path, texts: list[str], max_len: int) -> Tensor:
    """The vector of each text ``(N, d)``, in float32 on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(str(encoder))
    network = load_encoder(str(encoder)).eval()
    network.to(device)
    ids = token_ids(tokenizer, texts, max_len)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    rows = Ragged(np.concatenate(ids), offsets)
    vectors = torch.empty(len(texts), network.config.hidden_size)
    batches = list(Batches(rows.lengths, EXTRACT_BATCH))
    for batch in track(batches, f"Reading off {len(texts)} utterance vectors"):
        inputs = padded(rows.take(batch), tokenizer.pad_token_id)
        on_device = {name: value.to(device) for name, value in inputs.items()}
        vectors[torch.from_numpy(batch)] = cls_states(network, **on_device).float().cpu()
    return vectors


# --- vectors of others, in COSMIC's layout ---

COSMIC_PARTS = (
    *("speakers", "labels", "sentiments", "roberta1", "roberta2", "roberta3", "roberta4"),
    *("sentences", "train", "test", "dev"),
)


class _Dtype:
    """A plain numpy dtype while a pickle is read."""

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
    """A numpy array while a pickle is read: numpy's own reconstruction is never let near it."""

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


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    # How bytes are written by the older protocols.
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.multiarray", "scalar"] = lambda dtype, data: dtype.read(data)[0].item()
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer


class CosmicUnpickler(pickle.Unpickler):
    """Builds plain containers, numbers, strings and numpy arrays; refuses the rest by name.

    Nothing that a pickle names is imported or called, but the stand-ins above. Arrays come out as
    stand-ins too, which :func:`as_array` opens.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        # Python 2 wrote strings as bytes, and the older corpora were written by it.
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for a global of this name."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise ErcBenchError(
                f"{self.path} is refused: it asks for {module}.{name}, and a pickle of utterance "
                "vectors may hold plain containers, numbers, strings and numpy arrays only. "
                "Nothing of it was run. If you trust where it comes from, write its vectors anew "
                "as lists or numpy arrays."
            ) from None


def read_cosmic(path: Path) -> dict[str, Any]:
    """The parts of a file in COSMIC's layout, by their names in ``COSMIC_PARTS``.

    It is a list of 11, or of 10 without sentiments; all but the last three, the dialogue ids of
    train, test and dev, are dictionaries by dialogue id.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ErcBenchError(
            f"features.path names {path}, which can not be read: {error.strerror}."
        ) from error
    try:
        parts = CosmicUnpickler(data, path).load()
    except ErcBenchError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ErcBenchError(
            f"{path} can not be read as a pickle of plain data ({type(error).__name__}: {error}). "
            "It is damaged, or holds something else; get the file anew."
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
            "may be missing), dictionaries by dialogue id but for the last three."
        )
    return dict(zip(names, parts, strict=True))


def as_array(value: Any) -> np.ndarray:
    """The vectors of a dialogue ``(k, d)``, given as an array or as a list of vectors."""
    if isinstance(value, _Array):
        return value.array.astype(np.float32)
    rows = [row.array if isinstance(row, _Array) else row for row in value]
    return np.asarray(rows, dtype=np.float32)


def match(
    parts: Mapping[str, Any], corpus: Corpus, config: FeatureConfig, path: Path
) -> tuple[Tensor, Tensor]:
    """The vectors of a corpus's turns ``(rows, d)``, and which of them have one ``(rows,)``.

    Dialogues are found by their ids where the file has all of them, else by their order in the
    split. A dialogue has a vector for every turn, or for its labelled turns only.

    Raises:
        ErcBenchError: dialogues or utterances do not match; the message says which.
    """
    table = {str(key): value for key, value in parts[f"roberta{config.layer}"].items()}
    splits = [split for split in SPLITS if split in corpus.splits]
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
    for split in splits:
        for dialogue, i in zip(dialogues[split], ids[split], strict=True):
            where = f"{path}, dialogue {i} ({corpus.name}, {split}, {dialogue.id!r})"
            try:
                given = as_array(table[i])
            except (TypeError, ValueError) as error:
                raise ErcBenchError(f"{where}: its vectors are no numbers ({error}).") from error
            if given.ndim != 2 or given.shape[1] != config.size:
                raise ErcBenchError(
                    f"{where}: its vectors have the shape {given.shape}, not (utterances, "
                    f"{config.size}). Set features.size to the length of the file's vectors."
                )
            if not np.isfinite(given).all():
                raise ErcBenchError(f"{where}: its vectors are not all finite numbers.")
            filled = np.zeros(len(dialogue), dtype=bool)
            filled[list(dialogue.labelled) if len(given) < len(dialogue) else slice(None)] = True
            if filled.sum() != len(given):
                raise ErcBenchError(
                    f"{where}: it has {len(given)} vectors, the dialogue {len(dialogue)} "
                    f"utterances, {len(dialogue.labelled)} of them labelled. Give the vectors of "
                    "this release."
                )
            rows = np.zeros((len(dialogue), config.size), dtype=np.float32)
            rows[filled] = given
            vectors.append(rows)
            present.append(filled)
    return torch.from_numpy(np.concatenate(vectors)), torch.from_numpy(np.concatenate(present))


def _in_order(ids: Iterable[Any]) -> list[str]:
    """Dialogue ids as text, in the file's order; those of a set by number."""
    if isinstance(ids, _Array):
        ids = ids.array.tolist()
    names = [str(i) for i in ids]
    unordered = isinstance(ids, (set, frozenset))
    return sorted(names, key=lambda name: (len(name), name)) if unordered else names
