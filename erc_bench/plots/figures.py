"""Draw the pictures; each function takes the data to show and returns a Matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.calibration import reliability_bins
from erc_bench.evaluation.slices import confusions, facts_of, slices
from erc_bench.evaluation.statistics import seed_interval
from erc_bench.leaderboard.searches import SearchGroup
from erc_bench.leaderboard.wording import capital
from erc_bench.plots.selection import Configuration, Shown
from erc_bench.plots.vectors import VectorMap
from erc_bench.records.schema import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""The colours of Okabe and Ito, which colour-blind readers can tell apart, too. A brown replaces
their yellow, which is hard to see on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib, so it is the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#333333",
    "axes.axisbelow": True,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "text.parse_math": False,  # a setting may hold a dollar sign
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,  # text stays text in a PDF
    "svg.hashsalt": "erc-bench",
}

WIDTH = 6.6
"""Width of a picture in inches, that of the text on a page."""

KEY_SIZE = 7
"""Font size of the key below a picture, which explains its marks."""

PANEL = 2.2
"""Size of a panel in inches, if there are several beside each other."""


# --- of runs


def seeds(shown: Shown) -> Figure:
    """Draw the score on test of every seed, their mean, and its 95 % interval over seeds."""
    n = len(shown.configurations)
    figure = Figure((WIDTH, 0.9 + 0.34 * n), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(shown.configurations):
        over = seed_interval(each.values)
        if over.interval:
            axes.plot(over.interval, [place] * 2, color=COLOURS[0], alpha=0.22, linewidth=9,
                      solid_capstyle="butt")  # fmt: skip
        axes.plot([over.mean] * 2, [place - 0.3, place + 0.3], color="#222222", linewidth=1.2)
        axes.plot(each.values, [place] * len(each.values), "o", color=COLOURS[0], markersize=4.5,
                  markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    axes.set_yticks(range(n), [each.name for each in shown.configurations])
    axes.set_ylim(n - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor="#222222")
    axes.grid(axis="x")
    axes.set_xlabel(f"{capital(shown.metric.title)} on test, %")
    axes.set_title(shown.title)
    _key(figure, "Dots: seeds. Line: their mean. Band: its 95 % interval over seeds.")
    return figure


def curves(shown: Shown) -> Figure:
    """Draw the score on dev by epoch.

    Thin lines are seeds. A thick line is their mean, while all of them train. A dot is the selected
    epoch. If there is one configuration, its training loss is drawn, too; the losses of different
    methods can't be compared.
    """
    dev = f"dev/{shown.metric.name}"

    def has_curve(record: Record) -> bool:
        epochs = record.training.curves if record.training else []
        return any(epoch.get(dev) is not None for epoch in epochs)

    with_curves = _having(shown, has_curve, "no curves")
    panels = [(dev, f"{capital(shown.metric.title)} on dev, %")]
    if len(with_curves) == 1:
        panels.append(("train/loss", "Loss in training"))
    figure = Figure((WIDTH, 3.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels,
                                   strict=True):  # fmt: skip
        for i, each in enumerate(with_curves):
            _curve(axes, each, name, i)
        axes.set_xlabel("Epoch")
        axes.set_ylabel(title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
    title = shown.title
    key = "Thin: seeds. Thick: their mean while all of them train. Dots: selected epochs."
    if len(with_curves) == 1:
        title += f": {with_curves[0].name}"
        _key(figure, key)
    else:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center",
                      ncols=2 if len(with_curves) > 3 else len(with_curves), title=key,
                      title_fontproperties={"size": KEY_SIZE})  # fmt: skip
    figure.axes[0].set_title(title)
    return figure


def _sign(i: int) -> dict[str, Any]:
    """A colour and a marker; each of the first 64 pairs is different."""
    n = len(COLOURS)
    return {"color": COLOURS[i % n], "marker": MARKERS[(i + i // n) % len(MARKERS)]}


def _curve(axes: Axes, configuration: Configuration, name: str, i: int) -> None:
    colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
    series = []
    for record in configuration.records:
        training = record.training
        assert training is not None  # records without curves were left out before
        values = {
            int(epoch.get("epoch") or n): math.nan if (value := epoch.get(name)) is None else value
            for n, epoch in enumerate(training.curves, 1)
        }
        series.append(values)
        axes.plot(list(values), list(values.values()), color=colour, alpha=0.35, linewidth=0.8)
        best = training.best_epoch
        if best in values:
            axes.plot([best], [values[best]], "o", color=colour, markersize=3, alpha=0.7)
    together = sorted(set.intersection(*map(set, series)))
    means = [float(np.mean([values[epoch] for values in series])) for epoch in together]
    axes.plot(together, means, color=colour, linestyle=dash, linewidth=1.8,
              label=configuration.name)  # fmt: skip


def confusion(shown: Shown) -> Figure:
    """Draw confusion matrices, in percent of each gold emotion, as means over seeds.

    If a row sums to less than 100, the missing percent are utterances without an answer.
    """
    figure, panels = _panels(shown.configurations, 0.3 + 0.3 * _labels_of(shown), 0.5)
    for axes, each in zip(panels, shown.configurations, strict=False):
        labels = each.first.labels
        counts = np.mean(
            [
                confusions(np.array(r.predictions.test.gold),
                           np.array([r.predictions.test.predicted]), len(labels))[0]
                for r in each.records
            ],
            axis=0,
        )  # fmt: skip
        shares = 100 * counts[:, :-1] / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for gold, row in enumerate(shares):
            for predicted, share in enumerate(row):
                axes.text(predicted, gold, f"{share:.0f}", ha="center", va="center", fontsize=6.5,
                          color="white" if share > 55 else "#333333")  # fmt: skip
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0, labelsize=7)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(_in_two_lines(each.name), fontsize=8.5)
    figure.suptitle(f"{shown.title}: test, % of each gold emotion", fontsize=9)
    figure.supxlabel("Predicted emotion", fontsize=8.5, color="#333333")
    figure.supylabel("Gold emotion", fontsize=8.5, color="#333333")
    return figure


def reliability(shown: Shown) -> Figure:
    """Draw accuracy by confidence, in 15 bins over all seeds.

    The area of a dot grows with its number of predictions. The expected calibration error is the
    mean over seeds.
    """
    with_probabilities = _having(
        shown, lambda record: record.predictions.test.probabilities is not None, "no probabilities"
    )
    figure, panels = _panels(with_probabilities, PANEL, 0.45)
    for axes, each in zip(panels, with_probabilities, strict=False):
        confidence: list[float] = []
        right: list[bool] = []
        for record in each.records:
            test = record.predictions.test
            for gold, predicted, row in zip(
                test.gold, test.predicted, test.probabilities or [], strict=True
            ):
                if row is not None:
                    confidence.append(max(row))
                    right.append(gold == predicted)
        bins = reliability_bins(confidence, right)
        axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(100 * bins.confidence, 100 * bins.accuracy, color=COLOURS[0], linewidth=1)
        axes.scatter(100 * bins.confidence, 100 * bins.accuracy, color=COLOURS[0], alpha=0.85,
                     s=4 + 150 * bins.count / bins.count.sum(), linewidths=0, clip_on=False,
                     zorder=3)  # fmt: skip
        errors = [record.metrics.test.calibration_error for record in each.records]
        known = [error for error in errors if error is not None]
        note = f"ECE {sum(known) / len(known):.1f} %" if known else ""
        axes.text(96, 4, note, ha="right", fontsize=7.5, color="#333333")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_xticks(range(0, 101, 25))
        axes.set_yticks(range(0, 101, 25))
        axes.grid()
        axes.set_title(_in_two_lines(each.name), fontsize=8.5)
    for axes in panels[: len(with_probabilities)]:
        axes.set_xlabel("Confidence, %")
    panels[0].set_ylabel("Share correct, %")
    figure.suptitle(f"{shown.title}: reliability on test", fontsize=9)
    key = "Dots: bins, larger with more predictions. Dashes: perfect calibration."
    _key(figure, f"{key} ECE: expected calibration error.")
    return figure


def parts_of_test(shown: Shown) -> Figure:
    """Draw the score on parts of the test set, as means over seeds."""
    with_facts = _having(
        shown, lambda record: record.predictions.test.facts is not None,
        "no facts of the utterances",
    )  # fmt: skip
    names: list[tuple[str, str]] = []
    scores: list[dict[tuple[str, str], float]] = []
    for each in with_facts:
        first, test = each.first, each.first.predictions.test
        assert test.facts is not None
        parts = slices(
            test.gold,
            [record.predictions.test.predicted for record in each.records],
            facts_of(test.facts.columns()),
            len(first.labels),
            shown.metric,
            first.labels,
        )
        own = {(p.kind, p.name): p.score for p in parts if p.score is not None}
        names += [name for name in own if name not in names]
        scores.append(own)
    kinds = list(dict.fromkeys(kind for kind, _ in names))
    place = {name: i + 0.7 * kinds.index(name[0]) for i, name in enumerate(names)}
    bottom = max(place.values())
    rows = math.ceil(len(with_facts) / 2)
    figure = Figure((WIDTH, 1.0 + 0.22 * bottom + 0.18 * rows), layout="constrained")
    axes = figure.subplots()
    for i, (each, own) in enumerate(zip(with_facts, scores, strict=True)):
        shift = 0.5 * ((i + 0.5) / len(with_facts) - 0.5)
        axes.plot(
            list(own.values()), [place[name] + shift for name in own], linestyle="none",
            **_sign(i), markersize=4.5, alpha=0.9, label=each.name,
        )  # fmt: skip
    axes.set_yticks(list(place.values()), [part_in_words(*name) for name in names])
    axes.set_ylim(bottom + 0.7, -0.7)
    axes.tick_params(axis="y", length=0, labelcolor="#222222")
    axes.grid()
    axes.set_xlabel(f"{capital(shown.metric.title)} on a part of test, %")
    axes.set_title(shown.title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def part_in_words(kind: str, name: str) -> str:
    """The name of a part of the test set, for a reader of a paper."""
    if name in ("shift", "hold"):
        return "speaker's emotion " + {"shift": "changes", "hold": "stays"}[name]
    if kind == "position":
        words = {"first": "first turn", "later": "later turns"}
        return words.get(name, f"turns {name}")
    if kind == "length":
        return f"{name} words"
    if kind == "speaker" and name != "not in train":
        return f"speaker with {name} turns in train"
    return "text not in train" if name == "new" else f"{kind} {name}"


OF_RUNS: dict[str, Callable[[Shown], Figure]] = {
    "seeds": seeds,
    "curves": curves,
    "confusion": confusion,
    "reliability": reliability,
    "slices": parts_of_test,
}
"""The functions that draw runs, by the name of the picture on the command line."""


# --- of searches, and of a model


def trials(title: str, groups: Sequence[SearchGroup]) -> Figure:
    """Draw the expected best score on dev by number of trials, for every method searched."""
    found = [group for group in groups if any(row.best is not None for row in group.rows)]
    if not found:
        raise ErcBenchError("Every trial of these searches failed: there is nothing to draw.")
    figure = Figure((WIDTH, 3.0 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, group in zip(panels, found, strict=True):
        rows = [row for row in group.rows if row.best is not None]
        for i, row in enumerate(rows):
            axes.plot(
                range(1, row.trials + 1), row.expected, **_sign(i),
                linestyle=DASHES[i % len(DASHES)], markersize=3.5,
                label=row.name,
            )  # fmt: skip
        axes.set_xlabel("Number of trials")
        axes.set_ylabel("Expected best score on dev, %")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        encoder = group.encoder.split("/")[-1]
        axes.set_title(", ".join(part for part in (title, encoder, group.preset) if part))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def vectors(made: VectorMap) -> Figure:
    """Draw utterance vectors by gold emotion on their first two principal components.

    If the method has an anchor or prototype of an emotion, a star shows it.
    """
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    for c, name in enumerate(made.labels):
        mine = made.points[made.gold == c]
        axes.scatter(mine[:, 0], mine[:, 1], s=7, **_sign(c), alpha=0.55, linewidths=0,
                     label=name, rasterized=True)  # fmt: skip
    for c, (x, y) in enumerate([] if made.anchors is None else made.anchors):
        axes.plot([x], [y], "*", color=COLOURS[c % len(COLOURS)], markersize=15,
                  markeredgecolor="white", markeredgewidth=1.2, zorder=3)  # fmt: skip
    first, second = made.explained
    axes.set_xlabel(f"First principal component, {first:.0f} % of the variance")
    axes.set_ylabel(f"Second principal component, {second:.0f} % of the variance")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(made.title)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=1.8)
    legend.set_title("Gold emotion" + ("" if made.anchors is None else "\n★ its anchor"))
    return figure


# --- helpers of several pictures


def _having(shown: Shown, has: Callable[[Record], bool], lacking: str) -> list[Configuration]:
    """The configurations, with only the records for which ``has`` is true; the others are noted."""
    found = []
    for each in shown.configurations:
        records = [record for record in each.records if has(record)]
        if records:
            found.append(Configuration(each.name, records))
        if missing := len(each.records) - len(records):
            runs = "its record holds" if missing == 1 else f"{missing} of its records hold"
            shown.left_out.append(f"left out of {each.name}: {runs} {lacking}.")
    if not found:
        names = ", ".join(each.name for each in shown.configurations)
        raise ErcBenchError(f"The records of {names} hold {lacking}: there is nothing to draw.")
    return found


def _key(figure: Figure, text: str) -> None:
    """Write a key below a picture; if the picture is narrow, each sentence has its own line."""
    lines = text if figure.get_figwidth() > 0.8 * WIDTH else text.replace(". ", ".\n")
    figure.supxlabel(lines, fontsize=KEY_SIZE, color="#666666")


def _panels(
    configurations: Sequence[Configuration], size: float, margin: float
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each configuration, at most three in a row."""
    n = len(configurations)
    columns = min(n, max(1, min(3, int(3 * PANEL / size) or 1)))
    rows = math.ceil(n / columns)
    figure = Figure(
        (columns * (size + margin), rows * (size + margin + 0.15) + 0.3), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[n:]:
        unused.set_visible(False)
    return figure, axes


def _in_two_lines(name: str) -> str:
    """A name with its details in brackets on a second line, since a panel is narrow."""
    return name.replace(" (", "\n(", 1)


def _labels_of(shown: Shown) -> int:
    return max(len(each.first.labels) for each in shown.configurations)
