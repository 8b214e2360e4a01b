"""The Python interface: a few typed functions for notebooks and scripts.

Nothing heavy is imported before a function needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_bench.errors import ErcBenchError

if TYPE_CHECKING:
    import pandas as pd

    from erc_bench.corpus.conversation import Corpus, Dialogue
    from erc_bench.inference.model import Answer, Model
    from erc_bench.records.schema import Record
    from erc_bench.vectors import Encoded

FOLDER = Path("leaderboard")
"""The default folder of the records, here and on the command line."""


def load_corpus(name: str, *, data_dir: Path | str | None = None) -> Corpus:
    """Load a corpus from its files: ``load_corpus("meld").dialogues("test")``.

    Args:
        name: a name from ``erc-bench data list``, or the folder of your own corpus.
        data_dir: folder of the corpora, searched before the usual places.

    Raises:
        ErcBenchError: there is no such corpus, or its files are missing or damaged.
    """
    from erc_bench.settings.registry import corpus_source

    return corpus_source(name).load(Path(data_dir) if data_dir else None)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    """The file of its record."""
    record: Record
    """Settings, figures and predictions, such as ``run.record.metrics.test.weighted_f1``."""

    @cached_property
    def model(self) -> Model:
        """The method with the run's weights, loaded on first use."""
        from erc_bench.inference.model import Model

        return Model(self.path, self.record)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def predict(self, dialogues: Sequence[Dialogue] | str) -> list[Answer]:
        """Predict the emotion of every turn of some dialogues, or of a file of them.

        Labels of the dialogues are ignored.

        Raises:
            ErcBenchError: ``dialogues`` is empty, or holds something that is not a dialogue.
        """
        from erc_bench.corpus.conversation import Dialogue
        from erc_bench.inference.dialogue_files import read_dialogues

        if isinstance(dialogues, str):
            dialogues = read_dialogues(dialogues)
        if not dialogues:
            raise ErcBenchError("There is no dialogue to predict.")
        other = next((each for each in dialogues if not isinstance(each, Dialogue)), None)
        if other is not None:
            raise ErcBenchError(
                "Give a list of dialogues (erc_bench.corpus.conversation.Dialogue); there is "
                f"{other!r:.60} in it."
            )
        return self.model.answers(dialogues)


def load_run(name: str, *, folder: Path | str = FOLDER) -> Run:
    """Load a finished run by its name, or from the Hugging Face hub.

    Args:
        name: enough of ``method/dataset/hash/seedK`` to mean one run only; or
            ``hf://user/repo`` or ``hf://user/repo@revision`` for a run on the hub.
        folder: the folder of the records.

    Raises:
        ErcBenchError: no run has this name, or several match it; the message lists them.
    """
    from erc_bench.records.store import find_record, read_record

    path = find_record(Path(folder), name)
    return Run(path, read_record(path))


def run(
    method: str,
    dataset: str,
    *,
    preset: str | None = None,
    variant: str = "",
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
    folder: Path | str = FOLDER,
    data_dir: Path | str | None = None,
    wandb: str = "off",
    restart: bool = False,
    force: bool = False,
    devices: int = 1,
) -> Run:
    """Train a method, select on dev, score test once, and write a record.

    A finished run is read from its record instead, and an interrupted one is continued.

    Args:
        method: a name from ``erc-bench methods``.
        dataset: a name from ``erc-bench data list``, or the folder of your own corpus.
        preset: None for the default preset.
        variant: the part that is left out of the method; empty for the whole method.
        seed: the seed of all random numbers.
        settings: settings to override, by their dotted names: ``{"evaluation.oracle": True}``.
        folder: the folder of the records and checkpoints.
        data_dir: folder of the corpora, searched before the usual places.
        wandb: how the run is logged to W&B: ``online``, ``offline`` or ``off``.
        restart: start an interrupted run from the beginning.
        force: repeat a finished run.
        devices: number of GPUs that train together.

    Raises:
        ErcBenchError: something that the caller can fix.
    """
    from erc_bench.execution.resources import Devices
    from erc_bench.execution.run import run as run_experiment
    from erc_bench.records.schema import Record
    from erc_bench.settings.experiment import resolve
    from erc_bench.tracking import wandb_mode

    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ErcBenchError(f"A seed is a whole number from 0 on, below 2³², not {seed!r}.")
    experiment = resolve(
        method,
        dataset,
        preset=preset,
        variant=variant,
        seed=seed,
        overrides=_overrides(settings),
    )
    outcome = run_experiment(
        experiment,
        Path(folder),
        data_dir=Path(data_dir) if data_dir else None,
        wandb=wandb_mode(wandb, Path(folder)),
        restart=restart,
        force=force,
        devices=Devices(devices),
    )
    assert isinstance(outcome.record, Record)  # test was scored
    return Run(outcome.path, outcome.record)


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings in the form of the command line, ``key=value``; a text is in quotes."""
    import json

    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in (settings or {}).items()
    ]


def predict(
    run: Run | str, dialogues: Sequence[Dialogue] | str, *, folder: Path | str = FOLDER
) -> list[Answer]:
    """Predict the emotion of every turn of some dialogues with the model of a finished run.

    Args:
        run: the run, or its name.
        dialogues: dialogues, or a file of them as `erc-bench predict` reads it. They need no
            labels.
        folder: the folder of the records, if ``run`` is a name.
    """
    return (load_run(run, folder=folder) if isinstance(run, str) else run).predict(dialogues)


def encode(
    what: Run | str,
    dialogues: Corpus | Sequence[Dialogue] | str,
    *,
    fine_tuned_on: str = "",
    settings: Mapping[str, Any] | None = None,
    folder: Path | str = FOLDER,
    data_dir: Path | str | None = None,
) -> Encoded:
    """Return a vector for every turn.

    ``encode("roberta-base", "meld").save("meld.safetensors")`` writes them to a file.

    Args:
        what: an encoder (hub id or folder); or a run or its name, whose vectors are the states
            that it classifies.
        dialogues: a corpus or its name; or dialogues, or a file of them.
        fine_tuned_on: the corpus on whose single utterances an encoder is fine-tuned first; empty
            to use the encoder as it is.
        settings: settings of an encoder's vectors, such as ``{"max_len": 64}``.
        folder: the folder of the records, if ``what`` is a run's name.
        data_dir: folder of the corpora, searched before the usual places.

    Returns:
        An object with ``vectors`` ``(N, d)``, ``ids`` and ``save(path)``.

    Raises:
        ErcBenchError: something that the caller can fix.
    """
    from erc_bench.corpus.conversation import Corpus
    from erc_bench.inference import encoding

    root, data_dir = Path(folder), Path(data_dir) if data_dir else None
    if isinstance(dialogues, str):
        dialogues = encoding.read_turns_of(dialogues, root, data_dir)
    elif not isinstance(dialogues, Corpus):
        dialogues = encoding.as_corpus(dialogues)
    return encoding.encode(
        (what.path, what.record) if isinstance(what, Run) else what,
        dialogues,
        root,
        fine_tuned_on=fine_tuned_on,
        settings=_overrides(settings),
        data_dir=data_dir,
    )


def load_leaderboard(folder: Path | str = FOLDER) -> pd.DataFrame:
    """Return the leaderboard of a folder of records as a table, one row per configuration.

    The columns are those of ``leaderboard.csv``.

    Raises:
        ErcBenchError: there is no such folder.
    """
    import io

    import pandas as pd

    from erc_bench.leaderboard import read_board
    from erc_bench.leaderboard.tables import to_csv

    if not Path(folder).is_dir():
        raise ErcBenchError(f"There is no folder {folder}. Name the one that holds `records`.")
    return pd.read_csv(io.StringIO(to_csv(read_board(Path(folder)))))
