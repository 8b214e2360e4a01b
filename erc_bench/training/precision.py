"""The precision of a training's matrix products.

``auto`` chooses what suits the hardware. On a CPU it measures that, because a processor with
instructions for bfloat16 can still be slower in bfloat16 than in float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from erc_bench.files import cache_folder, temporary_name
from erc_bench.training.environment import device_name, processor

LIGHTNING = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""Lightning's names for the precisions."""

CLEARLY_FASTER = 1.2
"""How many times as fast bfloat16 must be on a CPU to be chosen."""

SHAPE = (512, 384, 1536)
"""Rows, inputs and outputs of the linear layer that is timed: a layer of a small encoder."""

REPEATS = 5

TOLD = "ERC_BENCH_BFLOAT16_SPEEDUP"
"""Environment variable with the speedup that a grid measured for its processes."""

Times = dict[str, float]
"""Seconds of a linear layer, forward and backward, in ``float32`` and in ``bfloat16``."""


@dataclass(frozen=True)
class Precision:
    """The precision of a training, and the reason for it."""

    chosen: str
    """``float32``, ``bfloat16`` or ``float16``."""
    why: str
    """The reason, as the end of a sentence."""
    bfloat16_speedup: float | None = None
    """How many times as fast as float32 bfloat16 was; None if that was not measured."""

    @property
    def lightning(self) -> str:
        """Lightning's name for it."""
        return LIGHTNING[self.chosen]

    def sentence(self) -> str:
        """The choice and its reason, for the first lines of a run."""
        return f"Precision: {self.chosen}, {self.why}."

    def measured(self) -> dict[str, float]:
        """The measurement, for the environment in a record; empty if nothing was measured."""
        if self.bfloat16_speedup is None:
            return {}
        return {"bfloat16_speedup": round(self.bfloat16_speedup, 2)}


def choose_precision(wanted: str) -> Precision:
    """Return the precision for a setting: the named one, or for ``auto`` what suits the hardware.

    A GPU uses bfloat16 if it supports it, else float16. A CPU uses bfloat16 if it was measured to
    be at least :data:`CLEARLY_FASTER` times as fast as float32. The measurement is cached for the
    processor, so that all runs on a machine agree.
    """
    if wanted != "auto":
        if wanted not in LIGHTNING:
            raise ValueError(f"no precision {wanted!r}: {', '.join(LIGHTNING)} or auto")
        return Precision(wanted, "as the settings say")
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "which this GPU computes natively")
        return Precision("float16", "as this GPU has no bfloat16")
    speedup = bfloat16_speedup()
    if speedup >= CLEARLY_FASTER:
        why = f"which was measured to be {speedup:.2f} times as fast as float32 on {device_name()}"
        return Precision("bfloat16", why, speedup)
    why = f"as bfloat16 was measured to be {speedup:.2f} times as fast on {device_name()}"
    return Precision("float32", why, speedup)


def trainer_precision(wanted: str) -> str:
    """Lightning's name for the precision that :func:`choose_precision` chooses."""
    return choose_precision(wanted).lightning


@cache
def bfloat16_speedup() -> float:
    """How many times as fast as float32 bfloat16 is on this processor.

    It is measured once for each processor and PyTorch, and read from the cache from then on.
    """
    told = os.environ.get(TOLD)
    return float(told) if told else _remembered(_cache_file(), measure)


@contextlib.contextmanager
def measured_for_all(precisions: Iterable[str]) -> Iterator[None]:
    """Measure the speedup once for all processes that are started inside.

    So all runs of a grid agree, even if the cache can't be written. Nothing is done if no precision
    is ``auto``, or if there is a GPU.
    """
    if "auto" not in precisions or torch.cuda.is_available() or TOLD in os.environ:
        yield
        return
    os.environ[TOLD] = repr(bfloat16_speedup())
    try:
        yield
    finally:
        del os.environ[TOLD]


def measure() -> Times:
    """Measure the processor time of a linear layer, forward and backward, in one thread.

    As in training, the weights are in float32, and autocast converts them every time. The shortest
    of :data:`REPEATS` times counts. The repetitions end early if bfloat16 is hopeless: a processor
    without instructions for it needs twenty times as long.
    """
    threads = torch.get_num_threads()
    rows, inputs, outputs = SHAPE
    # A generator of its own, so that a training draws the same random numbers as without this.
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, inputs, generator=generator).requires_grad_()
    weight = torch.randn(outputs, inputs, generator=generator).requires_grad_()
    gradient = torch.ones(rows, outputs)

    def seconds(low: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            made = torch.nn.functional.linear(states, weight)
        torch.autograd.grad(made, (states, weight), gradient.to(made.dtype))
        return time.process_time() - start

    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            times = {"float32": float("inf"), "bfloat16": float("inf")}
            seconds(False), seconds(True)  # warm-up: some work is done only once
            for _ in range(REPEATS):
                times["float32"] = min(times["float32"], seconds(False))
                times["bfloat16"] = min(times["bfloat16"], seconds(True))
                if times["bfloat16"] > 5 * times["float32"]:
                    break
    finally:
        torch.set_num_threads(threads)
    return times


def _remembered(path: Path, measure: Callable[[], Times]) -> float:
    """The ratio of the times in a file. Without the file, measure the times and write them to it.

    If several processes measure at once, all use the times of the one that was first. If the file
    can't be read, the times are measured again. If it can't be written, every process measures.
    """
    if (found := _read(path)) is not None:
        return found
    with contextlib.suppress(OSError):
        path.unlink()  # it is damaged
    times = measure()
    part = temporary_name(path, ".part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(json.dumps(times))
            try:
                os.link(part, path)  # unless another process was faster
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    found = _read(path)
    return times["float32"] / times["bfloat16"] if found is None else found


def _read(path: Path) -> float | None:
    try:
        times = json.loads(path.read_text())
        ratio = float(times["float32"]) / float(times["bfloat16"])
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError):
        return None
    return ratio if 0 < ratio < float("inf") else None


def _cache_file() -> Path:
    key = hashlib.sha256(json.dumps(_dependencies(), sort_keys=True, default=str).encode())
    return cache_folder() / "precision" / f"{key.hexdigest()[:32]}.json"


def _dependencies() -> list[Any]:
    """All that the measured times depend on."""
    libraries = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_", "OPENBLAS_", "TORCH_")
    return [
        _processor(),
        torch.__version__,
        torch.__config__.show(),  # versions of oneDNN and MKL, and the instructions used
        {k: v for k, v in os.environ.items() if k.startswith(libraries)},
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    ]


def _processor() -> Any:
    """What the system and PyTorch say about the processor."""
    said = {}
    lasting = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        for line in first.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in lasting or name.strip().startswith("CPU "):
                said[name.strip()] = value.strip()
    return [said, platform.processor(), platform.machine(), dict(processor())]
