"""What is known about each method without importing it."""

from __future__ import annotations

from dataclasses import dataclass

from erc_bench.settings.experiment import method_sheet
from erc_bench.settings.presets import presets
from erc_bench.settings.registry import method_names


@dataclass(frozen=True)
class MethodEntry:
    """A method as its YAML file describes it. A field that the file lacks is empty."""

    name: str
    title: str
    paper: str
    family: str
    """The kind of model, such as ``recurrent``."""
    context: str
    """``past`` or ``full``, with its default settings."""
    trains: str
    """The parts that are learnt."""
    gpu_memory_gib: dict[str, float]
    """The estimated GPU memory of a run in GiB, by preset."""
    on_cpu: str
    """The preset with which it can be trained without a GPU; "" if there is none."""

    @property
    def memory(self) -> str:
        """``24 / 16 / 4``: GiB by preset, without the presets that only try something out."""
        ranked = (n for n in self.gpu_memory_gib if not (n in presets() and presets()[n].tryout))
        return " / ".join(f"{self.gpu_memory_gib[name]:g}" for name in ranked)

    @property
    def needs_gpu(self) -> str:
        """Whether it needs a GPU, and the preset for a machine that has none."""
        return f"no, with preset {self.on_cpu}" if self.on_cpu else "yes"


def method_entry(name: str) -> MethodEntry:
    """Return what is known about one method.

    Raises:
        ErcBenchError: there is no such method, or its YAML file is invalid.
    """
    sheet = method_sheet(name)
    own = sheet.get("presets") or {}
    known = [preset for preset in presets() if preset in own]
    memory = {n: presets()[n].gpu_memory_gib for n in known} | (sheet.get("gpu_memory_gib") or {})
    texts = {key: sheet.get(key) or "" for key in ("title", "paper", "family", "context", "trains")}
    for_cpu = (n for n in known if presets()[n].on_cpu and not presets()[n].tryout)
    on_cpu = "" if sheet.get("needs_gpu") else next(for_cpu, "")
    return MethodEntry(name, **texts, gpu_memory_gib=memory, on_cpu=on_cpu)


def method_entries() -> list[MethodEntry]:
    """All registered methods, by name."""
    return [method_entry(name) for name in method_names()]
