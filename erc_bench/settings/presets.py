"""The presets, from ``presets.yaml`` beside the methods' settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Preset:
    """A preset that all methods may have."""

    name: str
    description: str
    gpu_memory_gib: float
    """The estimated GPU memory of a run in GiB."""
    memory_gib: float
    """The estimated main memory of a run without a GPU, in GiB."""
    on_cpu: bool = False
    """Whether it is made for a machine without a GPU."""
    tryout: bool = False
    """Whether it only shows that something runs. Its scores are never ranked."""


@cache
def presets() -> dict[str, Preset]:
    """All presets by name. The first one is the default."""
    import yaml

    path = resources.files("erc_bench.experiments") / "presets.yaml"
    sheet = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Preset(name=name, **entry) for name, entry in sheet.items()}


def default_preset() -> str:
    """The name of the default preset."""
    return next(iter(presets()))


def is_tryout(preset: str) -> bool:
    """Whether scores with this preset mean nothing."""
    known = presets().get(preset)
    return known is not None and known.tryout


def gpu_memory_gib(preset: str) -> float:
    """The estimated GPU memory of a run in GiB. A method's own preset counts as the largest."""
    known = presets().get(preset)
    return known.gpu_memory_gib if known else max(p.gpu_memory_gib for p in presets().values())


def memory_gib(preset: str) -> float:
    """The estimated main memory of a run without a GPU in GiB, like :func:`gpu_memory_gib`."""
    known = presets().get(preset)
    return known.memory_gib if known else max(p.memory_gib for p in presets().values())


def cpu_preset() -> str:
    """The preset that is made for a machine without a GPU."""
    return next(p.name for p in presets().values() if p.on_cpu and not p.tryout)
