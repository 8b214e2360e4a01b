"""What ``import erc_bench`` offers: a few typed functions for notebooks and scripts.

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
"""Where records are, if nothing else is said; the command line's default too."""


def load_corpus(name: str, *, data_dir: Path | str | None = None) -> Corpus:
    """A corpus, from its files: ``load_corpus("meld").dialogues("test")``.

    Args:
        name: as ``erc-bench data list`` has it, or the folder of one of your own.
        data_dir: where the corpora are, before the usual places.

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
    """Settings, figures and predictions, as ``run.record.metrics.test.weighted_f1``."""

    @cached_property
    def model(self) -> Model:
        """The method with the run's weights, loaded when it is first asked for."""
        from erc_bench.inference.model import Model

        return Model(self.path, self.record)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def predict(self, dialogues: Sequence[Dialogue] | str) -> list[Answer]:
        """An answer for every turn of some dialogues, or of a file of them; their labels are not
        looked at.

        Raises:
            ErcBenchError: what is given holds something else than dialogues, or none.
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
    """A finished run by its name, as much of ``method/dataset/hash/seedK`` as is enough; or one on
    the Hugging Face hub, ``hf://user/repo`` or ``hf://user/repo@revision``.

    Raises:
        ErcBenchError: no run is meant, or several are: they are listed.
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
    """Train, select on dev, score test once, and leave a record; a finished run is not done again.

    Args:
        method: as ``erc-bench methods`` has it.
        dataset: as ``erc-bench data list`` has it, or the folder of one of your own.
        preset: None is the default one.
        variant: the part that the method is without; empty for all of it.
        seed: of everything that is drawn.
        settings: settings to override, by their dotted names: ``{"evaluation.oracle": True}``.
        folder: of the records and checkpoints.
        data_dir: where the corpora are, before the usual places.
        wandb: how it is logged to W&B: ``online``, ``offline`` or ``off``.
        restart: begin an interrupted run anew.
        force: repeat a finished run.
        devices: GPUs that train it together.

    Raises:
        ErcBenchError: something that the caller can mend.
    """
    from erc_bench.execution.resources import Devices
    from erc_bench.execution.run import run as run_experiment
    from erc_bench.records.schema import Record
    from erc_bench.settings.experiment import resolve

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
        wandb=wandb,
        restart=restart,
        force=force,
        devices=Devices(devices),
    )
    assert isinstance(outcome.record, Record)  # test was scored
    return Run(outcome.path, outcome.record)


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """Settings as the command line has them, ``key=value``."""
    import json

    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (settings or {}).items()
    ]


def predict(
    run: Run | str, dialogues: Sequence[Dialogue] | str, *, folder: Path | str = FOLDER
) -> list[Answer]:
    """What the model of a finished run says of every turn of some dialogues.

    Args:
        run: the run, or its name.
        dialogues: whose turns need no labels; or a file of them, as `erc-bench predict` reads it.
        folder: of the records, where ``run`` is a name.
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
    """A vector for every turn: ``encode("roberta-base", "meld").save("meld.safetensors")``.

    Args:
        what: an encoder (hub id or folder); or a run, or its name: the state that it classifies.
        dialogues: a corpus, or its name; or dialogues, or a file of them.
        fine_tuned_on: the corpus that an encoder is fine-tuned on first, on single utterances;
            empty: it is taken as it is.
        settings: of an encoder's vectors, as ``{"max_len": 64}``.
        folder: of the records, where ``what`` is a run's name.
        data_dir: where the corpora are, before the usual places.

    Returns:
        ``vectors`` ``(N, d)``, ``ids`` and ``save(path)``.

    Raises:
        ErcBenchError: something that the caller can mend.
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
    """The leaderboard of the records in a folder as a table, one row a configuration.

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
