"""``erc-bench tune``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from erc_bench.cli import common
from erc_bench.cli.common import (
    LEADERBOARD,
    DataDir,
    Datasets,
    LeaderboardDir,
    Methods,
    Preset,
    Several,
    Whole,
)
from erc_bench.errors import ErcBenchError
from erc_bench.progress import duration
from erc_bench.settings.presets import default_preset

if TYPE_CHECKING:
    from rich.console import Console

    from erc_bench.execution.tuning import Searched


def tune(
    *overrides: str,
    method: Methods,
    dataset: Datasets,
    preset: Preset = default_preset(),  # noqa: B008
    trials: Whole = 20,
    seeds: Whole | None = None,
    sampler_seed: Whole = 0,
    restart: bool = False,
    retry_failed: bool = False,
    wandb: Literal["online", "offline", "off"] | None = None,
    jobs: Whole | None = None,
    executor: str = "local",
    resources: Annotated[tuple[str, ...], Several] = (),
    retries: Whole = 3,
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> int:
    """Search for settings on dev at random, then train fresh seeds of the best.

    Trial 0 has the preset's settings; the others draw from the method's search space. Trials never
    see the labels of test. Finished trials and seeds are skipped, and interrupted ones continue.

    Args:
        overrides: Settings, key=value, that all trials have; they are not drawn.
        method: Methods, or all.
        dataset: Corpora, or all; give one of your own by its folder.
        trials: Number of trials, including trial 0 (default: 20).
        seeds: Train the seeds 1 to N with the best trial's settings.
        sampler_seed: Seed of the draws; another one gives other settings (default: 0).
        restart: Start interrupted trials from the beginning.
        retry_failed: Repeat failed trials.
        wandb: How to log the seeds to W&B (default: $WANDB_MODE, then online if logged in, else
            offline); trials are not logged.
        jobs: Number of trials or seeds at the same time (default: as many as suit the GPU and the
            cores; on a cluster, as many as there is room for).
        executor: What executes trials and seeds: local, ray, slurm, or a plug-in.
        resources: What each trial or seed needs: cpus, gpus, memory_gib, minutes, options of the
            executor (slurm.partition=gpu), or a YAML file of these.
        retries: How often each is queued again after preemption, a lost machine or its time limit.
    """
    from erc_bench.cli.run import experiments, grid_options

    for option, value in (("--trials", trials), ("--seeds", seeds)):
        if value is not None and value < 1:
            raise ErcBenchError(f"{option} {value} is too few: give 1 or more.")
    if sampler_seed < 0:
        raise ErcBenchError(f"--sampler-seed {sampler_seed} is not a seed: give 0 or more.")
    bases = experiments(
        *overrides, method=method, dataset=dataset, preset=preset, root=leaderboard_dir
    )
    on_grid = grid_options(jobs, executor, resources, retries)
    if on_grid["resources"].devices or on_grid["resources"].nodes:
        raise ErcBenchError("--resources devices, nodes: a trial has one device. Leave them out.")
    from erc_bench.execution.tuning import search
    from erc_bench.settings.space import study
    from erc_bench.tracking import wandb_mode

    log_to = wandb_mode(wandb, leaderboard_dir)
    studies = [study(base, sampler_seed) for base in bases]
    found, complaints = search(
        *(studies, trials, leaderboard_dir),
        data_dir=data_dir,
        restart=restart,
        retry=retry_failed,
        **on_grid,
    )
    out = common.results()
    for searched in found:
        print_search(out, searched)
    for complaint in complaints:
        common.complain(complaint)
    over = [searched for searched in found if not searched.missing and searched.best]
    for searched in found:
        if searched not in over:
            common.complain(unfinished(searched, trials))
    failed, runs = 0, list[str]()
    if seeds and over:
        on_grid = grid_options(jobs, executor, resources, retries)  # the trials' executor is closed
        options = {"data_dir": data_dir, "wandb": log_to}
        failed, runs = _seeds(over, seeds, leaderboard_dir, options, on_grid)
    for searched in over:
        out.print(onwards(searched, runs), soft_wrap=True)
    return 1 if failed or len(over) < len(found) else 0


def _seeds(
    over: list[Searched],
    seeds: int,
    root: Path,
    options: dict[str, Any],
    on_grid: dict[str, Any],
) -> tuple[int, list[str]]:
    """Train fresh seeds of the best settings and print their scores.

    Returns how many failed, and the names of all runs.
    """
    from erc_bench.cli.run import print_failures
    from erc_bench.execution.grid import do_jobs, plan
    from erc_bench.execution.tuning import reuse_record

    chosen = [searched.chosen(seed) for searched in over for seed in range(1, seeds + 1)]
    planned, impossible = plan(chosen, root, options)
    for job in planned:
        reuse_record(job)
    report = do_jobs(planned, root, impossible=impossible, **on_grid)
    report.render(common.results())
    return print_failures(report, len(chosen)), [job.place.name for job in planned]


def print_search(out: Console, searched: Searched) -> None:
    """Print the score of every trial on dev, and the settings it drew."""
    from rich.table import Column, Table
    from rich.text import Text

    base, best = searched.study.base, searched.best
    if not searched.trials:
        return
    metric = next((t.judged_by.title for t in searched.trials if t.dev is not None), "score")
    table = Table(
        Column("trial", justify="right", no_wrap=True),
        Column("on dev", justify="right", no_wrap=True),
        Column("took", justify="right", no_wrap=True),
        Column("settings", overflow="fold"),
        title=Text(f"{base.method} on {base.dataset}, preset {base.preset}: {metric} on dev"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for trial in searched.trials:
        score = trial.outcome if trial.dev is None else f"{trial.score:.2f}"
        took = trial.training.wall_seconds if trial.training else None
        settings = " ".join(trial.drawn) or "as in the preset"
        table.add_row(
            str(trial.number),
            score,
            duration(took) if took is not None else "",
            Text(f"{settings}  ← best" if trial is best else settings),
        )
    out.print(table)


def unfinished(searched: Searched, trials: int) -> str:
    """Why a search chose nothing, and what to do."""
    base, missing = searched.study.base, searched.missing
    name = f"{base.method} on {base.dataset}"
    if missing:
        numbers = ", ".join(map(str, missing))
        return (
            f"{name}: {len(missing)} of {trials} trials have no result ({numbers}), so nothing is "
            "chosen yet. The same command does only those."
        )
    return (
        f"{name}: all {trials} trials failed, so there is nothing to choose. The first: "
        f"{searched.trials[0].reason} --retry-failed repeats them."
    )


def onwards(searched: Searched, runs: Sequence[str]) -> str:
    """The trial that was chosen, and the next command."""
    base, best = searched.study.base, searched.best
    assert best is not None
    name = f"{base.method} on {base.dataset}"
    preset = searched.trials[0]
    beside = "the preset itself"
    if best.number:
        failed = f"the preset {preset.outcome}"
        beside = failed if preset.dev is None else f"the preset {preset.score:.2f}"
    text = f"{name}: best of {len(searched.trials)} is trial {best.number} with {best.score:.2f}"
    text += f" on dev ({beside}). "
    here = [run for run in runs if run.startswith(f"{base.method}/{base.dataset}/")]
    if here:
        return f"{text}To see a run: erc-bench show {here[0]}"
    return f"{text}To train fresh seeds, repeat the command with --seeds 5."
