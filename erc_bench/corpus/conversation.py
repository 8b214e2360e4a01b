"""The data types: utterances, dialogues, label sets and corpora, validated when built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from erc_bench.errors import ErcBenchError, did_you_mean, quoted

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class LabelSet:
    """The emotions of a corpus, as plain English words, in the order of the class index.

    It is empty for a corpus without emotions, whose dialogues only say who speaks.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) == 1 or len(set(self.names)) != len(self.names):
            raise ErcBenchError(f"A label set needs two or more different labels: {self.names}.")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str, where: str = "") -> int:
        """The class index of a label; the error for an unknown label begins with ``where``."""
        try:
            return self.names.index(name)
        except ValueError:
            place = f"{where}: " if where else ""
            raise ErcBenchError(
                f"{place}the label {quoted(name)} is not in the label set."
                + did_you_mean(name, self.names)
            ) from None


Figure = Literal["weighted_f1", "macro_f1", "micro_f1", "accuracy"]

FIGURES: Mapping[str, str] = {
    "weighted_f1": "weighted-F1",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "accuracy": "accuracy",
}
"""The figures that a corpus may be judged by, and their titles."""


@dataclass(frozen=True)
class Metric:
    """The figure that a corpus is judged by. It selects on dev, heads every table, and is compared.

    Written as ``weighted_f1``, ``macro_f1``, ``accuracy`` or ``micro_f1 without LABEL``. The label
    that is left out counts neither as a class nor as a hit. Over all labels, micro-F1 would equal
    accuracy.
    """

    name: Figure = "weighted_f1"
    without: str = ""

    @classmethod
    def of(cls, text: str, labels: Sequence[str] | None) -> Metric:
        """Read a metric for a corpus with these labels (None: not known yet).

        Raises:
            ErcBenchError: there is no such metric, or no such label to leave out.
        """
        name, _, without = text.partition(" without ")
        if name not in FIGURES:
            raise ErcBenchError(f"There is no metric {quoted(name)}." + did_you_mean(name, FIGURES))
        if bool(without) != (name == "micro_f1"):
            raise ErcBenchError(
                f"There is no metric {quoted(text)}. Write `micro_f1 without LABEL`, or "
                "`accuracy`, which is micro-F1 over all labels. The others leave no label out."
            )
        metric = cls(cast(Figure, name), without)
        if labels is not None:
            metric.left_out(labels)
        return metric

    def __str__(self) -> str:
        return f"{self.name} without {self.without}" if self.without else self.name

    @property
    def title(self) -> str:
        """The name to show, such as ``weighted-F1`` or ``micro-F1 without neutral``."""
        return FIGURES[self.name] + (f" without {self.without}" if self.without else "")

    def left_out(self, labels: Sequence[str]) -> int | None:
        """The class index of the label that is left out; None if all labels count.

        Raises:
            ErcBenchError: the label is not in the label set.
        """
        return LabelSet(tuple(labels)).index(self.without, self.title) if self.without else None


@dataclass(frozen=True)
class Utterance:
    """One turn of a dialogue.

    ``label`` is the class index, or None for a turn that is context only and never scored.
    ``name`` is what a prompt calls the speaker, if ``speaker`` is only a code (IEMOCAP).
    """

    id: str
    speaker: str
    text: str
    label: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            raise ErcBenchError(f"An utterance without an id: {self.speaker}: {self.text!r}.")
        if not self.name:
            object.__setattr__(self, "name", self.speaker)


@dataclass(frozen=True)
class Dialogue:
    """A conversation: its turns in the order they were spoken."""

    id: str
    utterances: tuple[Utterance, ...]

    def __post_init__(self) -> None:
        if not self.utterances:
            raise ErcBenchError(f"Dialogue {self.id!r} has no utterances; remove it or fill it.")

    def __len__(self) -> int:
        return len(self.utterances)

    @cached_property
    def labelled(self) -> tuple[int, ...]:
        """Positions of the turns that carry a label."""
        return tuple(i for i, u in enumerate(self.utterances) if u.label is not None)


@dataclass(frozen=True)
class Corpus:
    """A corpus: its label set, and the dialogues of its splits. Build one with :meth:`build`."""

    name: str
    labels: LabelSet
    contents: Mapping[str, tuple[Dialogue, ...]]
    """The dialogues of each split, in corpus order."""
    digest: str
    """SHA-256 over everything a model can see: labels, splits, ids, speakers, texts; and over the
    metric, if it is not the default one."""
    official: bool = True
    """Whether this is the official release, as far as known; always true for a made-up corpus."""
    metric: Metric = Metric()
    """The figure that the corpus is judged by."""

    @classmethod
    def build(
        cls,
        name: str,
        labels: LabelSet,
        splits: Mapping[str, Iterable[Dialogue]],
        official: bool = True,
        metric: Metric = Metric(),
    ) -> Corpus:
        """Validate dialogues and make a corpus of them.

        Raises:
            ErcBenchError: an id occurs twice, a label is outside the label set, or a split is
                unknown, empty, or (unless the corpus has no emotions) without labels.
        """
        contents: dict[str, tuple[Dialogue, ...]] = {}
        seen: set[str] = set()
        hasher = hashlib.sha256(json.dumps(labels.names).encode())
        for split, dialogues in splits.items():
            if split not in SPLITS:
                hint = did_you_mean(split, SPLITS)
                raise ErcBenchError(f"{name}: unknown split {split!r}.{hint}")
            contents[split] = tuple(dialogues)
            _check(contents[split], seen, len(labels), f"{name}, {split}")
            # The digests in committed records depend on this exact form.
            rows = [_row(dialogue) for dialogue in contents[split]]
            hasher.update(json.dumps([split, rows]).encode())
        if metric != Metric():
            hasher.update(json.dumps(["metric", str(metric)]).encode())
        return cls(name, labels, contents, hasher.hexdigest(), official, metric)

    @cached_property
    def splits(self) -> datasets.DatasetDict:
        """The splits as Hugging Face ``datasets``, made on first use.

        One row per dialogue, with the columns ``id`` and ``utterances`` (a list of ``{id, speaker,
        text, label, name}``; label −1 = unlabelled).
        """
        import datasets

        utterance = {"id": "string", "speaker": "string", "text": "string", "label": "int32"}
        utterance["name"] = "string"
        features = datasets.Features(
            {
                "id": datasets.Value("string"),
                "utterances": [{key: datasets.Value(kind) for key, kind in utterance.items()}],
            }
        )
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list([_row(d) for d in dialogues], features=features)
                for split, dialogues in self.contents.items()
            }
        )

    def dialogues(self, split: str) -> list[Dialogue]:
        """The dialogues of one split, in corpus order."""
        return list(self.contents[split])


def without_test_labels(corpus: Corpus) -> Corpus:
    """Return a corpus without the labels of test. The turns stay, as context and for vectors."""
    hidden = tuple(
        replace(dialogue, utterances=tuple(replace(u, label=None) for u in dialogue.utterances))
        for dialogue in corpus.contents["test"]
    )
    return replace(corpus, contents={**corpus.contents, "test": hidden})


def _row(dialogue: Dialogue) -> dict[str, Any]:
    """A dialogue as one row of a split; its keys are in alphabetical order."""
    return {
        "id": dialogue.id,
        "utterances": [
            {
                "id": u.id,
                "label": -1 if u.label is None else u.label,
                "name": u.name,
                "speaker": u.speaker,
                "text": u.text,
            }
            for u in dialogue.utterances
        ],
    }


def _check(dialogues: tuple[Dialogue, ...], seen: set[str], classes: int, where: str) -> None:
    """Check that ids are unique, labels are in the label set, and something is labelled."""
    labelled = False
    for u in (u for dialogue in dialogues for u in dialogue.utterances):
        if u.id in seen:
            raise ErcBenchError(f"{where}: the utterance id {u.id!r} occurs twice.")
        seen.add(u.id)
        if u.label is not None:
            labelled = True
            if not 0 <= u.label < classes:
                known = f"is outside 0…{classes - 1}" if classes else "in a corpus without emotions"
                raise ErcBenchError(f"{where}, utterance {u.id!r}: label {u.label} {known}.")
    if not dialogues:
        raise ErcBenchError(f"{where}: there is no utterance.")
    if classes and not labelled:
        raise ErcBenchError(f"{where}: there is no labelled utterance.")
