"""The commands that read records: ``erc-bench leaderboard``, ``compare``, ``ablations``,
``rescore``, ``score``, ``show`` and ``explain``; and ``records rm``, which removes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App

from erc_bench.cli import common
from erc_bench.cli.common import (
    LEADERBOARD,
    DataDir,
    Dataset,
    LeaderboardDir,
    Method,
    Several,
    Whole,
)

app = App(name="records", help="Remove records.")

FORM = common.one_of(
    ": run the command once for each, for example with --latex > table.tex and with --bib > "
    "table.bib"
)
WHICH = common.one_of()
Split = Literal["test", "dev"]


def leaderboard(
    *,
    check: Annotated[bool, FORM] = False,
    latex: Annotated[bool, FORM] = False,
    site: Annotated[Path | None, FORM] = None,
    bib: Annotated[bool, FORM] = False,
    with_records: Annotated[tuple[Path, ...], Several] = (),
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> int:
    """Make the leaderboard from the records.

    Args:
        check: Exit with 1 if a file on disk is stale or a record is skipped.
        latex: Print a LaTeX table for a paper.
        site: Write the web page, and one for every run, into this folder.
        bib: Print the BibTeX entries of all published rows, including those that --latex cites.
        with_records: Other folders from which records are read, too.
    """
    from erc_bench import leaderboard as board
    from erc_bench.records.store import untested_files

    if check:
        common.must_exist(leaderboard_dir)
    root, *further = common.record_folders(leaderboard_dir, with_records)
    stale = False
    if bib:
        print(board.bibliography(root), end="")
        return 0
    if latex:
        table, skipped = board.latex(root, further)
        print(table, end="")
    elif site is not None:
        page, skipped = board.build_site(root, site, further)
        print(page)
    elif check:
        found = board.check(leaderboard_dir, with_records)
        stale, skipped = bool(found.paths), found.skipped
        for path in found.paths:
            print(f"{path} is stale; erc-bench leaderboard rebuilds it.")
        if not (stale or skipped):
            print(f"{leaderboard_dir} is up to date.")
    else:
        built = board.build(leaderboard_dir, with_records)
        skipped = built.skipped
        for path in built.paths:
            print(path)
    for each in skipped:
        common.complain(f"skipped: {each.reason}")
    if untested := sum(1 for _ in untested_files(leaderboard_dir)):
        common.complain(
            f"Runs left out because they have not scored test: {untested}. Repeat their commands "
            "without --no-test."
        )
    return 1 if stale or skipped else 0


def compare(
    method: Method,
    other: Method,
    /,
    *,
    dataset: Dataset,
    preset: str | None = None,
    with_records: Annotated[tuple[Path, ...], Several] = (),
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Compare two methods on one corpus.

    Args:
        method: A method, or METHOD:PRESET (not tuned), METHOD:VARIANT, METHOD:tuned, METHOD:HASH,
            METHOD:key=value.
        other: Another method, or the key of a published row.
        dataset: The corpus.
        preset: Only runs with this preset.
        with_records: Other folders from which records are read, too.
    """
    from erc_bench.leaderboard import compare_methods

    root, *further = common.record_folders(leaderboard_dir, with_records)
    compare_methods(
        *(root, method, other, common.corpus_name(dataset, root)),
        preset=preset,
        further=further,
    ).render(common.results())


def ablations(
    *,
    method: Method,
    dataset: Dataset,
    preset: str | None = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Compare a method with its variants, each without one of its parts.

    The runs are made by `erc-bench run --variant all`.

    Args:
        method: A method.
        dataset: The corpus.
        preset: Only runs with this preset.
    """
    from erc_bench.cli import printing
    from erc_bench.leaderboard.ablations import ablations_of

    common.must_exist(leaderboard_dir)
    dataset = common.corpus_name(dataset, leaderboard_dir)
    found, left_out = ablations_of(leaderboard_dir, method, dataset, preset)
    for ablation in found:
        printing.print_ablation(common.results(), ablation, dataset)
    for reason in left_out:
        common.complain(f"skipped: {reason}")


def rescore(*, leaderboard_dir: LeaderboardDir = LEADERBOARD) -> int:
    """Recompute every record's metrics."""
    from erc_bench.leaderboard import rescore as rescore_records

    common.must_exist(leaderboard_dir)
    report = rescore_records(leaderboard_dir)
    report.render(common.results())
    return 1 if report.broken else 0


def score(
    file: str,
    /,
    *,
    dataset: Dataset,
    name: str,
    split: Annotated[tuple[Split, ...], Several] = ("test",),
    column: str = "",
    seed: str = "1",
    context: Literal["past", "full", "unknown"] = "unknown",
    encoder: str = "",
    force: bool = False,
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Score and store predictions made elsewhere.

    Args:
        file: JSON, or a table separated by commas, semicolons or tabs; - is standard input.
        dataset: The corpus.
        name: The method's name on the leaderboard.
        split: The splits that the file holds (default: test).
        column: The column of the predictions (default: found by its name).
        seed: The number of this run among several (default: 1).
        context: The turns that the method reads: earlier ones (past), or the whole dialogue (full).
        encoder: The model that made the predictions.
        force: Replace a stored record.
    """
    from erc_bench.cli.printing import metrics_table
    from erc_bench.leaderboard.published import read_published
    from erc_bench.records.external import score as score_predictions

    number = common.seed_number(seed)
    scored = score_predictions(
        *(file, dataset, name, leaderboard_dir),
        splits=split,
        column=column,
        seed=number,
        context=context,
        encoder=encoder,
        data_dir=data_dir,
        force=force,
        published={row.key for row in read_published(leaderboard_dir).all()},
    )
    for note in scored.notes:
        common.complain(f"note: {note}.")
    out = common.results()
    title = f"{name} on {scored.dataset}, seed {number}"
    out.print(metrics_table(title, scored.labels, scored.metrics, scored.judged_by))
    where = f"Record: {scored.path}" if scored.path else "Not stored: a record needs test scores."
    out.print(where, soft_wrap=True)


@app.command
def rm(
    *run: str,
    yes: bool = False,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> int:
    """Remove runs: the record, the model and the log of each.

    Args:
        run: Records, or enough of their names method/dataset/hash/seedK.
        yes: Do not ask.
    """
    from erc_bench.errors import ErcBenchError
    from erc_bench.records.store import find_record, remove, removed_with

    if not run:
        raise ErcBenchError("Which runs? Name records, or parts of method/dataset/hash/seedK.")
    found = (find_record(leaderboard_dir, name, untested=True) for name in run)
    paths = list(dict.fromkeys(found))
    out = common.results()
    for path in paths:
        for each in removed_with(path):
            out.print(str(each), soft_wrap=True)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ErcBenchError(
                "There is no terminal to ask at, so nothing is removed; --yes removes them."
            )
        if input("Remove all of these? [y/N] ").strip().lower() not in ("y", "yes"):
            out.print("Nothing is removed.")
            return 1
    for path in paths:
        remove(path)
    out.print(f"Removed: {len(paths)}. `erc-bench leaderboard` rebuilds the tables.")
    return 0


def show(run: str, /, *, leaderboard_dir: LeaderboardDir = LEADERBOARD) -> None:
    """Show a run: metrics, curves, settings.

    Args:
        run: A record, enough of its name method/dataset/hash/seedK, or hf://user/repo.
    """
    from erc_bench.cli import printing
    from erc_bench.records.store import find_record, read_record

    path = find_record(leaderboard_dir, run)
    printing.show(common.results(), path, read_record(path))


def explain(
    run: str,
    /,
    *,
    dialogue: Annotated[str | None, WHICH] = None,
    worst: Annotated[Whole, WHICH] = 10,
    split: Split = "test",
    dataset: str | None = None,
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Show a dialogue turn by turn, with gold and predicted emotions.

    Args:
        run: A record, enough of its name method/dataset/hash/seedK, or hf://user/repo.
        dialogue: The id of a dialogue (default: list the dialogues with most errors).
        worst: How many dialogues to list (default: 10).
        split: The split whose dialogues are listed.
        dataset: The folder of your own corpus, if it has moved.
    """
    from erc_bench.cli import dialogues
    from erc_bench.records.corpora import find_corpus
    from erc_bench.records.store import find_record, read_record

    path = find_record(leaderboard_dir, run)
    record = read_record(path)
    dialogues.explain(
        *(common.results(), path, record),
        dialogue=dialogue,
        worst=worst,
        split=split,
        data_dir=data_dir,
        source=find_corpus(dataset or record.dataset, leaderboard_dir),
    )
