"""Made-up records of runs whose true quality is known.

The difficulty of an utterance comes from itself and from its dialogue, and is the same for all
methods. A method is right on an utterance if its ``ability``, the luck of its seed and noise
outweigh the difficulty. So methods of equal ability are truly equal, and a method of higher ability
is truly better. The runs of a method vary as real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from erc_bench.evaluation.slices import class_scores, confusions
from erc_bench.evaluation.statistics import score
from erc_bench.records.schema import SCHEMA

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
PRIOR = (0.13, 0.03, 0.02, 0.15, 0.48, 0.08, 0.11)
LARGE = "princeton-nlp/sup-simcse-roberta-large"
SMALL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Method:
    """A made-up method: its runs differ by seed, its quality is ``ability`` (0 ≈ 62 % right)."""

    name: str
    ability: float = 0.0
    seeds: Sequence[int] = (1, 2, 3)
    encoder: str = LARGE
    preset: str = "paper"
    context: str = "past"
    seed_sd: float = 0.02
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the record to replace or add."""

    @property
    def config_hash(self) -> str:
        return f"{stable(self.name, self.encoder, self.preset, *self.changes):012x}"[:12]


def stable(*parts: object) -> int:
    """A number that depends only on ``parts``."""
    return int.from_bytes(np.random.SeedSequence([*map(ord, repr(parts))]).generate_state(2), "big")


def utterances(dataset: str, split: str, dialogues: int) -> dict[str, Any]:
    """Gold labels, dialogue numbers, facts and difficulty of a made-up split."""
    rng = np.random.default_rng(stable(dataset, split, dialogues))
    length = 2 + rng.geometric(1 / 7.3, dialogues)
    dialogue = np.repeat(np.arange(dialogues), length)
    n = len(dialogue)
    mood = rng.choice(7, p=PRIOR, size=dialogues)[dialogue]
    gold = np.where(rng.random(n) < 0.4, mood, rng.choice(7, p=PRIOR, size=n))
    position = np.arange(n) - np.repeat(np.cumsum(length) - length, length)
    previous = np.where(position >= 2, np.roll(gold, 2), -1)
    return {
        "ids": [f"{split}-d{d}-u{u}" for d, u in zip(dialogue, position, strict=True)],
        "gold": gold,
        "dialogue": dialogue,
        "facts": {
            "position": position,
            "words": 1 + rng.poisson(7, n),
            "speaker_train": rng.choice([0, 4, 40, 1500], n),
            "previous_label": previous,
            "seen_in_train": (rng.random(n) < 0.13).astype(int),
        },
        "difficulty": 0.5 * rng.normal(size=dialogues)[dialogue] + rng.normal(size=n),
        "confused": (gold + 1 + rng.integers(6, size=n)) % 7,
    }


def record(method: Method, dataset: str, seed: int, dialogues: int = 280) -> dict[str, Any]:
    """The record of one run; its metrics are computed from its predictions."""
    rng = np.random.default_rng(stable(method.name, method.encoder, method.preset, dataset, seed))
    luck = method.seed_sd * rng.normal()
    metrics, predictions = {}, {}
    for split, size in (("dev", max(8, dialogues // 3)), ("test", dialogues)):
        data = utterances(dataset, split, size)
        gold, n = data["gold"], len(data["gold"])
        margin = 0.4 + method.ability + luck - 0.7 * data["difficulty"] + 0.7 * rng.normal(size=n)
        predicted = np.where(margin > 0, gold, data["confused"])
        confidence = np.round(0.4 + 0.5 * rng.random(n), 4)
        probabilities = np.repeat(((1 - confidence) / 6)[:, None], 7, axis=1)
        probabilities[np.arange(n), predicted] = confidence
        metrics[split] = figures(gold, predicted, confidence)
        predictions[split] = {
            "ids": data["ids"],
            "gold": gold.tolist(),
            "predicted": predicted.tolist(),
            "probabilities": np.round(probabilities, 4).tolist(),
            "dialogue": data["dialogue"].tolist(),
            "facts": {name: values.tolist() for name, values in data["facts"].items()},
        }
    return {
        "schema": SCHEMA,
        "method": method.name,
        "dataset": dataset,
        "dataset_digest": f"{stable(dataset, dialogues):064x}",
        "labels": list(EMOTIONS),
        "preset": method.preset,
        "overrides": [],
        "seed": seed,
        "config": {"encoder": method.encoder, "epochs": 8},
        "config_hash": method.config_hash,
        "context": method.context,
        "selection": "dev weighted_f1",
        "encoder": {"name": method.encoder, "digest": f"{stable(method.encoder):064x}"},
        "metrics": metrics,
        "training": {
            "epochs": 8,
            "best_epoch": 1 + seed % 8,
            "fit_seconds": round(1800 + 60 * seed + 300 * method.ability, 1),
            "utterances_per_second": round(44.0 + seed / 10, 1),
            "curves": [],
            "parameters": 355_000_000,
            "peak_memory_mib": 9000.5 + seed,
        },
        "environment": {
            "device": "CPU made up",
            "threads": 2,
            "precision": "32-true",
            "python": "3.11.0",
            "versions": {"erc-bench": "0.1.0"},
            "git_commit": None,
        },
        "created": f"2025-01-01T00:00:{seed % 60:02}+00:00",
        "predictions": predictions,
        **method.changes,
    }


def figures(gold: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """The metrics that the evaluation would report."""
    m = confusions(gold, predicted[None], len(EMOTIONS))[0]
    each = class_scores(gold, predicted[None], EMOTIONS)
    calibration = np.bincount((confidence * 15).astype(int), (predicted == gold) - confidence)
    occurring = (m.sum(0)[:-1] + m.sum(1)) > 0
    return {
        "weighted_f1": float(score(m)),
        "accuracy": float(100 * np.trace(m) / m.sum()),
        "macro_f1": float(np.mean([c.f1 for c in each], where=occurring)),
        "per_class": {
            c.name: {
                "precision": c.precision,
                "recall": c.recall or 0.0,
                "f1": c.f1,
                "support": c.support,
            }
            for c in each
        },
        "confusion": m[:, :-1].tolist(),
        "utterances": len(gold),
        "calibration_error": float(100 * np.abs(calibration).sum() / len(gold)),
    }


def write_records(
    root: Path, methods: Iterable[Method], datasets: Iterable[str] = ("meld",), dialogues: int = 60
) -> list[Path]:
    """Write the records of all methods × datasets × seeds below ``root``; returns their files."""
    written = []
    for dataset in datasets:
        for method in methods:
            for seed in method.seeds:
                folder = root / "records" / dataset / method.name
                path = folder / f"{method.config_hash}-seed{seed}.json"
                store(path, record(method, dataset, seed, dialogues))
                written.append(path)
    return written


def store(path: Path, made: dict[str, Any]) -> None:
    """Write a record without checking it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")), "utf-8")


def stored(path: Path) -> dict[str, Any]:
    """The JSON object of a record's file."""
    return json.loads(path.read_text("utf-8"))


GOOD, EQUAL, BAD = Method("good", 0.5), Method("equal", 0.5), Method("bad", -0.3)
SIZE = 80
"""The number of test dialogues that :func:`write_leaderboard` uses."""


def write_leaderboard(root: Path) -> None:
    """Write records of three methods, two of them equal, of an external one, and of tryouts."""
    write_records(root, [GOOD, EQUAL, BAD], ["meld", "emorynlp"], SIZE)
    small = [Method("good", 0.2, (1, 2), SMALL, "small"), Method("bad", 0.0, (4,), SMALL, "small")]
    write_records(root, small, ["meld"], SIZE)
    elsewhere = {"external": True, "encoder": None, "training": {}, "context": "unknown"}
    external = Method("my-llm", 0.6, (0,), "", "external", changes=elsewhere)
    write_records(root, [external], ["meld"], SIZE)
    write_records(root, [Method("good", -1, (1,), preset="smoke")], ["meld"], SIZE)
    write_records(root, [Method("bad", 0.9, (1, 2))], ["demo"], 20)


def older(made: dict[str, Any]) -> dict[str, Any]:
    """The same record in the form of schema 1."""
    old = json.loads(json.dumps(made))
    old["schema"] = 1
    for split in old["predictions"].values():
        del split["dialogue"], split["facts"]
    return old
