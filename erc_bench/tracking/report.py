"""A W&B report that compares methods on one corpus: seeds as points, mean and sd, curves."""

from __future__ import annotations

import secrets
from typing import Any

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.progress import say
from erc_bench.tracking import RESULT, logged_in, reason, wandb_project, wandb_settings

SEEDS_CHART = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "title": "${string:title}",
    "data": {"name": "wandb"},
    "encoding": {
        "x": {"field": "${field:method}", "type": "nominal", "title": None},
        "y": {
            "field": "${field:score}",
            "type": "quantitative",
            "title": "on test, %",
            "scale": {"zero": False},
        },
    },
    "layer": [
        {
            "mark": {"type": "point", "filled": True, "opacity": 0.6},
            "encoding": {
                "tooltip": [{"field": f"${{field:{f}}}"} for f in ("method", "seed", "score")]
            },
        },
        {"mark": {"type": "errorbar", "extent": "stdev", "ticks": {"size": 12}}},
        {
            "mark": {"type": "tick", "thickness": 2, "size": 24, "color": "black"},
            "encoding": {"y": {"aggregate": "mean", "field": "${field:score}"}},
        },
    ],
}
"""A Vega-Lite chart of test scores by method: each seed a point, mean and sd (n − 1)."""


def save_report(
    dataset: str,
    preset: str,
    project: str | None,
    entity: str | None,
    metric: Metric = Metric(),
) -> str:
    """Save a report that compares the methods on a corpus; returns its address.

    It stays up to date, because W&B draws it from the runs that are there. A run repeated with
    ``--force`` is a second finished W&B run of its seed. It counts twice until the older one is
    deleted there.

    Args:
        dataset: the corpus.
        preset: runs with this preset are compared.
        project: the project of the runs; None = the one that this machine logs to.
        entity: the owner of the project; None = the one that this machine logs to.
        metric: the metric of the corpus.

    Raises:
        ErcBenchError: the package is missing, nobody is logged in, or W&B did not take the report.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise ErcBenchError(
            "The report needs the package wandb-workspaces, which is not installed: "
            "pip install 'erc-bench[report]'."
        ) from error
    try:
        if not logged_in():
            raise ErcBenchError(
                "The report is kept by W&B, and nobody is logged in there: `wandb login`, or set "
                "WANDB_API_KEY."
            )
        import wandb

        api: Any = wandb.Api()
        owner = entity or wandb_settings().entity or api.default_entity
        chart = _seeds_chart(api, owner)
        made = report(dataset, preset, project or wandb_project(), owner, chart, metric)
        return made.save().url
    except ErcBenchError:
        raise
    except Exception as error:  # wandb may raise any error
        raise ErcBenchError(
            f"W&B did not take the report ({reason(error)}). Check the network, and that the "
            "project is there: runs logged offline are uploaded with `wandb sync`."
        ) from error


def _seeds_chart(api: Any, entity: str) -> str | None:
    """Make a custom chart and return its id; None if the server can't make it."""
    try:
        return api.create_custom_chart(
            entity=entity,
            name=f"erc-bench-seeds-{secrets.token_hex(4)}",
            display_name="Scores by method, seeds as points",
            spec_type="vega2",
            access="private",
            spec=SEEDS_CHART,
        )
    except Exception as error:
        say(f"W&B can't make a chart of seeds by method ({reason(error)}); it shows them by seed.")
        return None


def report(
    dataset: str,
    preset: str,
    project: str,
    entity: str,
    chart: str | None,
    metric: Metric = Metric(),
) -> Any:
    """The report, not yet saved.

    ``chart`` is the id of :data:`SEEDS_CHART` on the server. The report compares *variants*: a
    variant is a method with the settings that differ from its preset's.
    """
    import wandb_workspaces.reports.v2 as wr

    def runs(name: str, **options: Any) -> Any:
        kept = (
            f"Config('dataset') == {dataset!r} and Config('preset') == {preset!r} "
            "and Metric('State') == 'finished'"
        )
        return wr.Runset(entity=entity, project=project, name=name, filters=kept, **options)

    title, test = metric.title[0].upper() + metric.title[1:], f"test/{metric.name}"
    left, right = wr.Layout(0, 0, 12, 10), wr.Layout(12, 0, 12, 10)
    spread: dict[str, Any] = {
        "groupby": wr.Config("variant"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "stddev",
    }
    seeds: Any = wr.ScatterPlot(
        title=f"{title} on test, by seed",
        x=wr.Config("seed"),
        y=wr.SummaryMetric(test),
        layout=left,
    )
    if chart is not None:
        seeds = wr.CustomChart.from_table(
            RESULT,
            chart_fields={"method": "variant", "seed": "seed", "score": metric.name},
            chart_strings={"title": f"{title} on test: seeds, and mean and sd"},
        )
        seeds.chart_name, seeds.layout = chart, left
    means = wr.BarPlot(
        title=f"{title} on test, mean and sd over seeds",
        metrics=[test],
        orientation="v",
        layout=right,
        **spread,
    )
    curves: list[Any] = [
        wr.LinePlot(title=title, x="epoch", y=[metric], title_x="epoch", layout=layout, **spread)
        for title, metric, layout in (
            (f"{title} on dev, mean and sd over seeds", f"dev/{metric.name}", left),
            ("Loss in training, mean and sd over seeds", "train/loss", right),
        )
    ]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"Methods on {dataset}, preset {preset}",
        description=(
            "Finished runs of erc-bench: models selected on dev, test scored once. A run repeated "
            "with --force is here twice and counts twice: delete the older one."
        ),
        width="fluid",
        blocks=[
            wr.H2("Seeds"),
            wr.PanelGrid(runsets=[runs("Runs")], panels=[seeds, means]),
            wr.H2("Curves"),
            wr.PanelGrid(
                runsets=[runs("By method", groupby=["config.variant"])],
                panels=curves,
            ),
        ],
    )
