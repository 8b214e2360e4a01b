"""Measure speed, memory and device utilisation of every method, without the recipe.

    python -m benchmarks.utilisation --preset small base paper --random paper=roberta-large

It trains on a sample of an epoch's batches, chosen as in `python -m benchmarks`, in bfloat16 unless
the method only trains in float32. The operations of a step are counted with PyTorch's counter on
batches that are not timed. It counts matrix products and attention, forward and backward, including
padding, but not the recurrent layers of cuDNN, which it does not know. Utilisation is the rate of
these operations as a share of the highest rate of the device without sparsity. The peak memory is
that of the epoch's longest batches. With --random a preset has an encoder with random weights and
the tokenizer of preset small: it is as fast and as large as the real one, but learns nothing.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoTokenizer

from erc_bench.corpus.conversation import Corpus
from erc_bench.encoders.fast.backends import set_up_backends
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError, explain
from erc_bench.files import write_atomically
from erc_bench.progress import say
from erc_bench.settings.experiment import resolve
from erc_bench.settings.presets import cpu_preset
from erc_bench.settings.registry import method_class

from .command import (
    CONTROL,
    add_settings,
    encoder_of,
    language_models,
    load,
    ordered,
    parser_of,
    positive,
    quiet,
    run,
)
from .memory import ENCODERS
from .sampling import PER_ROUND
from .side_by_side import Case, compare, in_float32_alone, peak_memory

TINY = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
"""Sizes of an encoder that is only for trying something out."""

SHAPES = {**ENCODERS, "tiny": TINY}
"""Sizes by the name that --random takes."""


@dataclass(frozen=True)
class Row:
    """The figures of a method with a preset; a figure is None if it could not be measured."""

    method: str
    preset: str
    encoder: str
    precision: str
    utterances_per_second: float | None = None
    """That are trained on, without the evaluation. With a curriculum these are not all of train."""
    epoch_seconds: float | None = None
    """Seconds of an epoch: training, evaluation on dev, and passes over train."""
    step_milliseconds: float | None = None
    peak_mib: float | None = None
    tera_flops: float | None = None
    """10¹² floating-point operations a second, in training."""
    utilisation: float | None = None
    """The share of the device's highest rate, in percent."""
    failure: str = ""
    """Why there are no figures."""


class Operations(Callback):
    """Counts the floating-point operations of the first ``PER_ROUND`` batches, which warm up, and
    the utterances that the other ones train on."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.utterances: list[int] = []
        self.counter: FlopCounterMode | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
        if i < PER_ROUND:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, i: int) -> None:
        self._end()
        if i >= PER_ROUND:
            self.utterances.append(len(batch["labels"]))

    def on_exception(self, *_: Any) -> None:
        self._end()

    def _end(self) -> None:
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.counts.append(self.counter.get_total_flops())
            self.counter = None


def random_encoder(shape: str, folder: Path) -> str:
    """Save an encoder with random weights, and return its folder.

    Args:
        shape: one of :data:`SHAPES`.
        folder: the folder in which the encoder's own folder is made.

    Raises:
        ErcBenchError: there is no such shape, or the encoder that gives the tokenizer is missing.
    """
    if shape not in SHAPES:
        raise ErcBenchError(f"--random {shape}: the known shapes are {', '.join(SHAPES)}.")
    named: Any = resolve(CONTROL, "demo", preset=cpu_preset()).config
    tokenizer = AutoTokenizer.from_pretrained(find_encoder(named.encoder).folder)
    sizes = dict(SHAPES[shape])
    sizes["vocab_size"] = max(len(tokenizer), sizes.get("vocab_size", 0))
    kind = sizes.pop("model_type")
    torch.manual_seed(1)
    model = AutoModel.from_config(
        AutoConfig.for_model(kind, pad_token_id=tokenizer.pad_token_id, **sizes)
    )
    place = folder / shape
    with quiet():
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return str(place)


def why_not(method: str, random: bool) -> str:
    """Why a method can't be measured; empty if it can."""
    if not method_class(method).trains:
        return "it trains nothing"
    if random and method in language_models():
        return "its encoder is a language model, and --random makes none of these"
    return ""


def measure(case: Case, corpus: Corpus, rounds: int, most: float | None) -> dict[str, Any]:
    """Measure the figures of a :class:`Row`.

    Args:
        case: what is measured.
        corpus: the corpus to train on.
        rounds: the number of rounds of ``PER_ROUND`` batches, after one that warms up.
        most: the most operations per second that the device can do; None if not known.
    """
    operations = Operations()
    epoch, _ = compare(case, corpus, rounds, [], operations)
    seconds = float(epoch.step("train")[0])
    rate = float(np.mean(operations.counts)) / seconds
    gc.collect()
    peak = peak_memory(case, corpus, "ours")
    return {
        "utterances_per_second": round(float(np.mean(operations.utterances)) / seconds, 1),
        "epoch_seconds": round(epoch.seconds(), 2),
        "step_milliseconds": round(1e3 * seconds, 2),
        "peak_mib": peak,
        "tera_flops": round(rate / 1e12, 3),
        "utilisation": round(100 * rate / most, 1) if most else None,
    }


def most_operations(precision: str, given: float | None) -> float | None:
    """The most operations per second that the GPU can do in a precision; None if not known."""
    if given is not None:
        return 1e12 * given if precision == "bfloat16" else None
    if not torch.cuda.is_available():
        return None
    with quiet():
        known = get_available_flops(torch.device("cuda"), getattr(torch, precision))
    return float(known) if known else None


def row(case: Case, corpus: Corpus, rounds: int, most: float | None, name: str) -> Row:
    """Measure a case; an error is written into the row, so that other cases go on."""
    head = (case.method, case.preset, name, case.precision)
    try:
        with quiet():
            return Row(*head, **measure(case, corpus, rounds, most))
    except torch.OutOfMemoryError:
        return Row(*head, failure="does not fit the GPU")
    except Exception as error:
        return Row(*head, failure=explain(error))
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def read_rows(file: Path) -> list[Row]:
    """Read the rows of a file that :func:`main` has written."""
    return [Row(**each) for each in json.loads(file.read_bytes())] if file.is_file() else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the methods and presets that have no figures in the file yet."""
    parser = parser_of("benchmarks.utilisation", __doc__)
    parser.add_argument(
        "--method", nargs="+", choices=ordered(), default=ordered(), help="(default: all)"
    )
    parser.add_argument("--preset", nargs="+", default=["small"], help="(default: small)")
    parser.add_argument("--dataset", choices=("meld", "demo"), default="meld")
    parser.add_argument(
        "--random",
        nargs="+",
        default=[],
        metavar="[PRESET=]SHAPE",
        help=f"random weights for the encoder of one preset or all: {', '.join(SHAPES)}",
    )
    parser.add_argument("--steps", type=positive, default=3, help="measured rounds (default: 3)")
    add_settings(parser)
    parser.add_argument(
        "--peak-tflops", type=float, help="of the GPU in bfloat16, if Lightning does not know it"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON of all rows; rows with figures are not measured again"
    )
    args = parser.parse_args(arguments)
    set_up_backends()
    corpus = load(args.dataset)
    rows = [each for each in read_rows(args.out) if not each.failure] if args.out else []
    done = {(each.method, each.preset) for each in rows}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made: dict[str, str] = {}
        for preset in args.preset:
            if shape := encoder_of(preset, args.random):
                made[shape] = made.get(shape) or random_encoder(shape, folder)
            for method in args.method:
                if (method, preset) in done:
                    continue
                if why := why_not(method, bool(shape)):
                    say(f"{method}, {preset}: left out, {why}.")
                    continue
                say(f"{method}, {preset} …")
                precision = "float32" if in_float32_alone(method) else "bfloat16"
                case = Case(
                    method, preset, corpus.name, precision, made.get(shape, ""), tuple(args.set)
                )
                most = most_operations(precision, args.peak_tflops)
                found = row(case, corpus, args.steps, most, f"{shape}, random" if shape else "")
                print(json.dumps(asdict(found)), flush=True)
                rows.append(found)
                if args.out:
                    plain = [asdict(each) for each in rows]
                    write_atomically(args.out, json.dumps(plain, indent=1) + "\n")
    if any(each.failure for each in rows):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
