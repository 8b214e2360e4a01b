"""A vector for every utterance: made here from its text alone, or read from a file of others.

Made here: the encoder is fine-tuned to classify each training utterance without its context, as
COSMIC does (Ghosal et al. 2020, section 3.1), and the CLS state of its last layer is the
utterance's vector. Both the fine-tuned encoder and the vectors are kept in the cache, under what
determines them; the fine-tuning has a seed of its own, so that all seeds of a run share them.

A file of others is read by :mod:`.cosmic`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
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

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet
from erc_bench.corpus.source import cache_folder, checksum_of
from erc_bench.encoders.fast.one_position import states_at
from erc_bench.encoders.loading import in_float32, load_encoder, load_tokenizer, tokenizer_digest
from erc_bench.encoders.locating import find_encoder
from erc_bench.encoders.optimisation import adamw, linear_warmup
from erc_bench.errors import ErcBenchError
from erc_bench.method.config import MethodConfig, above, at_least, shares
from erc_bench.method.contract import Batch, ErcMethod, Example
from erc_bench.method.datamodule import Batches, ErcDataModule
from erc_bench.method.ragged import Columns, Ragged
from erc_bench.progress import say, track
from erc_bench.records.store import replacing
from erc_bench.settings.experiment import Experiment
from erc_bench.training.checkpoints import load_weights, read_checkpoint, selecting_checkpoint
from erc_bench.training.environment import small_hint
from erc_bench.training.log import TrainingLog
from erc_bench.training.precision import trainer_precision
from erc_bench.training.trainer import build_trainer, fit

from .cosmic import match, read_cosmic
from .prompts import padded

FORMAT = 3
"""Part of the cache's key: raise it when the code makes other vectors than before."""

FINE_TUNING = "fine_tuning.json"
"""Beside a fine-tuned encoder's weights: where they were trained, in how many seconds."""

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
        own = {"within": "features."}
        at_least(self, 1, "layer", "size", "epochs", "batch_size", **own)
        at_least(self, 4, "max_len", **own)
        at_least(self, 0, "max_batches", "weight_decay", "seed", **own)
        shares(self, "dropout", "warmup", **own)
        above(self, 0, "lr", **own)
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
    fine_tuning: dict[str, Any] = field(default_factory=dict)
    """Where that encoder was fine-tuned, and the seconds that took; empty where nothing says it."""


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
                    shutil.rmtree(_unfinished(folder / "encoder"), ignore_errors=True)
                    vectors = extract(folder / "encoder", _texts(corpus), self.config.max_len)
                    if datamodule.kept:
                        with replacing(path, path.with_suffix(".tmp")) as file:
                            np.save(file, vectors.numpy(), allow_pickle=False)
        except OSError as error:
            raise ErcBenchError(
                f"{error.filename or folder} can not be written: {error.strerror or error}. Make "
                "room or set XDG_CACHE_HOME to a folder that can be written to."
            ) from error
        present = torch.ones(len(vectors), dtype=torch.bool)
        return Vectors(vectors, present, key, _fine_tuning(folder / "encoder"))

    def _key(self, corpus: Corpus) -> bytes:
        """What determines the fine-tuned encoder."""
        settings = asdict(self.config)
        for of_a_file in ("path", "layer", "size"):
            del settings[of_a_file]
        settings["precision"] = trainer_precision(self.config.precision)
        found = find_encoder(self.encoder)
        parts = [FORMAT, found.digest, tokenizer_digest(self.encoder), corpus.digest, settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()

    def _given(self, corpus: Corpus) -> Vectors:
        path = Path(self.config.path).expanduser()
        vectors, present = match(
            read_cosmic(path), corpus, self.config.layer, self.config.size, path
        )
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
        self.encoder = load_encoder(config.encoder, config.max_len)
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
        return dict(padded(examples["input_ids"], self.tokenizer.pad_token_id))

    def scores(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``, in float32 also under autocast."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return in_float32(self.head, cls_states(self.encoder, ids, mask))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"loss": F.cross_entropy(self.scores(batch), batch["labels"])}

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises linearly, then falls to 0."""
        optimizer = adamw(self, self.encoder, self.config.lr)
        return [optimizer], [linear_warmup(self, optimizer, self.config.warmup)]


def token_ids(tokenizer: Any, texts: list[str], max_len: int) -> list[list[int]]:
    """Token ids of each text with its special tokens, ``max_len`` at most."""
    return tokenizer(texts, truncation=True, max_length=max_len).input_ids


def cls_states(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """State of the first token at the last layer ``(B, d)``."""
    first = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
    return states_at(encoder, first, input_ids=input_ids, attention_mask=attention_mask)


def _fine_tuning(encoder: Path) -> dict[str, Any]:
    """What stands in a fine-tuned encoder's folder of how it came to be."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((encoder / FINE_TUNING).read_text())
    return {}


def _unfinished(folder: Path) -> Path:
    """Where a fine-tuning has its checkpoints until its encoder is in ``folder``."""
    return folder.with_name("unfinished")


def fine_tune(corpus: Corpus, encoder: str, config: FeatureConfig, folder: Path) -> None:
    """Fine-tune an encoder on a corpus's single utterances and keep the epoch best on dev.

    One that was interrupted goes on from its last finished epoch, to the same encoder; what it
    goes on from lies beside ``folder``, which is to be named by all that determines the encoder.
    The random numbers of the caller are left as they are.

    Args:
        corpus: with train and dev.
        encoder: the pre-trained encoder.
        config: the settings.
        folder: where the encoder and its tokenizer are put, once they are complete.
    """
    shared = {k: v for k, v in asdict(config).items() if k not in ("path", "layer", "size", "seed")}
    settings = UtteranceConfig(encoder=encoder, **shared)
    part = _unfinished(folder)
    last = _last_epoch(part)
    with isolate_rng():
        seed_everything(config.seed, verbose=False)
        method = UtteranceClassifier(settings, corpus.labels)
        if last is None:
            size = sum(p.numel() for p in method.parameters())
            hint = ""
            if size > SMALL and not torch.cuda.is_available():
                hint = small_hint()
            say(
                f"Fine-tuning {encoder} on the single utterances of {corpus.name}, once for all "
                f"runs and seeds with these settings{hint}."
            )
        else:
            say(f"Going on with the fine-tuning of {encoder} on {corpus.name}.")
        datamodule = ErcDataModule(corpus, method, config.seed)
        experiment = Experiment("utterance vectors", corpus.name, "", config.seed, settings)
        log = TrainingLog(experiment)
        trainer = build_trainer(method, part, [log])
        try:
            fit(trainer, method, datamodule, last)
        finally:
            if not (part / "last.ckpt").exists():  # nothing that could be gone on with
                shutil.rmtree(part, ignore_errors=True)
        load_weights(method, Path(selecting_checkpoint(trainer).best_model_path))
        method.encoder.save_pretrained(part / "encoder")
        method.tokenizer.save_pretrained(part / "encoder")
        story = {**log.environment, "seconds": round(log.seconds, 1)}
        (part / "encoder" / FINE_TUNING).write_text(json.dumps(story, indent=1))
        (part / "encoder").replace(folder)


def _last_epoch(part: Path) -> Path | None:
    """The checkpoint that a fine-tuning can go on from; damaged ones are removed, with a line."""
    last = part / "last.ckpt"
    if last.exists():
        try:
            for checkpoint in (last, *part.glob("best-*.ckpt")):
                read_checkpoint(checkpoint)
            return last
        except ErcBenchError:
            say(f"The checkpoints in {part} are damaged; this fine-tuning is started anew.")
    shutil.rmtree(part, ignore_errors=True)
    return None


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
