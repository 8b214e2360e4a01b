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

    Of runs: their seeds, curves, confusion, reliability, and slices of the test set. Of searches:
    the expected best score by number of trials. Of a run's model: the vectors of utterances.

    Args:
        what: Which picture.
        file: Where to; its ending tells the format.
        dataset: The corpus.
        method: Methods, or METHOD:PRESET (not tuned), METHOD:VARIANT, METHOD:tuned, METHOD:HASH,
            METHOD:key=value (default: all).
        preset: Only runs with this preset.
        run: One run instead: a record, or a part of method/dataset/hash/seedK that is enough.
        split: Whose utterances the map of vectors shows.
        with_records: Other folders whose records are read as well; not with --run.
    """
    from erc_bench import plots

    if run and with_records:
        raise ErcBenchError("--with-records adds to --dataset; --run names one run of one folder.")
    root, *further = common.record_folders(leaderboard_dir, with_records)
    corpus = common.corpus_name(dataset) if dataset else None
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
