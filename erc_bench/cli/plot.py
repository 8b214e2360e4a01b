"""``erc-bench plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from erc_bench.cli import common
from erc_bench.cli.common import LEADERBOARD, DataDir, Dataset, LeaderboardDir, Several
from erc_bench.errors import ErcBenchError
from erc_bench.plots import What


def plot(
    what: What,
    file: Path,
    /,
    *,
    dataset: Dataset | None = None,
    method: Annotated[tuple[str, ...], Several] = (),
    preset: str | None = None,
    run: str | None = None,
    split: Literal["test", "dev"] = "test",
    with_records: Annotated[tuple[Path, ...], Several] = (),
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Draw a picture for a paper, as PNG, SVG or PDF.

    Pictures of runs show seeds, curves, confusion, reliability, or slices of the test set. A
    picture of searches (trials) shows the expected best score by number of trials. A picture of a
    run's model (vectors) shows the vectors of utterances.

    Args:
        what: The picture.
        file: The file to write; its ending gives the format.
        dataset: The corpus.
        method: Methods, or METHOD:PRESET (not tuned), METHOD:VARIANT, METHOD:tuned, METHOD:HASH,
            METHOD:key=value (default: all).
        preset: Only runs with this preset.
        run: One run instead: a record, or enough of its name method/dataset/hash/seedK.
        split: The split that the map of vectors shows.
        with_records: Other folders from which records are read, too; not with --run.
    """
    from erc_bench import plots

    if run and with_records:
        raise ErcBenchError("Leave out --with-records: --run names one run of one folder.")
    root, *further = common.record_folders(leaderboard_dir, with_records)
    corpus = common.corpus_name(dataset, root) if dataset else None
    left_out = plots.plot(
        *(what, file, root),
        dataset=corpus,
        methods=method,
        preset=preset,
        run=run,
        split=split,
        data_dir=data_dir,
        further=further,
    )
    for reason in left_out:
        common.complain(reason)
    print(file)
