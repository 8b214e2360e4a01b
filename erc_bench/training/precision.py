"""In which precision a training multiplies.

``auto`` is what the hardware does well. On a CPU that is measured: processors that have
instructions for bfloat16 can still be slower with it than in float32.
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
"""Rows, inputs and outputs of the linear layer that is timed: one of a small encoder's."""

REPEATS = 5

TOLD = "ERC_BENCH_BFLOAT16_SPEEDUP"
"""Environment variable by which a grid tells its processes what it measured."""

Times = dict[str, float]
"""Seconds of a product, forward and backward, in ``float32`` and ``bfloat16``."""


@dataclass(frozen=True)
class Precision:
    """The precision of a training and why it is this one."""

    chosen: str
    """``float32``, ``bfloat16`` or ``float16``."""
    why: str
    """The reason, as the end of a sentence."""
    bfloat16_speedup: float | None = None
    """How many times as fast as float32 bfloat16 was, where that was measured."""

    @property
    def lightning(self) -> str:
        """Lightning's name for it."""
        return LIGHTNING[self.chosen]

    def sentence(self) -> str:
        """The choice and its reason, for the first lines of a run."""
        return f"Precision: {self.chosen}, {self.why}."

    def measured(self) -> dict[str, float]:
        """What was measured, for the environment in a record; nothing where nothing was."""
        if self.bfloat16_speedup is None:
            return {}
        return {"bfloat16_speedup": round(self.bfloat16_speedup, 2)}


def choose_precision(wanted: str) -> Precision:
    """The precision for a setting: the one that is named, or for ``auto`` what suits the hardware.

    A GPU takes bfloat16 where it has it, else float16. A CPU takes bfloat16 where it was measured
    to be at least :data:`CLEARLY_FASTER` times as fast as float32; the figure is remembered for
    the processor, so that all runs on a machine agree.
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
    """How many times as fast as in float32 this processor multiplies in bfloat16.

    Measured once for a processor and a PyTorch, and read from the cache from then on.
    """
    told = os.environ.get(TOLD)
    return float(told) if told else _remembered(_cache_file(), measure)


@contextlib.contextmanager
def measured_for_all(precisions: Iterable[str]) -> Iterator[None]:
    """Measure before the processes that begin here, and tell them the figure: so that all runs of
    a grid agree, even where the cache can't be written. With nothing on ``auto``, or a GPU, do
    nothing."""
    if "auto" not in precisions or torch.cuda.is_available() or TOLD in os.environ:
        yield
        return
    os.environ[TOLD] = repr(bfloat16_speedup())
    try:
        yield
    finally:
        del os.environ[TOLD]


def measure() -> Times:
    """Seconds of processor time that a linear layer takes forward and backward, in one thread.

    As in training the weights are in float32, and autocast converts them every time. The best of
    a few, or of two where bfloat16 is hopeless: without instructions for it a processor needs
    twenty times as long.
    """
    threads = torch.get_num_threads()
    rows, inputs, outputs = SHAPE
    # The stream that a training draws from is not touched.
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
            seconds(False), seconds(True)  # what is done only once, such as making kernels
            for _ in range(REPEATS):
                times["float32"] = min(times["float32"], seconds(False))
                times["bfloat16"] = min(times["bfloat16"], seconds(True))
                if times["bfloat16"] > 5 * times["float32"]:
                    break
    finally:
        torch.set_num_threads(threads)
    return times


def _remembered(path: Path, measure: Callable[[], Times]) -> float:
    """The ratio of the times in a file, or of times measured now, which are put there.

    Of several processes that measure at once all take the figures of the one that was first. What
    can't be read is measured anew; where nothing can be written, every process measures.
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
    """What is said of the processor by the system and by PyTorch."""
    said = {}
    lasting = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        for line in first.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in lasting or name.strip().startswith("CPU "):
                said[name.strip()] = value.strip()
    return [said, platform.processor(), platform.machine(), dict(processor())]
