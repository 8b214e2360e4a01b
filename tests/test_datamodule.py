"""A method's examples on a corpus: their rows, labels and batches."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.method.config import MethodConfig
from erc_bench.method.data import ErcDataModule
from erc_bench.method.reader import Reader
from erc_bench.methods.eacl import EACL
from erc_bench.settings.experiment import resolve


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Two splits with unlabelled turns in them."""

    def dialogue(name: str, *labels: int | None) -> Dialogue:
        turns = (Utterance(f"{name}-{i}", "Ada", "Well then.", y) for i, y in enumerate(labels))
        return Dialogue(name, tuple(turns))

    return Corpus.build(
        "made-up",
        LabelSet(("joy", "anger")),
        {
            "train": [dialogue("a", 0, None, 1), dialogue("b", 1)],
            "test": [dialogue("c", None, 1), dialogue("d", 0, 0)],
        },
    )


def test_rows_and_labels_follow_the_corpus(corpus: Corpus, tiny_encoder: str) -> None:
    config = resolve("eacl", "demo", overrides=[f"encoder={tiny_encoder}"]).config
    method = EACL(config, corpus.labels)
    data = ErcDataModule(corpus, method)
    assert data.gold.tolist() == [0, -1, 1, 1, -1, 1, 0, 0]
    assert data.rows("train").tolist() == [0, 2, 3]
    assert data.rows("test").tolist() == [5, 6, 7]
    batch = next(iter(data.evaluation_loader("test")))
    assert torch.equal(batch["labels"], data.gold[batch["rows"]])
    assert sorted(batch["rows"].tolist()) == [5, 6, 7]
    again = ErcDataModule(corpus, method)
    assert again.columns["train"]["input_ids"].offsets.tolist() == (
        data.columns["train"]["input_ids"].offsets.tolist()
    )
    assert [data.ids[row] for row in data.rows("test")] == ["c-1", "d-0", "d-1"]


class Buckets(Reader):
    """Reads each labelled turn as one number below ``buckets``."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets

    def examples(self, dialogue, *, training=False):
        return [{"targets": [i], "bucket": 1000 % self.buckets} for i in dialogue.labelled]

    def collate(self, columns):
        return {"bucket": torch.from_numpy(columns["bucket"])}


@dataclass
class Learner:
    """The parts of a method that batches need."""

    reader: Reader
    config: MethodConfig

    def epoch_examples(self, data, epoch):
        return None


def files_below(folder) -> set:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_examples_are_made_anew_for_every_setting_and_none_is_stored(corpus, cache) -> None:
    before = files_below(cache)
    for buckets, expected in ((64, 1000 % 64), (4096, 1000)):
        data = ErcDataModule(corpus, Learner(Buckets(buckets), MethodConfig(encoder="")))
        batch = next(iter(data.evaluation_loader("test")))
        assert batch["bucket"].tolist() == [expected] * 3
    assert files_below(cache) == before


class Unlabelled(Buckets):
    """A reader that targets turns without a label, too."""

    def examples(self, dialogue, *, training=False):
        return [{"targets": [i], "bucket": 0} for i in range(len(dialogue))]


def test_a_target_without_a_label_is_a_defect_of_the_reader(corpus) -> None:
    data = ErcDataModule(corpus, Learner(Unlabelled(1), MethodConfig(encoder="")))
    with pytest.raises(RuntimeError, match="Unlabelled targets a turn without a label"):
        next(iter(data.evaluation_loader("test")))


class Turns(Buckets):
    """Reads whole dialogues, labelled or not."""

    def examples(self, dialogue, *, training=False):
        return [
            {
                "targets": list(dialogue.labelled),
                "words": [len(u.text) for u in dialogue.utterances],
            }
        ]

    def collate(self, columns):
        return {
            "dialogues": columns["dialogue"],
            "words": torch.from_numpy(columns["words"].pad(0)),
        }


def test_further_dialogues_are_trained_on_without_their_labels(corpus) -> None:
    data = ErcDataModule(corpus, Learner(Turns(1), MethodConfig(encoder="", batch_size=8)))
    own = data.columns["train"]["words"].values.tolist()
    further = corpus.dialogues("test")
    for _ in range(2):  # the second call replaces the dialogues of the first
        data.add_training_dialogues(further)
        columns = data.columns["train"]
        assert columns["dialogue"].tolist() == [0, 1, -1, -1]
        assert columns["words"].values.tolist() == own + [len("Well then.")] * 4
    (batch,) = data.train_dataloader()
    assert sorted(batch["dialogues"].tolist()) == [-1, -1, 0, 1]
    assert sorted(batch["rows"].tolist()) == data.rows("train").tolist()


def test_lengths_are_those_of_the_longest_column(corpus) -> None:
    data = ErcDataModule(corpus, Learner(Turns(1), MethodConfig(encoder="")))
    assert data.lengths("train").tolist() == [3, 1]


class Texts(Turns):
    """Reads each dialogue as a row of ones, as long as its texts."""

    def examples(self, dialogue, *, training=False):
        ones = [1] * sum(len(u.text) for u in dialogue.utterances)
        return [{"targets": list(dialogue.labelled), "words": ones}]


def test_training_batches_are_grouped_by_length_or_drawn_from_all() -> None:
    lengths = 1 + np.random.default_rng(0).permutation(200) % 40
    dialogues = [
        Dialogue(str(i), (Utterance(str(i), "Ada", "m" * int(n), 0),))
        for i, n in enumerate(lengths)
    ]
    corpus = Corpus.build("made-up", LabelSet(("joy", "anger")), {"train": dialogues})

    def spread(group_by_length: bool) -> float:
        config = MethodConfig(encoder="", batch_size=8, group_by_length=group_by_length)
        batches = [
            b["words"] for b in ErcDataModule(corpus, Learner(Texts(1), config)).train_dataloader()
        ]
        assert sorted(int(n) for b in batches for n in (b > 0).sum(1)) == sorted(lengths)
        return float(np.mean([np.ptp((b > 0).sum(1).numpy()) for b in batches]))

    assert spread(True) < 3 < 25 < spread(False)
