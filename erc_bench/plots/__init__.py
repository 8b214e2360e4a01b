"""Draw pictures for a paper from records, trials or a run's model (``erc-bench plot``).

:func:`plot` draws one of :data:`What` into a PNG, SVG or PDF file. The same input gives the same
bytes. Matplotlib is an optional dependency, so it is imported only when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from erc_bench.errors import ErcBenchError
from erc_bench.files import replacing, temporary_name

What = Literal["curves", "seeds", "confusion", "reliability", "slices", "trials", "vectors"]

FORMATS = ("png", "svg", "pdf")

DPI = 300
"""Resolution of a PNG, and of rasterized points in the other formats."""

METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Metadata to leave out of a file, so that the same records give the same bytes."""


def plot(
    what: What,
    file: Path,
    root: Path,
    *,
    dataset: str | None = None,
    methods: Sequence[str] = (),
    preset: str | None = None,
    run: str | None = None,
    split: Literal["test", "dev"] = "test",
    data_dir: Path | None = None,
    further: Sequence[Path] = (),
) -> list[str]:
    """Draw a picture into a file.

    Args:
        what: the picture.
        file: the file to write; its ending gives the format, one of :data:`FORMATS`.
        root: folder of the records.
        dataset: the corpus whose records are drawn, if it is not one run.
        methods: the methods, as ``erc-bench compare`` names them, or for trials by their names
            alone; none = all on the corpus.
        preset: only runs with this preset.
        run: one run instead, as ``erc-bench show`` names it.
        split: the split that the map of vectors shows.
        data_dir: folder that the map of vectors searches for the corpus before the usual places.
        further: other folders with records; ``run`` is not looked for in them.

    Returns:
        What was left out of the picture, and why.

    Raises:
        ErcBenchError: Matplotlib is missing, the file is of another format or can't be written, or
            there is nothing to draw.
    """
    ending = file.suffix[1:].lower()
    if ending not in FORMATS:
        raise ErcBenchError(
            f"{file} names no format that can be drawn: it must end in "
            f".{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}."
        )
    try:
        import matplotlib
    except ImportError as error:
        raise ErcBenchError(
            "Pictures need the package matplotlib, which is not installed: "
            "pip install 'erc-bench[plot]'."
        ) from error
    from erc_bench.plots import figures
    from erc_bench.plots.selection import of_run, of_runs, of_searches
    from erc_bench.plots.vectors import vectors_of_run

    if run is not None and (dataset or methods or preset):
        raise ErcBenchError("Give --run, or --dataset with --method and --preset, not both.")
    if run is None and not dataset:
        raise ErcBenchError("Which runs? Name a corpus with --dataset, or a run with --run.")
    left_out: list[str] = []
    with matplotlib.rc_context(figures.STYLE):
        if what == "trials":
            if not dataset:
                raise ErcBenchError(
                    "A run has no trials: name the corpus of the search with --dataset."
                )
            title, groups, left_out = of_searches(root, dataset, methods, preset, further)
            figure = figures.trials(title, groups)
        elif what == "vectors":
            if run is None:
                raise ErcBenchError(
                    "The vectors are those of one run's model: name it with --run, as for "
                    "`erc-bench show`."
                )
            figure = figures.vectors(vectors_of_run(root, run, split, data_dir))
        else:
            shown = (
                of_runs(root, dataset, methods, preset, further)
                if dataset
                else of_run(root, run or "")
            )
            figure = figures.OF_RUNS[what](shown)
            left_out = shown.left_out
        contents = io.BytesIO()
        figure.savefig(contents, format=ending, dpi=DPI, metadata=METADATA[ending])
    try:
        with replacing(file, temporary_name(file)) as out:
            out.write(contents.getvalue())
    except OSError as error:
        raise ErcBenchError(
            f"{file} can't be written: {error.strerror or error}. Name another file, in a folder "
            "that is there."
        ) from error
    return left_out
