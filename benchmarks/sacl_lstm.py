"""How fast SACL-LSTM trains against the same training written plainly.

    python -m benchmarks.sacl_lstm

Made-up dialogues in MELD's shape: 1,038 of them with 9,989 utterances, 1024-d vectors, batches of
16, contextual adversarial training in every step. Ours is a real epoch under the Trainer. The plain
counterpart loops over dialogues and speakers, one LSTM call each, and its contrastive loss is over
a matrix of positive pairs × negative pairs. That both compute the same is checked before anything
is timed: losses and gradients of both passes on the plain one's own first batches.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from erc_bench.config import Experiment
from erc_bench.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.datamodule import ErcDataModule
from erc_bench.methods.features import FeatureConfig
from erc_bench.methods.sacl_lstm import SACLLSTM, DualLSTM, SACLConfig, adversarial_backward
from erc_bench.progress import console, track
from erc_bench.ragged import take
from erc_bench.runner import build_trainer, fit, quiet_frameworks
from erc_bench.training_log import TrainingLog

DIALOGUES, UTTERANCES, SIZE = 1038, 9989, 1024
LABELS = LabelSet(("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))
SHARES = (0.111, 0.027, 0.027, 0.174, 0.472, 0.068, 0.121)
"""Of the labels in MELD's train split."""


def made_up_corpus() -> Corpus:
    """Dialogues of 1 to 18 turns by 1 to 5 speakers; dev is a single one."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 19, DIALOGUES)
    while (missing := UTTERANCES - lengths.sum()) != 0:
        chosen = rng.permutation(DIALOGUES)[: abs(missing)]
        lengths[chosen] = np.clip(lengths[chosen] + np.sign(missing), 1, 24)
    splits = {"train": lengths.tolist(), "dev": [8]}
    corpus: dict[str, list[Dialogue]] = {split: [] for split in splits}
    for split, of_split in splits.items():
        for d, length in enumerate(of_split):
            speakers = rng.integers(0, rng.integers(1, 6), length)
            labels = rng.choice(len(LABELS), length, p=np.array(SHARES) / sum(SHARES))
            turns = zip(speakers.tolist(), labels.tolist(), strict=True)
            corpus[split].append(
                Dialogue(
                    f"{split}-{d}",
                    tuple(
                        Utterance(f"{split}-{d}-{i}", f"S{who}", "Oh.", label)
                        for i, (who, label) in enumerate(turns)
                    ),
                )
            )
    return Corpus.build("made-up", LABELS, corpus)


# --- the plain counterpart ---


class PlainDialogue:
    """One dialogue as plain tensors: vectors ``(T, d)``, labels ``(T,)`` and who speaks."""

    def __init__(self, dialogue: Dialogue, vectors: Tensor) -> None:
        self.vectors = vectors
        self.speakers = [u.speaker for u in dialogue.utterances]
        self.labels = torch.tensor([u.label for u in dialogue.utterances])


def plain_forward(network: DualLSTM, dialogues: list[PlainDialogue]) -> Tensor:
    """``u`` of all turns ``(N, 4h)``, a dialogue and a speaker at a time."""
    hidden = []
    for dialogue in dialogues:
        situation = network.situation(dialogue.vectors[:, None])[0][:, 0]
        speaker = torch.zeros_like(situation)
        for name in sorted(set(dialogue.speakers)):
            turns = [i for i, who in enumerate(dialogue.speakers) if who == name]
            if len(turns) > 1:
                speaker[turns] = network.speaker(dialogue.vectors[turns][:, None])[0][:, 0]
        hidden.append(torch.cat([situation, speaker], dim=1))
    return torch.cat(hidden)


def plain_nt_xent(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NT-Xent over a matrix of positive pairs × negative pairs."""
    unit = F.normalize(x, dim=1)
    scores = unit @ unit.T / temperature
    same = labels[:, None] == labels
    own = torch.eye(len(labels), dtype=torch.bool)
    first, second = torch.where(same & ~own)
    anchor, other = torch.where(~same)
    if not len(first) or not len(anchor):
        return scores.sum() * 0
    positive = scores[first, second][:, None]
    negative = torch.where(first[:, None] == anchor, scores[anchor, other], -torch.inf)
    highest = torch.maximum(positive, negative.max(dim=1, keepdim=True).values).detach()
    numerator = torch.exp(positive - highest).squeeze(1)
    denominator = torch.exp(negative - highest).sum(dim=1) + numerator
    return -torch.log(numerator / denominator).mean()


def plain_loss(
    network: DualLSTM, dialogues: list[PlainDialogue], config: SACLConfig, weight: float
) -> Tensor:
    """Focal loss, an utterance at a time, and the contrastive loss on the log-probabilities."""
    labels = torch.cat([dialogue.labels for dialogue in dialogues])
    log_probs = F.log_softmax(network.head(plain_forward(network, dialogues)), dim=1)
    focal = torch.zeros(())
    for row, label in zip(log_probs, labels.tolist(), strict=True):
        focal = focal - (1 - row[label].detach().exp()) ** config.gamma * row[label]
    contrast = plain_nt_xent(log_probs, labels, config.temperature)
    return focal + weight * len(labels) * contrast


def plain_gradients(
    network: DualLSTM, dialogues: list[PlainDialogue], config: SACLConfig
) -> tuple[float, float]:
    """Gradients of both passes, with both LSTMs attacked; their losses."""
    clean = plain_loss(network, dialogues, config, config.contrastive_weight)
    clean.backward()
    backup = {}
    for name, parameter in network.named_parameters():
        if ("weight_ih_l0" in name or "bias_ih_l0" in name) and parameter.grad is not None:
            backup[name] = (parameter.data.clone(), parameter.grad.clone())
            norm = parameter.grad.norm()
            if norm != 0:
                parameter.data.add_(config.epsilon * parameter.grad / norm)
    adversarial = plain_loss(network, dialogues, config, config.adversarial_contrastive_weight)
    adversarial.backward()
    for name, parameter in network.named_parameters():
        if name in backup:
            parameter.data, parameter.grad = backup[name]
    return clean.item(), adversarial.item()


# --- the comparison ---


def check(
    method: SACLLSTM, datamodule: ErcDataModule, numbers: np.ndarray, plain: list[PlainDialogue]
) -> None:
    """Raise an AssertionError unless both give the same losses and gradients on a batch."""
    network, config = copy.deepcopy(method.network), method.config
    theirs = plain_gradients(network, plain, config)
    examples = datamodule.examples["train"]
    batch = datamodule.batch({name: take(column, numbers) for name, column in examples.items()})
    utterances = len(batch["labels"])
    clean = method.loss(batch)["loss"] * utterances
    ours = [clean.item()]

    def adversarial() -> Tensor:
        loss = method.loss(batch, adversarial=True)["loss"] * utterances
        ours.append(loss.item())
        return loss

    attacked = method.attacked()
    others = [p for p in method.network.parameters() if all(p is not a for a in attacked)]
    adversarial_backward(clean, adversarial, attacked, others, config.epsilon)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    pairs = zip(network.named_parameters(), method.network.parameters(), strict=True)
    for (name, plain_one), our_one in pairs:
        assert plain_one.grad is not None
        assert our_one.grad is not None
        error = (plain_one.grad - our_one.grad).norm() / plain_one.grad.norm()
        assert error < 1e-3, f"{name}: the gradients differ by {error:.1e}"
    method.zero_grad(set_to_none=True)


def now() -> np.ndarray:
    """Seconds on the clock, and of this process on the processors: a busy machine slows only the
    first."""
    return np.array([time.perf_counter(), time.process_time()])


class Clock(Callback):
    """Both kinds of seconds of every training epoch."""

    def __init__(self) -> None:
        self.seconds: list[np.ndarray] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.start = now()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(now() - self.start)


def our_epoch(method: SACLLSTM, datamodule: ErcDataModule, folder: Path) -> np.ndarray:
    """Seconds ``(2,)`` of a training epoch under the Trainer; the first is not counted."""
    clock = Clock()
    log = TrainingLog(Experiment("sacl-lstm", "made-up", "", 1, method.config))
    with quiet_frameworks():
        fit(build_trainer(method, folder, [log, clock]), method, datamodule, None)
    return np.median(clock.seconds[1:], axis=0)


def plain_steps(
    network: DualLSTM, batches: list[list[PlainDialogue]], config: SACLConfig
) -> Iterator[np.ndarray]:
    """Seconds ``(2,)`` of every training step of the plain counterpart."""
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    for number, batch in enumerate(track(batches, "The plain counterpart")):
        start = now()
        plain_gradients(network, batch, config)
        if (number + 1) % config.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        yield now() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="steps of the plain counterpart")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of ours; the first warms up")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        torch.manual_seed(0)
        given = FeatureConfig(path="made up here", size=SIZE)
        config = SACLConfig(
            encoder="", features=given, epochs=args.epochs, patience=0, at_rate=1.0, dropout=0.0
        )
        corpus = made_up_corpus()
        method = SACLLSTM(config, corpus.labels)
        datamodule = ErcDataModule(corpus, method)
        method.features = torch.randn(len(datamodule.ids), SIZE)
        method.present = np.ones(len(datamodule.ids), dtype=bool)
        method.prepared = corpus.digest

        firsts = datamodule.first_rows["train"]
        plain = [
            PlainDialogue(dialogue, method.features[first : first + len(dialogue)])
            for first, dialogue in zip(firsts.tolist(), corpus.dialogues("train"), strict=True)
        ]
        order = np.random.default_rng(1).permutation(DIALOGUES)
        numbers = np.split(order, range(config.batch_size, DIALOGUES, config.batch_size))
        batches = [[plain[i] for i in batch] for batch in numbers]
        for batch_numbers, batch in zip(numbers[:2], batches, strict=False):
            check(method, datamodule, batch_numbers, batch)
        console.print("Losses and gradients of both are the same.")

        # The first step pays for what torch sets up once.
        chosen = [batches[i % len(batches)] for i in range(args.steps + 1)]
        steps = list(plain_steps(copy.deepcopy(method.network), chosen, config))[1:]
        plainly = len(batches) * np.mean(steps, axis=0)
        epoch = our_epoch(method, datamodule, Path(folder) / "run")
        print(
            f"An epoch of {len(batches)} batches with {torch.get_num_threads()} threads, ours and "
            f"written plainly ({args.steps} steps measured):"
        )
        for kind, our, their in zip(("on the clock", "of processor"), epoch, plainly, strict=True):
            print(
                f"  seconds {kind}: {our:.2f} and {their:.0f} ({our / len(batches):.3f} and "
                f"{their / len(batches):.2f} a step), {their / our:.0f} times as fast"
            )


if __name__ == "__main__":
    main()
