"""Print runs and ablations, for ``show`` and ``ablations``, and tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from erc_bench.corpus.conversation import FIGURES, Metric
from erc_bench.evaluation.slices import facts_of, slices
from erc_bench.progress import duration
from erc_bench.records.schema import (
    Described,
    Encoder,
    Facts,
    Metrics,
    Prompting,
    Record,
    Training,
    to_json,
)

if TYPE_CHECKING:
    from erc_bench.leaderboard.ablations import Ablation

BLOCKS = " ▁▂▃▄▅▆▇█"

HEIGHT = 6
"""Height of a large curve, in lines."""

WIDTH = 60
"""Maximum width of a curve, in columns."""

RIGHT, WRONG = "green", "red"


def show(console: Console, path: Path, record: Record) -> None:
    """Print a run: metrics, classes, confusion, slices, curves, training cost and settings."""
    console.print(_head(path, record))
    metrics = dict(record.metrics.items())
    title, judged_by = run_title(record), record.judged_by
    console.print(metrics_table(title, record.labels, metrics, judged_by, by_class=False))
    console.print(_class_table(record))
    console.print(_confusion_table(record))
    if record.predictions.test.facts is not None:
        console.print(_slice_table(record, record.predictions.test.facts))
    values: dict[str, Any] = {}
    if record.training is not None:
        _print_curves(console, record.training, judged_by)
        values |= to_json(record.training)
    if record.environment is not None:
        values |= to_json(record.environment)
    for title, of_title in (("Training", values), ("Settings", record.config)):
        console.print(f"\n{title}", style="bold")
        _print_values(console, {k: v for k, v in of_title.items() if k != "curves"})


def print_ablation(console: Console, ablation: Ablation, dataset: str) -> None:
    """Print the scores of a method and its variants, and how the differences were estimated."""
    from erc_bench.evaluation.statistics import spread
    from erc_bench.leaderboard.wording import ablation_title, difference, p_value

    metric = Metric.of(ablation.metric, None).title
    columns = (metric, "seeds", "minus the whole, 95 %", "p, Holm")
    table = Table(
        Column("", no_wrap=True),
        *(Column(name, justify="right") for name in columns),
        title=Text(f"{ablation_title(ablation)}; {dataset}, test"),
    )
    whole = spread(ablation.mean, ablation.seed_interval)
    table.add_row("the whole method", whole, str(len(ablation.seeds)), end_section=True)
    for variant in ablation.variants:
        table.add_row(
            Text(variant.name),
            spread(variant.mean, variant.seed_interval),
            str(len(variant.seeds)),
            difference(variant.difference, variant.interval),
            p_value(variant.p_holm),
        )
    console.print(table)
    names: dict[str, list[str]] = {}  # by how the difference was estimated
    for variant in ablation.variants:
        if variant.paired_seeds:
            seeds = ", ".join(map(str, variant.paired_seeds))
            rests = (
                f"paired over dialogues and over seeds {seeds}, which share initial weights and "
                "batches, or the encoder that was fine-tuned for the seed."
            )
        else:
            rests = "paired over dialogues; seeds are independent samples."
        alone = min(len(variant.seeds), len(ablation.seeds)) == 1
        rests += " With one seed this does not cover seeds." if alone else ""
        names.setdefault(rests, []).append(variant.name)
    for rests, of_these in names.items():
        console.print(f"{', '.join(of_these)}: {rests}", soft_wrap=True)


def run_title(record: Described) -> str:
    """``eacl on meld, seed 1``, with a note if the corpus is not the official release."""
    copy = "" if record.dataset_official is not False else ", not the official release"
    return f"{record.method} on {record.dataset}{copy}, seed {record.seed}"


def metrics_table(
    title: str,
    labels: Sequence[str],
    metrics: Mapping[str, Metrics],
    judged_by: Metric,
    by_class: bool = True,
) -> Table:
    """A table of the figures of each split in percent, and below them F1 by class.

    Dev is the first column. The figure of the corpus's metric is the first row.
    """
    splits = [split for split in ("dev", "test") if split in metrics]
    figures = [_figures(metrics[split], judged_by) for split in splits]
    titles = {**FIGURES, judged_by.name: judged_by.title}
    table = Table(title=Text(title))
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    names = list(dict.fromkeys(name for of_split in figures for name in of_split))
    for name in names:
        table.add_row(
            Text(titles.get(name, name.replace("_", " "))),
            *(f"{of_split[name]:.2f}" if name in of_split else "–" for of_split in figures),
            end_section=name == names[-1],
        )
    for name in labels if by_class else ():
        table.add_row(
            Text(f"F1 {name}"), *(f"{metrics[split].per_class[name].f1:.2f}" for split in splits)
        )
    return table


def _figures(metrics: Metrics, judged_by: Metric) -> dict[str, float]:
    """The figures shown in percent: the protocol's, and the method's own that are floats."""
    figures = {
        judged_by.name: metrics.score(judged_by),
        "weighted_f1": metrics.weighted_f1,
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "calibration_error": metrics.calibration_error,
        "no_answer": metrics.no_answer,
        **{name: value for name, value in metrics.extra.items() if isinstance(value, float)},
    }
    return {name: value for name, value in figures.items() if value is not None}


def table_of(*columns: str | Column, title: str = "") -> Table:
    """A table without lines."""
    return Table(
        *columns,
        title=Text(f"\n{title}") if title else None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )


def _head(path: Path, record: Record) -> Table:
    encoder = record.encoder or Encoder()
    rows = {
        "record": str(path),
        "made": record.created,
        "preset": " ".join([record.preset, record.variant or "", *record.overrides]),
        "encoder": f"{encoder.name or 'unknown'} {encoder.digest[:12]}",
        "context": record.context,
        "selection": record.selection,
        "corpus": f"{record.dataset} {record.dataset_digest[:12]}"
        + (" (not the official release)" if record.dataset_official is False else ""),
    }
    if record.tuned is not None:
        rows["tuned"] = (
            f"trial {record.tuned.chosen} of {record.tuned.trials} was best on dev (sampler "
            f"{record.tuned.sampler}, seed {record.tuned.sampler_seed})"
        )
    if encoder.prompting is not None:
        rows["prompts"] = _prompts(encoder.prompting, record.judged_by)
    if record.oracle_gap is not None:
        rows["oracle gap"] = f"{record.oracle_gap:.2f} (best epoch on test minus selected epoch)"
    if record.external:
        rows["external"] = "predicted elsewhere: how it was trained and selected is not known"
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(Text(key, style="dim"), Text(value, overflow="fold"))
    return table


def _prompts(prompting: Prompting, metric: Metric) -> str:
    """The scores of all prompts on test, in one line."""
    scores = prompting.paraphrases.get("test", [])
    parts = [f"{score['prompt']} {score[metric.name]:.2f}" for score in scores]
    masked = (prompting.masked or {}).get("test")
    parts += [f"masked names {masked[metric.name]:.2f}"] if masked else []
    shown = f"; {len(prompting.examples)} examples" if prompting.examples else ""
    if near := prompting.nearest:
        shown = f"; the {near['shown']} examples nearest by {near['name']}"
    return f"{', '.join(parts)} ({metric.title} on test){shown}"


def _class_table(record: Record) -> Table:
    test, dev = record.metrics.test, record.metrics.dev
    table = table_of("", title="By class, on test")
    for column in ("support", "precision", "recall", "F1", *(["F1 on dev"] if dev else [])):
        table.add_column(column, justify="right")
    for name in record.labels:
        of_class = test.per_class[name]
        shares = [of_class.precision, of_class.recall, of_class.f1]
        shares += [dev.per_class[name].f1] if dev else []
        table.add_row(Text(name), f"{of_class.support:,}", *(f"{share:.2f}" for share in shares))
    return table


def _confusion_table(record: Record) -> Table:
    """The confusion counts, rows gold; a cell with a larger share of its row is bolder."""
    table = table_of("gold ↓ predicted →", title="Confusion on test")
    for name in record.labels:
        table.add_column(Text(name), justify="right")
    for c, row in enumerate(record.metrics.test.confusion):
        cells = []
        for k, count in enumerate(row):
            colour = RIGHT if k == c else WRONG
            weight = "bold " if 4 * count >= sum(row) else "dim " if 20 * count < sum(row) else ""
            cells.append(Text(f"{count:,}", style=weight + colour if count else "dim"))
        table.add_row(Text(record.labels[c]), *cells)
    return table


def _slice_table(record: Record, recorded: Facts) -> Table:
    test = record.predictions.test
    facts, classes = facts_of(recorded.columns()), len(record.labels)
    parts = slices(test.gold, [test.predicted], facts, classes, record.judged_by, record.labels)
    found = [part for part in parts if part.support]
    table = table_of("", "", title="Parts of test")
    for column in ("support", record.judged_by.title, "accuracy"):
        table.add_column(column, justify="right")
    kinds = [part.kind for part in found]
    for i, part in enumerate(found):
        table.add_row(
            part.kind if i == kinds.index(part.kind) else "",
            Text(part.name),
            f"{part.support:,}",
            f"{part.score:.2f}",
            f"{part.accuracy:.2f}",
        )
    return table


def _print_curves(console: Console, training: Training, judged_by: Metric) -> None:
    """Print large curves of the loss and the dev score, and the other curves in a line each."""
    curves = training.curves
    names = list(dict.fromkeys(name for epoch in curves for name in epoch if name != "epoch"))
    # A single epoch is not a curve.
    large = [n for n in (f"dev/{judged_by.name}", "train/loss") if n in names and len(curves) > 1]
    for name in large:
        values = [epoch.get(name) for epoch in curves]
        lines, low, high = plot(values, HEIGHT)
        console.print(Text(f"\n{name}"), style="bold")
        edges = [f"{high:9.4g}", *[""] * (HEIGHT - 2), f"{low:9.4g}"]
        for edge, line in zip(edges, lines, strict=True):
            console.print(Text(f"{edge:>9} │{line}"), no_wrap=True, crop=False)
        best, columns = training.best_epoch, len(lines[0])
        if best:
            at = min(columns - 1, (2 * best - 1) * columns // (2 * len(curves)))
            console.print(f"{'':9} └{'─' * at}▲ epoch {best} of {len(curves)}")
    small = [name for name in names if name not in large]
    if small:
        table = table_of("", "first", "last", "")
        for figure in small:
            values = [epoch.get(figure) for epoch in curves]
            ends = ["–" if v is None else f"{v:.4g}" for v in (values[0], values[-1])]
            table.add_row(Text(figure), *ends, Text(plot(values, 1)[0][0], no_wrap=True))
        console.print()
        console.print(table)


def plot(values: Sequence[float | None], height: int) -> tuple[list[str], float, float]:
    """Draw values as columns of blocks; return ``height`` lines, the top one first, and the range.

    The lowest value is an eighth of a line high, and None is empty. If there are few values, each
    is several columns wide. If there are more than :data:`WIDTH`, some are skipped evenly.
    """
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    columns = min(WIDTH, len(values) * max(1, min(4, WIDTH // len(values))))
    eighths = []
    for column in range(columns):
        value = values[column * len(values) // columns]
        share = 1.0 if high == low else ((value or 0.0) - low) / (high - low)
        eighths.append(0 if value is None else 1 + round(share * (8 * height - 1)))
    lines = [
        "".join(BLOCKS[min(max(e - 8 * line, 0), 8)] for e in eighths)
        for line in reversed(range(height))
    ]
    return lines, low, high


def _print_values(console: Console, values: Mapping[str, Any], indent: str = "  ") -> None:
    """Print plain data, one value a line."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            console.print(Text(f"{indent}{key}:"))
            _print_values(console, value, indent + "  ")
        else:
            timed = key.endswith("_seconds") and isinstance(value, (int, float))
            text = duration(value) if timed and value else f"{value}"
            key = key.removesuffix("_seconds") if timed else key
            console.print(Text(f"{indent}{key}: {text}"), soft_wrap=True)
