"""Compare a method with a logistic regression on the vectors of its trained encoder.

    python -m benchmarks.probe RUN [--leaderboard-dir DIR]

RUN is a finished run of ``eacl``, ``spcl`` or ``finetune``. The vectors that its method classifies
(the state of each window's mask) are standardised, and a logistic regression is trained on those of
train. The command prints its weighted-F1 on dev beside that of the method. If the regression scores
higher, the method loses something when it classifies the vectors; otherwise the vectors lack it.

A classifier with a bias knows the frequencies of the classes; a nearest anchor or prototype does
not. To show what this knowledge is worth, a share of the log of train's class frequencies is added
to the method's own scores. All penalties and all shares that were tried are printed, and none is
chosen. The test set is not used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import weighted_f1
from erc_bench.inference.model import Model
from erc_bench.method.data import ErcDataModule
from erc_bench.method.reader import Batch
from erc_bench.methods.prompts import is_lookback, prompt_states
from erc_bench.records.store import find_record, read_record
from erc_bench.settings.registry import corpus_source

from .command import parser_of, run

READERS = ("eacl", "finetune", "spcl")
"""Methods that read the state of a window's mask."""

STRENGTHS = (0.001, 0.01, 0.1)
"""C of the regression, the inverse of its L2 penalty."""

SHARES = (0.25, 0.5, 1.0)
"""Factors of the log frequencies of the classes when they are added to a method's scores."""


@torch.inference_mode()
def computed(
    data: ErcDataModule, split: str, function: Callable[[Batch], Tensor]
) -> tuple[Tensor, Tensor]:
    """``function(batch)`` ``(N, …)`` for all turns of a split, and their gold labels ``(N,)``."""
    columns = data.columns[split]
    # Without SPCL's augmentation, which sees later turns.
    own = np.flatnonzero(~is_lookback(columns)) if "turn" in columns else None
    values, gold = [], []
    for batch in data.evaluation_loader(split, own):
        values.append(function(batch))
        gold.append(batch["labels"])
    return torch.cat(values), torch.cat(gold)


def main() -> None:
    """Print a line for the method and one for each share and each regression."""
    parser = parser_of("benchmarks.probe", __doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--leaderboard-dir", type=Path, default=Path("leaderboard"))
    args = parser.parse_args()
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        sys.exit("The probe needs scikit-learn, from the extra dev: pip install -e '.[dev]'.")
    path = find_record(args.leaderboard_dir, args.run)
    record = read_record(path)
    if record.method not in READERS:
        raise ErcBenchError(
            f"{args.run} is a run of {record.method}, which reads no state of a mask; the probe "
            f"works with {', '.join(READERS)}."
        )
    model = Model(path, record)
    method: Any = model.method.eval()
    corpus = corpus_source(model.dataset).load(None)
    data = ErcDataModule(corpus, method)
    classes, encoder = len(corpus.labels), getattr(method, "network", method).encoder
    scores, gold = computed(data, "dev", lambda batch: method.scores(method(batch), batch))
    print(f"{args.run}: weighted-F1 on dev {weighted_f1(scores.argmax(dim=1), gold, classes):.2f}")
    states, labels = computed(data, "train", partial(prompt_states, encoder))
    frequencies = labels.bincount(minlength=classes) / len(labels)
    for share in SHARES:
        score = weighted_f1((scores + share * frequencies.log()).argmax(dim=1), gold, classes)
        print(f"  + {share:g} × the log frequencies of train's classes: {score:.2f}")
    scaler = StandardScaler().fit(states)
    train = scaler.transform(states)
    dev = scaler.transform(computed(data, "dev", partial(prompt_states, encoder))[0])
    for strength in STRENGTHS:
        probe = LogisticRegression(C=strength, max_iter=1000)
        probe.fit(train, labels)
        score = weighted_f1(torch.from_numpy(probe.predict(dev)), gold, classes)
        print(f"  logistic regression, C = {strength:g}: {score:.2f}", flush=True)


if __name__ == "__main__":
    run(main)
