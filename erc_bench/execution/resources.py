"""The resources that a run needs, in the same terms for every executor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from erc_bench.corpus.text_files import decoded, parse_yaml
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.settings.experiment import Experiment
from erc_bench.settings.methods import method_entry
from erc_bench.settings.presets import memory_gib, presets


@dataclass(frozen=True)
class Devices:
    """The devices of a training. They are not a setting: any number gives the same training."""

    each: int = 1
    """Devices of each machine."""
    nodes: int = 1
    """Number of machines."""
    sharded: bool = False
    """Whether each device keeps only its part of the weights and of the optimiser's state."""

    @property
    def count(self) -> int:
        """Number of devices of all machines together."""
        return self.each * self.nodes


ONE_DEVICE = Devices()


@dataclass(frozen=True)
class Resources:
    """The resources of one run. None means a default for the run, or the engine's own default."""

    cpus: int | None = None
    """Cores, with one thread for each."""
    gpus: float | None = None
    """GPUs, or a part of one if the engine can share it."""
    memory_gib: float | None = None
    """Main memory."""
    minutes: float | None = None
    """Time limit. A run that is not finished by then is resumed in another job."""
    devices: int | None = None
    """GPUs of each node that one training is spread over; on a CPU, processes."""
    nodes: int | None = None
    """Machines that one training is spread over."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options of each engine, by the engine's own names: ``{"slurm": {"partition": "gpu"}}``."""

    def of(self, engine: str) -> dict[str, str]:
        """The options of one engine."""
        return dict(self.options.get(engine, {}))

    def for_run(self, experiment: Experiment, *, gpus: bool, shares: bool) -> Resources:
        """Return these resources with defaults for a run where no value was given.

        Args:
            experiment: the run.
            gpus: whether there are GPUs.
            shares: whether a run may have a part of a GPU. If so, a run with a preset for the CPU
                gets :data:`SMALL_SHARE` of one, else no GPU.
        """
        known = presets().get(experiment.preset)
        small = known is not None and known.on_cpu
        if known is not None and not known.tryout:  # a try-out needs no GPU with any method
            small = small and bool(method_entry(experiment.method).on_cpu)
        wanted = self.gpus
        if wanted is None and gpus:
            wanted = self.devices or (1 if not small else SMALL_SHARE if shares else 0)
        memory = self.memory_gib
        if memory is None:
            each = memory_gib(experiment.preset) if not wanted else HOST_MEMORY_GIB
            memory = each * (self.devices or 1)  # each device has a process
        cpus = self.cpus or (CORES_PER_RUN if wanted else 1) * (self.devices or 1)
        return replace(self, cpus=cpus, gpus=wanted or 0, memory_gib=memory)


CORES_PER_RUN = 2
"""Cores of a run on a GPU: one computes, the other makes batches."""

SMALL_SHARE = 0.25
"""The part of a GPU for a run with a preset for the CPU, if GPUs are shared."""

HOST_MEMORY_GIB = 12.0
"""Main memory of a run on a GPU: the process with its libraries, a checkpoint, the corpus."""

NUMBERS = tuple(f.name for f in fields(Resources) if f.name != "options")
WHOLE = ("cpus", "devices", "nodes")


def parse_resources(given: Sequence[str], engines: Sequence[str]) -> Resources:
    """Return the resources that the command line gives. Later ones win.

    Args:
        given: ``key=value``, ``engine.key=value``, or YAML files of the same.
        engines: names of the executors.

    Raises:
        ErcBenchError: there is no such resource, engine or file, or a value is not a number
            or is too small.
    """
    found = Resources()
    for text in given:
        key, equals, value = text.partition("=")
        if equals:
            found = _with(found, key.strip(), value, engines, f"--resources {text}")
        else:
            for name, entry in _sheet(Path(text)).items():
                found = _with(found, str(name), entry, engines, f"{text}: {name}")
    return found


def _sheet(path: Path) -> Mapping[str, Any]:
    try:
        text = decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ErcBenchError(
            f"--resources {path} is neither key=value nor a file that can be read "
            f"({error.strerror}). Give for example gpus=1 minutes=240, or the name of a YAML file."
        ) from error
    return parse_yaml(text, str(path))[0]


def _with(found: Resources, key: str, value: Any, engines: Sequence[str], where: str) -> Resources:
    engine, dot, option = key.partition(".")
    if key in NUMBERS:
        given: dict[str, Any] = {key: _number(key, value, where)}
        return replace(found, **given)
    if engine in engines and (dot or isinstance(value, dict)):
        entries = {option: value} if dot else value
        options = {str(name): _text(entry, where) for name, entry in entries.items()}
        if "" in options:
            raise ErcBenchError(f"{where}: the name of an option is missing after {engine!r}.")
        together = {**found.options, engine: {**found.of(engine), **options}}
        return replace(found, options=together)
    known = [*NUMBERS, *(f"{name}.…" for name in engines)]
    raise ErcBenchError(f"{where}: there is no resource {key!r}." + did_you_mean(key, known))


def _number(key: str, value: Any, where: str) -> float | int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    least = 0 if key == "gpus" else 1 if key in WHOLE else 0.01
    whole = key not in WHOLE or number.is_integer()
    if isinstance(value, bool) or not math.isfinite(number) or number < least or not whole:
        kind = "a whole number from 1 on" if key in WHOLE else "a number above 0"
        raise ErcBenchError(f"{where}: {key} takes {kind}{' or 0' * (key == 'gpus')}.")
    return int(number) if key in WHOLE else number


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return "\n".join(_text(each, where) for each in value)
    if isinstance(value, dict):
        raise ErcBenchError(f"{where}: an option has one value, or a list of lines.")
    return str(value)
