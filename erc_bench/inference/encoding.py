"""Compute a vector for every turn, by an encoder or the model of a run (``erc-bench encode``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet
from erc_bench.corpus.own import OwnCorpus
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.files import sha256_of
from erc_bench.inference.dialogue_files import read_dialogues
from erc_bench.inference.model import Model, check_states
from erc_bench.records.corpora import find_corpus, means_remembered
from erc_bench.records.place import model_file
from erc_bench.records.schema import Record
from erc_bench.records.store import find_record, is_run, read_record, run_name
from erc_bench.settings.experiment import with_overrides
from erc_bench.settings.registry import corpus_names, method_class
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.vectors import OF_A_FILE, Encoded, FeatureConfig, utterance_vectors


def read_turns_of(given: str, root: Path, data_dir: Path | None = None) -> Corpus:
    """Load the dialogues that a user names: a corpus, or a file of dialogues in any form.

    Args:
        given: name of a corpus, folder of a user's own corpus, a file, or ``-`` for standard input.
            A name that ``root`` remembers means that corpus; ``./NAME`` means a file or folder.
        root: folder of the records, which stores where users' own corpora lie.
        data_dir: folder that is searched for the corpus before the usual places.

    Returns:
        The corpus; dialogues of a file, or of a corpus without splits, are its split ``test``.

    Raises:
        ErcBenchError: there is nothing of this name, or it can't be read.
    """
    path = Path(given)
    if given in corpus_names():
        return find_corpus(given, root).load(data_dir)
    if path.suffix in (".yaml", ".yml") or (path / "corpus.yaml").is_file():
        source = OwnCorpus(path)
        if all(turn.split for turn in source.turns()):
            return source.load()
    elif given != "-" and (means_remembered(given, root) or not path.exists()):
        try:
            return find_corpus(given, root).load(data_dir)
        except ErcBenchError as error:
            if path.suffix:
                raise ErcBenchError(f"There is no file {given}. {error}") from error
            raise
    return as_corpus(read_dialogues(given))


def as_corpus(dialogues: Sequence[Dialogue]) -> Corpus:
    """Dialogues as a corpus without emotions, all in ``test``."""
    unlabelled = [
        replace(d, utterances=tuple(replace(u, label=None) for u in d.utterances))
        for d in dialogues
    ]
    return Corpus.build("dialogues", LabelSet(()), {"test": unlabelled})


def encode(
    what: str | tuple[Path, Record],
    corpus: Corpus,
    root: Path,
    *,
    fine_tuned_on: str = "",
    settings: Sequence[str] = (),
    data_dir: Path | None = None,
) -> Encoded:
    """Compute the vectors of a corpus's turns.

    Args:
        what: an encoder (hub id or folder); or a finished run, by name or as the file of its record
            and the record.
        corpus: the corpus; its labels are not read.
        root: folder of the records.
        fine_tuned_on: the corpus that an encoder is fine-tuned on first; empty = it is not.
        settings: ``key=value`` of :class:`~erc_bench.vectors.FeatureConfig`, for an encoder.
        data_dir: folder that is searched for the corpora before the usual places.

    Raises:
        ErcBenchError: there is no such encoder, run or setting, or the run's method classifies no
            state of an utterance.
    """
    if isinstance(what, str) and not is_run(root, what):
        with quiet_frameworks():
            return _by_encoder(what, corpus, root, fine_tuned_on, settings, data_dir)
    if fine_tuned_on or settings:
        raise ErcBenchError(
            f"{fine_tuned_on or settings[0]!r} is for the vectors of an encoder, but {what!r} is a "
            "run, whose model is trained already. Leave it out, or name an encoder."
            if isinstance(what, str)
            else "Settings are for the vectors of an encoder; a run's model is trained already."
        )
    if isinstance(what, str):
        path = find_record(root, what)
        what = path, read_record(path)
    return _by_run(*what, corpus)


def _about(corpus: Corpus, model: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The description in a file of vectors, beside ids and texts."""
    splits = {split: sum(map(len, found)) for split, found in corpus.contents.items()}
    return {
        "model": model,
        "settings": settings,
        "corpus": {"name": corpus.name, "digest": corpus.digest, "utterances": splits},
        "erc_bench": version("erc-bench"),
    }


def _by_encoder(
    encoder: str,
    corpus: Corpus,
    root: Path,
    fine_tuned_on: str,
    overrides: Sequence[str],
    data_dir: Path | None,
) -> Encoded:
    named = [text.partition("=")[0].strip() for text in overrides]
    if of_a_file := [name for name in named if name in OF_A_FILE]:
        raise ErcBenchError(
            f"The setting {of_a_file[0]} is for vectors that are read from a file. Leave it out."
        )
    if "per_seed" in named:
        raise ErcBenchError(
            "The setting per_seed is for the seeds of a run. Give the seed of one fine-tuning "
            "instead: seed=2."
        )
    config = with_overrides(FeatureConfig(), overrides)
    if not fine_tuned_on:
        if tuning := [name for name in named if name != "max_len"]:
            raise ErcBenchError(
                f"The setting {tuning[0]} is for fine-tuning, but the encoder is taken as it is. "
                "Say the corpus to fine-tune it on, --fine-tuned-on CORPUS, or leave the setting "
                "out."
            )
        config.epochs = 0
    elif not config.epochs:
        raise ErcBenchError("epochs=0 fine-tunes nothing. Leave out epochs=0 or --fine-tuned-on.")
    try:
        found = find_encoder(encoder)
    except ErcBenchError as error:
        raise ErcBenchError(f"{error} Nor is there a run {encoder!r} below {root}.") from error
    model: dict[str, Any] = {"kind": "encoder", "name": encoder, "digest": found.digest}
    if not fine_tuned_on:
        made = utterance_vectors(corpus, encoder, config)
        read = {"max_len": config.max_len, "state": "first token of the last layer"}
        return Encoded(made.vectors.numpy(), corpus, _about(corpus, model, read))
    tuned_on = find_corpus(fine_tuned_on, root).load(data_dir)
    made = utterance_vectors(tuned_on, encoder, config)
    if corpus.digest != tuned_on.digest:
        made = utterance_vectors(corpus, encoder, config, key=made.key)
    model |= {
        "kind": "fine-tuned encoder",
        "fine_tuned_on": {"name": tuned_on.name, "digest": tuned_on.digest},
        "key": made.key.hex(),
    }
    return Encoded(made.vectors.numpy(), corpus, _about(corpus, model, config.of_fine_tuning()))


def _by_run(path: Path, record: Record, corpus: Corpus) -> Encoded:
    weights = model_file(path, record)
    check_states(method_class(record.method), record.method)
    dialogues = [d for split in SPLITS for d in corpus.contents.get(split, ())]
    vectors = Model(path, record).states(dialogues).numpy()
    model = {
        "kind": "run",
        "name": run_name(path),
        "digest": sha256_of(weights),
        "encoder": {"name": record.encoder.name, "digest": record.encoder.digest}
        if record.encoder
        else None,
        "trained_on": {"name": record.dataset, "digest": record.dataset_digest},
    }
    return Encoded(vectors, corpus, _about(corpus, model, dict(record.config)))
