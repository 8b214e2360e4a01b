"""``erc-bench wandb``."""

from __future__ import annotations

from cyclopts import App

from erc_bench.cli.common import Preset
from erc_bench.settings.presets import default_preset

app = App(name="wandb", help="Compare methods on Weights & Biases.")


@app.command
def report(
    *,
    dataset: str,
    preset: Preset = default_preset(),  # noqa: B008
    project: str | None = None,
    entity: str | None = None,
) -> None:
    """Save a W&B report: methods on a corpus, over seeds.

    Args:
        dataset: The corpus.
        project: W&B project (default: $WANDB_PROJECT).
        entity: W&B entity (default: $WANDB_ENTITY).
    """
    from erc_bench.settings.registry import corpus_source
    from erc_bench.tracking.report import save_report

    source = corpus_source(dataset)
    print(save_report(source.name, preset, project, entity, source.metric))
