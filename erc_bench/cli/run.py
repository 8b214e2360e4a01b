"""``erc-bench run``, ``config`` and ``methods``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from erc_bench.cli import common
from erc_bench.cli.common import (
    LEADERBOARD,
    DataDir,
    Dataset,
    Datasets,
    LeaderboardDir,
    Method,
    Methods,
    Preset,
    Several,
    Whole,
)
from erc_bench.errors import ErcBenchError, listed
from erc_bench.progress import duration, say_once
from erc_bench.settings.presets import default_preset

if TYPE_CHECKING:
    from erc_bench.execution.report import Report
    from erc_bench.execution.run import Outcome
    from erc_bench.records.schema import Training
    from erc_bench.settings.experiment import Experiment

UNUSED = {"local": ("cpus", "gpus", "memory_gib", "minutes"), "ray": ("minutes",)}
"""Keys of ``--resources`` that an executor does not use."""

SEEDS, BEGINNING = common.one_of(), common.one_of()


def run(
    *overrides: str,
    method: Methods,
    dataset: Datasets,
    preset: Preset = default_preset(),  # noqa: B008
    variant: Annotated[tuple[str, ...], Several] = ("",),
    seed: Annotated[tuple[str, ...], SEEDS, Several] = ("1",),
    seeds: Annotated[Whole | None, SEEDS] = None,
    restart: Annotated[bool, BEGINNING] = False,
    resume: Annotated[bool, BEGINNING, Parameter(show=False)] = False,
    force: bool = False,
    no_test: bool = False,
    wandb: Literal["online", "offline", "off"] | None = None,
    jobs: Whole | None = None,
    executor: str = "local",
    resources: Annotated[tuple[str, ...], Several] = (),
    retries: Whole = 3,
    detach: bool = False,
    devices: Whole = 1,
    nodes: Whole = 1,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> int:
    """Train, select on dev, score test and write a record; one run or many.

    A finished run is skipped. An interrupted run is resumed after its last finished epoch.

    Args:
        overrides: Settings, key=value, anywhere in the command.
        method: Methods, or all.
        dataset: Corpora, or all; give one of your own by its folder.
        variant: Variants by name, each the method without one of its parts; all is every variant
            and the whole method.
        seed: Seeds (default: 1).
        seeds: The seeds 1 to N.
        restart: Start an interrupted run from the beginning.
        resume: Resume an interrupted run, as is done anyway.
        force: Repeat finished runs.
        no_test: Leave test unscored; no leaderboard shows such runs. The same command without this
            option scores test later, without training again.
        wandb: How to log to W&B (default: $WANDB_MODE, then online if logged in, else offline).
        jobs: Number of runs at the same time (default: as many as suit the GPU and the cores; on a
            cluster, as many as there is room for).
        executor: What executes the runs: local, ray, slurm, or a plug-in.
        resources: What each run needs: cpus, gpus, memory_gib, minutes, devices, options of
            the executor (slurm.partition=gpu), or a YAML file of these.
        retries: How often a run is queued again after preemption, a lost machine or its time limit.
        detach: Queue the runs and return; the same command later resumes the grid.
        devices: Number of GPUs on each machine that train one run together.
        nodes: Number of machines; srun or torchrun starts the command for every device.
        strategy: fsdp lets each device keep only its part of an encoder and of the optimiser.
    """
    wanted = experiments(
        *overrides,
        method=method,
        dataset=dataset,
        preset=preset,
        variant=variant,
        seed=seed,
        seeds=seeds,
        root=leaderboard_dir,
    )
    on_grid = grid_options(jobs, executor, resources, retries)
    from erc_bench.execution.devices import check
    from erc_bench.execution.grid import run_grid
    from erc_bench.execution.resources import Devices
    from erc_bench.execution.run import run as run_one
    from erc_bench.tracking import wandb_mode

    needs = on_grid["resources"]
    if devices > 1:  # every run takes this many
        needs = replace(needs, devices=devices)
    if nodes > 1:
        needs = replace(needs, nodes=nodes)
    on_grid["resources"] = needs
    on = Devices(
        devices if needs.devices is None else needs.devices,
        nodes if needs.nodes is None else needs.nodes,
        strategy == "fsdp",
    )
    options: dict[str, Any] = {
        "data_dir": data_dir,
        "restart": restart,
        "force": force,
        "no_test": no_test,
        "wandb": wandb_mode(wandb, leaderboard_dir),
        "devices": on,
    }
    if len(wanted) == 1 and executor == "local" and not detach:
        outcome = run_one(wanted[0], leaderboard_dir, **options)
        if not outcome.elsewhere:
            print_outcome(outcome, no_test)
        return 0
    if on.nodes > 1:
        raise ErcBenchError(
            f"--nodes {on.nodes} is for one run that srun or torchrun starts, with one --method, "
            "--dataset and --seed and without --executor. A run of a grid has one machine."
        )
    if executor == "local":
        check(on)
        on_grid["workers"] = 1 if jobs is None and on.each > 1 else jobs
    report = run_grid(wanted, leaderboard_dir, **options, **on_grid, detach=detach)
    report.render(common.results())
    if report.left:
        common.results().print(
            f"Runs that are with {executor}: {report.left}. The same command resumes the grid; "
            f"`erc-bench grid status --leaderboard-dir {leaderboard_dir}` shows how far they are.",
            soft_wrap=True,
        )
    return 1 if print_failures(report, len(wanted)) else 0


def print_failures(report: Report, runs: int) -> int:
    """Print why runs of a grid have no record; return how many failed."""
    for complaint in report.complaints():
        common.complain(complaint)
    if report.failed:
        common.complain(f"{report.failed} of {runs} runs failed; those have no record.")
    return report.failed


def grid_options(
    jobs: int | None, executor: str, resources: Sequence[str], retries: int
) -> dict[str, Any]:
    """The options of a grid from the options of the command line.

    Raises:
        ErcBenchError: an option has an impossible value.
    """
    if jobs is not None and jobs < 1:
        raise ErcBenchError(f"--jobs takes a whole number from 1 on, not {jobs}.")
    if retries < 0:
        raise ErcBenchError(f"--retries {retries} is not a number of retries: give 0 or more.")
    from erc_bench.execution.executors import make_executor
    from erc_bench.execution.resources import parse_resources
    from erc_bench.settings.registry import executor_names

    needs = parse_resources(resources, executor_names())
    options: dict[str, Any] = {"workers": jobs, "resources": needs, "retries": retries}
    unused = [f"{e}.{key}" for e in needs.options if e != executor for key in needs.of(e)]
    unused = [
        name for name in UNUSED.get(executor, ()) if getattr(needs, name) is not None
    ] + unused
    if unused:  # once, since a search comes here twice: for its trials and for its seeds
        say_once(f"Note: the executor {executor} does not use {', '.join(unused)}.")
    made = make_executor(executor, needs.of(executor))  # local, too: it refuses unknown options
    if executor != "local":
        options["executor"] = made
    return options


def experiments(
    *overrides: str,
    method: Sequence[str],
    dataset: Sequence[str],
    preset: str | None = None,
    variant: Sequence[str] = ("",),
    seed: Sequence[str] = ("1",),
    seeds: int | None = None,
    root: Path = LEADERBOARD,
) -> list[Experiment]:
    """Every run that a command line asks for: corpora × methods × variants × seeds.

    If an option takes several values, those of the form ``key=value`` are overrides.

    Raises:
        ErcBenchError: there is no such method, corpus, preset, setting or seed.
    """
    from erc_bench.records.corpora import find_corpus
    from erc_bench.settings.experiment import resolve
    from erc_bench.settings.registry import corpus_names, method_names

    methods, datasets = _plain(method, "--method"), _plain(dataset, "--dataset")
    numbers = dict.fromkeys(map(common.seed_number, _plain(seed, "--seed")))
    if seeds is not None:
        numbers = dict.fromkeys(range(1, seeds + 1))
    if not numbers:
        raise ErcBenchError(f"--seeds {seeds} leaves nothing to run: give 1 or more.")
    settings = [*overrides, *(v for v in (*method, *dataset, *variant, *seed) if "=" in v)]
    datasets = corpus_names() if datasets == ["all"] else datasets
    found: dict[str, str] = {}
    for source in (find_corpus(name, root) for name in datasets):
        if found.setdefault(source.name, source.loaded_by) != source.loaded_by:
            raise ErcBenchError(
                f"{found[source.name]} and {source.loaded_by} both call themselves "
                f"{source.name!r}. Give one of them another name."
            )
    parts = _plain(variant, "--variant")
    first = [
        resolve(each, name, preset=preset, overrides=settings, variant=part)
        for name in found.values()
        for each in (method_names() if methods == ["all"] else methods)
        for part in (all_variants(each, name, preset, settings) if parts == ["all"] else parts)
    ]
    if parts == ["all"] and not any(experiment.variant for experiment in first):
        named = listed({experiment.method for experiment in first})
        raise ErcBenchError(f"{named} has no variants: its YAML file names none that differ.")
    return [replace(experiment, seed=number) for experiment in first for number in numbers]


def all_variants(
    method: str, dataset: str, preset: str | None, settings: Sequence[str]
) -> list[str]:
    """The names of the method's variants, after "" for the whole method.

    If the method does not have a variant's part with these settings, the variant is left out, and a
    line says so.
    """
    from erc_bench.progress import say
    from erc_bench.settings.experiment import resolve, variants

    whole = resolve(method, dataset, preset=preset, overrides=settings)
    found = [""]
    for name in variants(method):
        made = resolve(method, dataset, preset=preset, overrides=settings, variant=name)
        if made.hash == whole.hash:
            say(f"{method}, {name}: left out, it has no such part with these settings.")
        else:
            found.append(name)
    return found


def _plain(values: Sequence[str], option: str) -> list[str]:
    """The values of an option that takes several, each once and without overrides."""
    plain = list(dict.fromkeys(value for value in values if "=" not in value))
    if not plain:
        raise ErcBenchError(f"{option} needs one or more values before any key=value.")
    return plain


def print_outcome(outcome: Outcome, no_test: bool = False) -> None:
    """Print the metrics of a run, the path of its record, and how long it took.

    Args:
        outcome: the outcome of the run.
        no_test: do not show test, even if it was scored before.
    """
    from erc_bench.cli.printing import metrics_table, run_title
    from erc_bench.records.schema import Record

    record, out = outcome.record, common.results()
    metrics = dict(record.metrics.items())
    if no_test:
        metrics.pop("test", None)
    out.print(metrics_table(run_title(record), record.labels, metrics, record.judged_by))
    head = "Finished before (--force repeats it)" if outcome.skipped else "Record"
    if isinstance(record, Record):
        out.print(f"{head}: {outcome.path}", soft_wrap=True)
        if record.oracle_gap is not None and not no_test:
            out.print(f"Oracle gap: {record.oracle_gap:.2f} (best test epoch − selected epoch)")
    else:
        out.print(f"{head}, test not scored: {outcome.path}", soft_wrap=True)
        out.print("The same command without --no-test scores test, without training again.")
    if not outcome.skipped and record.training is not None:
        utterances = ", ".join(f"{m.utterances} {split}" for split, m in metrics.items())
        out.print(f"{utterances} utterances; {_took(record.training)}")


def _took(training: Training) -> str:
    """``1 min 5 s, 8 epochs, best 6, 44 utterances/s in training``, without unknown parts."""
    parts = {
        "{}": training.wall_seconds and duration(training.wall_seconds),
        "{} epoch" if training.epochs == 1 else "{} epochs": training.epochs,
        "best {}": training.best_epoch,
        "{:.0f} utterances/s in training": training.utterances_per_second,
    }
    return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def config(
    *overrides: str,
    method: Method,
    dataset: Dataset,
    preset: Preset = default_preset(),  # noqa: B008
    variant: str = "",
    seed: str = "1",
) -> None:
    """Print the resolved configuration of a run.

    Args:
        overrides: Settings, key=value, anywhere in the command.
        method: A method.
        dataset: A corpus.
        variant: A variant by name, the method without one of its parts.
        seed: The seed (default: 1).
    """
    from erc_bench.settings.experiment import resolve
    from erc_bench.settings.registry import corpus_source

    corpus_source(dataset)
    number = common.seed_number(seed)
    experiment = resolve(
        method, dataset, preset=preset, seed=number, overrides=overrides, variant=variant
    )
    print(experiment.to_yaml(), end="")


def print_settings(names: Sequence[str]) -> None:
    """Print the settings of methods, below the help of a command.

    Raises:
        ErcBenchError: there is no such method.
    """
    from rich.table import Table

    from erc_bench.settings.description import method_settings
    from erc_bench.settings.registry import method_names

    for name in method_names() if list(names) == ["all"] else names:
        table = Table(box=None, title=f"Settings of {name}, as key=value", title_justify="left")
        for column in ("setting", "default", "what it is"):
            table.add_column(column, no_wrap=column == "setting")
        for each in method_settings(name):
            choice = f" ({each.kind})" if ", " in each.kind else ""
            table.add_row(each.name, each.default, f"{each.text}{choice}")
        common.results().print(table)


def methods() -> None:
    """List the methods.

    The GPU memory is an estimate of what a run needs with the presets paper, base and small.
    """
    from erc_bench.settings.methods import method_entries

    out = common.results()
    for m in method_entries():
        out.print("; ".join(filter(None, (f"{m.name}  {m.title}", m.paper))), soft_wrap=True)
        facts = {
            "family": m.family,
            "context": m.context,
            "trains": m.trains,
            "GPU memory": m.memory and f"{m.memory} GiB",
            "needs a GPU": m.needs_gpu,
        }
        said = "; ".join(f"{name}: {fact}" for name, fact in facts.items() if fact)
        out.print(f"    {said}", soft_wrap=True)
