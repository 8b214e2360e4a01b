"""Where a training runs: the code, the versions, the device."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from erc_bench.settings.methods import method_entry
from erc_bench.settings.presets import cpu_preset
from erc_bench.settings.registry import method_name

REPOSITORY = Path(__file__).parent.parent.parent
"""Where the code lies, if it was not installed from a package."""

CODE = ("erc_bench", "methods", "datamodules", "experiments")
"""Folders of the repository that a run depends on."""

PACKAGES = ("erc-bench", "torch", "lightning", "transformers", "torchmetrics", "datasets")


def environment(trainer: Trainer, runs_at_once: int) -> dict[str, Any]:
    """Code, versions and device of a training; its command does ``runs_at_once`` runs at a time."""
    return {
        "device": device_name(),
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
        "runs_at_once": runs_at_once,
        "precision": str(trainer.precision),
        "git_commit": COMMIT,
        "python": platform.python_version(),
        # Some builds of PyTorch tell their full version (+cu130) only when they are imported.
        "versions": {name: version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
    }


def joined(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the environments of a training's parts into one.

    A value that changed is given as ``a → b``, with all its values in order.
    """
    together: dict[str, Any] = {}
    for name, value in environments[-1].items():
        values = [each.get(name, "unknown") for each in environments]
        if isinstance(value, Mapping):
            parts = [v if isinstance(v, Mapping) else dict.fromkeys(value, v) for v in values]
            together[name] = joined(parts)
        else:
            apart = [each for each, _ in groupby(values)]
            together[name] = value if len(apart) == 1 else " → ".join(map(str, apart))
    return together


def device_name() -> str:
    """The GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {processor().get('cpu_name') or platform.machine()}"


def why_no_gpu() -> str:
    """Why a training is on the CPU, as a part of a sentence."""
    if shutil.which("nvidia-smi"):
        return "PyTorch can't use the GPU: python -c 'import torch; torch.cuda.init()' says why"
    return "there is no GPU"


LARGE = 50_000_000
"""Number of parameters above which a training without a GPU takes hours."""


def is_large(module: torch.nn.Module) -> bool:
    """Whether a model is meant for a GPU."""
    return sum(p.numel() for p in module.parameters()) > LARGE


def small_hint(method: torch.nn.Module | None = None) -> str:
    """The end of a note on a long training without a GPU, with the preset for the CPU if any.

    Args:
        method: the method that is trained; None if the training serves all methods alike.
    """
    name = method_name(type(method))
    preset = cpu_preset() if method is None else method_entry(name).on_cpu if name else ""
    return f" ({why_no_gpu()}{f'; --preset {preset} is made for the CPU' if preset else ''})"


def processor() -> Mapping[str, Any]:
    """What PyTorch knows about the processor; empty if it knows nothing."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def git_commit(root: Path = REPOSITORY) -> str | None:
    """The commit of this code, with ``-dirty`` if the code was changed; None outside git."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None

    def ask(*command: str) -> str:
        return subprocess.run(
            [git, "-C", str(root), *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--", *CODE)
        return ask("rev-parse", "--verify", "HEAD") + "-dirty" * bool(changed)
    except subprocess.CalledProcessError:
        return None


COMMIT = git_commit()
"""The commit of the code that is imported now. Hours later another may be checked out."""
