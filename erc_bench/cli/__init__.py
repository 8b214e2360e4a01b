"""The command line: parses, calls, prints."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_bench import __version__
from erc_bench.cli.parser import CommandParser
from erc_bench.errors import ErcBenchError, explain
from erc_bench.progress import console, duration, say, show_warning
from erc_bench.tracking import MODES

if TYPE_CHECKING:
    from erc_bench.records.schema import Record, Training

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 done, 1 a run failed, 2 something the user can mend, 130 interrupted.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    overrides = all("=" in text and not text.startswith("-") for text in rest)
    if rest and not (overrides and "overrides" in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest  # key=value may stand anywhere
    console.quiet = args.quiet
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows the rest
    with warnings.catch_warnings():
        if not args.debug:
            warnings.showwarning = show_warning
        try:
            return args.command(args) or 0
        except KeyboardInterrupt:
            onwards = (
                "; the same command with --resume goes on after the last epoch that ended, if any"
            )
            _complain(f"interrupted{onwards if args.command is command_run else ''}.")
            return INTERRUPTED
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the interpreter's own flush
            return 1
        except Exception as error:
            if args.debug:
                raise
            _complain(explain(error))
            return 2 if isinstance(error, ErcBenchError) else 1
        finally:
            console.quiet = False


def _complain(text: str) -> None:
    print(f"erc-bench: {text}", file=sys.stderr)


def _must_exist(root: Path) -> None:
    """What only reads records says so where there is no such folder."""
    if not root.is_dir():
        raise ErcBenchError(
            f"There is no folder {root} with records. Name the right one with --leaderboard-dir, "
            "or make records there: `erc-bench run` with the same --leaderboard-dir."
        )


def _console() -> Any:
    """Where results go."""
    from rich.console import Console

    return Console(highlight=False)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress, results only")
    common.add_argument("--debug", action="store_true", help="show a traceback on errors")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the corpora are (default: $ERC_BENCH_DATA, then the cache)",
    )
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--leaderboard-dir",
        type=Path,
        default=Path("leaderboard"),
        metavar="DIR",
        help="where records and pages go (default: ./leaderboard)",
    )
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--preset", default="paper", help="paper (default), base, small or smoke")
    settings.add_argument("overrides", nargs="*", metavar="key=value", help="settings to override")

    parser = CommandParser(
        prog="erc-bench", description="A benchmark suite for emotion recognition in conversation."
    )
    parser.add_argument("--version", action="version", version=f"erc-bench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        parents=[settings, data, store, common],
        help="train, select on dev, score test, leave a record",
    )
    run.add_argument("--method", nargs="+", required=True, metavar="NAME", help="methods, or all")
    run.add_argument("--dataset", nargs="+", required=True, metavar="NAME", help="corpora, or all")
    seeds = run.add_mutually_exclusive_group()
    seeds.add_argument("--seed", nargs="+", default=["1"], metavar="K", help="seeds (default: 1)")
    seeds.add_argument("--seeds", type=int, metavar="N", help="the seeds 1 to N")
    run.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    run.add_argument("--force", action="store_true", help="do finished runs again")
    run.add_argument(
        "--wandb",
        choices=MODES,
        help="how to log to W&B (default: $WANDB_MODE, then online if logged in, else offline)",
    )
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs side by side (default: as many as the GPU and the cores do well)",
    )
    run.set_defaults(command=command_run)

    config = commands.add_parser(
        "config", parents=[settings, common], help="print the resolved configuration"
    )
    config.add_argument("--method", required=True, metavar="NAME")
    config.add_argument("--dataset", required=True, metavar="NAME")
    config.add_argument("--seed", type=int, default=1, metavar="K")
    config.set_defaults(command=command_config)

    methods = commands.add_parser("methods", parents=[common], help="list the methods")
    methods.set_defaults(command=command_methods)

    board = commands.add_parser(
        "leaderboard", parents=[store, common], help="make the leaderboard out of the records"
    )
    form = board.add_mutually_exclusive_group()
    form.add_argument(
        "--check",
        action="store_true",
        help="exit 1 if what is on disk is stale or a record is skipped",
    )
    form.add_argument("--latex", action="store_true", help="print the table a paper needs")
    board.set_defaults(command=command_leaderboard)

    compare = commands.add_parser(
        "compare", parents=[store, common], help="compare two methods on one corpus"
    )
    compare.add_argument("a", metavar="METHOD", help="a method, or METHOD:PRESET")
    compare.add_argument("b", metavar="OTHER", help="another, or the key of a published row")
    compare.add_argument("--dataset", required=True, metavar="NAME")
    compare.add_argument("--preset", help="only runs with this preset")
    compare.set_defaults(command=command_compare)

    rescore = commands.add_parser(
        "rescore", parents=[store, common], help="recompute every record's metrics"
    )
    rescore.set_defaults(command=command_rescore)

    score = commands.add_parser(
        "score",
        parents=[data, store, common],
        help="score and store predictions made elsewhere",
    )
    score.add_argument("predictions", metavar="FILE", help="JSON lines or CSV; - is standard input")
    score.add_argument("--dataset", required=True, metavar="NAME")
    score.add_argument("--name", required=True, help="what the leaderboard shall call it")
    score.add_argument(
        "--split", nargs="+", choices=("test", "dev"), default=["test"], help="what the file holds"
    )
    score.add_argument("--seed", default="1", metavar="K", help="which of several runs it is")
    score.add_argument("--context", choices=("past", "full", "unknown"), default="unknown")
    score.add_argument("--encoder", default="", metavar="NAME", help="what predicted")
    score.add_argument("--force", action="store_true", help="replace what was stored before")
    score.set_defaults(command=command_score)

    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument(
        "run", metavar="RUN", help="a record, or a part of method/dataset/hash/seedK that is enough"
    )
    show = commands.add_parser(
        "show", parents=[reading, store, common], help="a run: metrics, curves, settings"
    )
    show.set_defaults(command=command_show)

    turns = commands.add_parser(
        "explain",
        parents=[reading, data, store, common],
        help="a dialogue turn by turn, gold and predicted",
    )
    one = turns.add_mutually_exclusive_group()
    one.add_argument("--dialogue", metavar="ID", help="(default: list those with most errors)")
    one.add_argument("--worst", type=int, default=10, metavar="N", help="so many (default: 10)")
    turns.add_argument(
        "--split", choices=("test", "dev"), default="test", help="where they are sought"
    )
    turns.set_defaults(command=command_explain)

    predict = commands.add_parser(
        "predict", parents=[reading, store, common], help="the emotions of new dialogues"
    )
    predict.add_argument(
        "dialogues",
        nargs="?",
        default="-",
        metavar="FILE",
        help="JSON, or lines `Speaker: text` (default: standard input)",
    )
    predict.add_argument("--json", action="store_true", help="a line of JSON for every turn")
    predict.add_argument(
        "--stream", action="store_true", help="answer each line of standard input at once"
    )
    predict.set_defaults(command=command_predict)

    tracking = commands.add_parser("wandb", help="compare methods on Weights & Biases")
    reports = tracking.add_subparsers(required=True, metavar="ACTION")
    report = reports.add_parser(
        "report", parents=[common], help="save a W&B report: methods on a corpus, over seeds"
    )
    report.add_argument("--dataset", required=True, metavar="NAME")
    report.add_argument("--preset", default="paper", help="paper (default), base, small or smoke")
    report.add_argument("--project", metavar="NAME", help="W&B project (default: $WANDB_PROJECT)")
    report.add_argument("--entity", metavar="NAME", help="W&B entity (default: $WANDB_ENTITY)")
    report.set_defaults(command=command_wandb_report)

    corpora = commands.add_parser("data", help="list, prepare, describe and check the corpora")
    actions = corpora.add_subparsers(required=True, metavar="ACTION")
    for name, text, command in (
        ("list", "what there is", command_data_list),
        ("prepare", "find or download a corpus", command_data_prepare),
        ("stats", "what a corpus holds, and its overlaps", command_data_stats),
        ("doctor", "what is there, missing or damaged", command_data_doctor),
    ):
        where = [] if name == "list" else [data]
        action = actions.add_parser(name, parents=[*where, common], help=text)
        if name in ("prepare", "stats"):
            action.add_argument("name", nargs="+", metavar="NAME", help="corpora")
        action.set_defaults(command=command)
    return parser


def experiments(args: argparse.Namespace) -> list[Any]:
    """Every run that a command line asks for, methods × corpora × seeds."""
    from erc_bench.settings.experiment import resolve
    from erc_bench.settings.registry import corpus_names, corpus_source, method_names

    methods = _apart(args, "method")
    datasets = _apart(args, "dataset")
    seeds = range(1, args.seeds + 1) if args.seeds is not None else _seeds(_apart(args, "seed"))
    if args.jobs is not None and args.jobs < 1:
        raise ErcBenchError(f"--jobs {args.jobs} leaves nobody to run anything: give 1 or more.")
    if not seeds:
        raise ErcBenchError(f"--seeds {args.seeds} leaves nothing to run: give 1 or more.")
    methods = method_names() if methods == ["all"] else methods
    datasets = corpus_names() if datasets == ["all"] else datasets
    for name in datasets:
        corpus_source(name)
    return [
        resolve(method, dataset, preset=args.preset, seed=seed, overrides=args.overrides)
        for dataset in datasets
        for method in methods
        for seed in seeds
    ]


def _apart(args: argparse.Namespace, option: str) -> list[str]:
    """The values of an option that takes several; ``key=value`` behind it is an override."""
    values: list[str] = getattr(args, option)
    args.overrides = [*args.overrides, *(v for v in values if "=" in v)]
    setattr(args, option, plain := [v for v in values if "=" not in v])
    if not plain:
        raise ErcBenchError(f"--{option} needs one or more values before any key=value.")
    return list(dict.fromkeys(plain))


def _seeds(values: list[str]) -> list[int]:
    try:
        seeds = list(dict.fromkeys(int(value) for value in values))
    except ValueError:
        raise ErcBenchError(f"--seed takes whole numbers, not {' '.join(values)!r}.") from None
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise ErcBenchError(f"--seed takes numbers from 0 to 2³² - 1, not {' '.join(values)!r}.")
    return seeds


def command_run(args: argparse.Namespace) -> int:
    """``erc-bench run``: one run in this process, several as a grid."""
    planned = experiments(args)
    from erc_bench.records.store import record_path
    from erc_bench.tracking import wandb_mode

    root = args.leaderboard_dir
    anew = args.force or not all(record_path(root, each).exists() for each in planned)
    options = {
        "data_dir": args.data_dir,
        "resume": args.resume,
        "force": args.force,
        "wandb": wandb_mode(args.wandb, root) if anew else "off",
    }
    if len(planned) == 1:
        from erc_bench.execution.run import run

        say(f"Run {planned[0].name}, preset {planned[0].preset}")
        print_outcome(run(planned[0], root, **options))
        return 0
    from erc_bench.execution.grid import run_grid
    from erc_bench.execution.jobs import Job

    report = run_grid([Job(e, root, options) for e in planned], args.jobs)
    report.render(_console())
    for complaint in report.complaints():
        _complain(complaint)
    if report.failures:
        _complain(f"{len(report.failures)} of {len(planned)} runs failed; those have no record.")
    return 1 if report.failures else 0


def print_outcome(outcome: Any) -> None:
    """The table at the end of a run, where its record is, and how long it took."""
    from erc_bench.cli.printing import metrics_table, run_title

    record, out = outcome.record, _console()
    out.print(metrics_table(run_title(record), record.labels, dict(record.metrics.items())))
    head = "Finished before (--force repeats it)" if outcome.skipped else "Record"
    out.print(f"{head}: {outcome.path}", soft_wrap=True)
    if record.oracle_gap is not None:
        out.print(f"Oracle gap: {record.oracle_gap:.2f} (best test epoch − selected epoch)")
    if not outcome.skipped and record.training is not None:
        out.print(f"{record.metrics.test.utterances} test utterances; {_took(record.training)}")


def _took(training: Training) -> str:
    """``1 min 5 s, 8 epochs, best 6, 44 utterances/s in training``, as far as it is known."""
    parts = {
        "{}": training.wall_seconds and duration(training.wall_seconds),
        "{} epochs": training.epochs,
        "best {}": training.best_epoch,
        "{:.0f} utterances/s in training": training.utterances_per_second,
    }
    return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def command_config(args: argparse.Namespace) -> None:
    """``erc-bench config``."""
    from erc_bench.settings.experiment import resolve
    from erc_bench.settings.registry import corpus_source

    corpus_source(args.dataset)
    experiment = resolve(
        args.method,
        args.dataset,
        preset=args.preset,
        seed=_seeds([str(args.seed)])[0],
        overrides=args.overrides,
    )
    print(experiment.to_yaml(), end="")


def command_methods(args: argparse.Namespace) -> None:
    """``erc-bench methods``."""
    from rich.table import Table

    from erc_bench.settings.experiment import method_sheet
    from erc_bench.settings.registry import method_names

    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for column in ("method", "context", "paper"):
        table.add_column(column)
    for name in method_names():
        sheet = method_sheet(name)
        table.add_row(name, sheet["title"], sheet.get("context", ""), sheet.get("paper", ""))
    _console().print(table)


def command_leaderboard(args: argparse.Namespace) -> int:
    """``erc-bench leaderboard``."""
    from erc_bench import leaderboard

    _must_exist(args.leaderboard_dir)
    stale = False
    if args.latex:
        table, skipped = leaderboard.latex(args.leaderboard_dir)
        print(table, end="")
    elif args.check:
        found = leaderboard.check(args.leaderboard_dir)
        stale, skipped = bool(found.paths), found.skipped
        for path in found.paths:
            print(f"{path} is stale; erc-bench leaderboard makes it anew.")
    else:
        built = leaderboard.build(args.leaderboard_dir)
        skipped = built.skipped
        for path in built.paths:
            print(path)
    for each in skipped:
        _complain(f"skipped: {each.reason}")
    return 1 if stale or skipped else 0


def command_compare(args: argparse.Namespace) -> None:
    """``erc-bench compare``."""
    from erc_bench.leaderboard import compare_methods

    root, preset = args.leaderboard_dir, args.preset
    _must_exist(root)
    compare_methods(root, args.a, args.b, args.dataset, preset=preset).render(_console())


def command_rescore(args: argparse.Namespace) -> int:
    """``erc-bench rescore``."""
    from erc_bench.leaderboard import rescore

    _must_exist(args.leaderboard_dir)
    report = rescore(args.leaderboard_dir)
    report.render(_console())
    return 1 if report.broken else 0


def command_score(args: argparse.Namespace) -> None:
    """``erc-bench score``."""
    from erc_bench.cli.printing import metrics_table
    from erc_bench.records.external import score

    scored = score(
        args.predictions,
        args.dataset,
        args.name,
        args.leaderboard_dir,
        splits=args.split,
        seed=_seeds([args.seed])[0],
        context=args.context,
        encoder=args.encoder,
        data_dir=args.data_dir,
        force=args.force,
    )
    out = _console()
    title = f"{args.name} on {args.dataset}, seed {args.seed}"
    out.print(metrics_table(title, scored.labels, scored.metrics))
    where = f"Record: {scored.path}" if scored.path else "Not stored: a record stands on test."
    out.print(where, soft_wrap=True)


def _run_of(args: argparse.Namespace) -> tuple[Path, Record]:
    """The record that RUN means, and its file."""
    from erc_bench.records.store import find_record, read_record

    path = find_record(args.leaderboard_dir, args.run)
    return path, read_record(path)


def command_show(args: argparse.Namespace) -> None:
    """``erc-bench show``."""
    from erc_bench.cli.printing import show

    show(_console(), *_run_of(args))


def command_explain(args: argparse.Namespace) -> None:
    """``erc-bench explain``."""
    from erc_bench.cli.printing import explain

    path, record = _run_of(args)
    explain(
        _console(),
        path,
        record,
        dialogue=args.dialogue,
        worst=args.worst,
        split=args.split,
        data_dir=args.data_dir,
    )


def command_predict(args: argparse.Namespace) -> None:
    """``erc-bench predict``."""
    from erc_bench.cli.printing import print_answers, ranked
    from erc_bench.inference.dialogue_files import check_stream, read_dialogues, read_turns
    from erc_bench.records.store import model_file

    path, record = _run_of(args)
    # What can be wrong is looked for before anything slow is imported or loaded.
    model_file(path, record)
    if args.stream:
        check_stream(record, args.dialogues)
    dialogues = [] if args.stream else read_dialogues(args.dialogues)
    from erc_bench.inference.model import Model

    model, out = Model(path, record), _console()
    if args.stream:
        say("Ready: a turn a line, `Speaker: text`.")
    answers = model.stream(read_turns()) if args.stream else model.answers(dialogues)
    if args.json:
        for answer in answers:
            print(answer.to_json(), flush=True)
    elif args.stream:
        for answer in answers:
            out.print(*ranked(answer), soft_wrap=True)
    else:
        print_answers(out, answers)


def command_wandb_report(args: argparse.Namespace) -> None:
    """``erc-bench wandb report``."""
    from erc_bench.settings.registry import corpus_source
    from erc_bench.tracking.report import save_report

    corpus_source(args.dataset)
    print(save_report(args.dataset, args.preset, args.project, args.entity))


def command_data_list(args: argparse.Namespace) -> None:
    """``erc-bench data list``."""
    from erc_bench.corpus.report import data_list

    data_list(_console())


def command_data_prepare(args: argparse.Namespace) -> None:
    """``erc-bench data prepare``."""
    from erc_bench.corpus.report import data_prepare

    data_prepare(_console(), args.name, args.data_dir)


def command_data_stats(args: argparse.Namespace) -> None:
    """``erc-bench data stats``."""
    from erc_bench.corpus.report import data_stats

    for name in args.name:
        data_stats(_console(), name, args.data_dir)


def command_data_doctor(args: argparse.Namespace) -> int:
    """``erc-bench data doctor``."""
    from erc_bench.corpus.report import data_doctor

    return data_doctor(_console(), args.data_dir)
