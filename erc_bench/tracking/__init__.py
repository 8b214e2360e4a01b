"""Weights & Biases: one W&B run for every run, and a report that compares methods.

The record is what counts. W&B gets the same data, and no failure of W&B fails a run. wandb's own
settings (``wandb login``, ``wandb offline``, ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE`` …)
apply here too. No text of a corpus is sent to W&B.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.progress import say

MODES = ("online", "offline", "off")

PROJECT = "erc-bench"
"""The W&B project if wandb's own settings name none."""

RESULT = "result"
"""Key of the table with the one line of a run: variant, seed, test score."""

PATIENCE: dict[str, Any] = {
    "init_timeout": 30.0,
    "finish_timeout": 60.0,
    "finish_timeout_raises": True,
    # finish_timeout does not apply to artifacts: W&B would try for hours to upload them.
    "x_graphql_timeout_seconds": 10.0,
    "x_graphql_retry_max": 2,
    "x_graphql_retry_wait_max_seconds": 4.0,
    "x_file_transfer_timeout_seconds": 60.0,
    "x_file_transfer_retry_max": 2,
    "x_file_transfer_retry_wait_max_seconds": 4.0,
}
"""Settings of wandb: how long its server may take to accept a run, and to receive it at its end.
What it did not receive is on disk, for ``wandb sync``. Curves are streamed apart from this."""

NAMES = {"run": "online", "shared": "online", "dryrun": "offline", "disabled": "off"}
"""Our names of wandb's modes, by wandb's names, if the two differ."""


def wandb_mode(wanted: str | None, root: Path) -> str:
    """How runs are logged: ``online``, ``offline`` or ``off``.

    The mode is the wanted one, else that of ``WANDB_MODE`` or wandb's settings, else online if
    somebody is logged in. If it is offline, one line says how to upload the runs later.

    Args:
        wanted: what the user asked for, or None.
        root: folder of the records. W&B's files go to its folder ``wandb``.

    Raises:
        ErcBenchError: the wanted mode or ``WANDB_MODE`` is not a mode of wandb, or online is wanted
            and nobody is logged in.
    """
    given = wanted or os.environ.get("WANDB_MODE", "").lower()
    mode = NAMES.get(given, given) or None
    if mode not in (*MODES, None):
        known = [*MODES[:2], *NAMES]
        name = "wandb" if wanted else "WANDB_MODE"
        raise ErcBenchError(f"{name}={given} is not a W&B mode." + did_you_mean(given, known))
    if mode == "off":
        return mode
    try:
        known = wandb_settings().mode
        mode = mode or NAMES.get(known, known)
        if mode == "online" and not logged_in():
            if wanted:
                raise ErcBenchError(
                    "--wandb online needs a W&B account: log in with `wandb login`, or set "
                    "WANDB_API_KEY. With --wandb offline the runs can be uploaded later."
                )
            mode = "offline"
    except ErcBenchError:
        raise
    except Exception as error:  # wandb may raise any error
        say(f"W&B can't be used ({reason(error)}); the runs go on without it.")
        return "off"
    if mode == "offline":
        say(f"W&B logs offline; upload with: wandb sync {root / 'wandb' / 'offline-run-*'}")
    return mode


def wandb_settings(mode: str | None = None) -> Any:
    """Return wandb's settings, from its files and environment variables, together with ours.

    Ours make wandb quiet and limit its patience. A given ``mode`` overrides files and environment.
    """
    # Reports of wandb's own errors would wait for a missing network when the process ends.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    given: dict[str, Any] = {} if mode is None else {"mode": mode}
    return wandb.setup(wandb.Settings(silent=True, **PATIENCE, **given)).settings


def wandb_project() -> str:
    """The W&B project that runs are logged to."""
    return wandb_settings().project or PROJECT


def logged_in() -> bool:
    """Whether there is a key for W&B's server. The user is not asked for one, nor is it tested."""
    import wandb

    before = wandb_settings().mode
    try:
        wandb_settings("online")  # in offline mode, wandb would not look for a key
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        wandb_settings(before)


def reason(error: Exception) -> str:
    """The reason for an error, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
