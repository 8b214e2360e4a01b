"""Batches: every example once, of similar length, the same for the same seed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st

from erc_bench.corpus import conversation
from erc_bench.corpus.conversation import SPLITS, Corpus, Dialogue, LabelSet, Utterance
from erc_bench.evaluation.metrics import Predictions
from erc_bench.method import datamodule
from erc_bench.method.datamodule import Batches, ErcDataModule
from erc_bench.methods.eacl import EACL
from erc_bench.settings.experiment import resolve

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=400)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 3))
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, epoch: int) -> None:
    batches = Batches(np.array(lengths), size, seed=7)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert sorted(np.concatenate(drawn)) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in drawn)
    again = list(batches)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))


@given(LENGTHS, st.integers(1, 40), st.integers(1, 4))
def test_processes_share_an_evaluation_among_them(lengths, size, processes) -> None:
    shares = [Batches(np.array(lengths), size, process=(r, processes)) for r in range(processes)]
    drawn = [batch for share in shares for batch in share]
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]
    assert sorted(np.concatenate(drawn)) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 40))
def test_drop_last_leaves_out_less_than_a_batch(lengths: list[int], size: int) -> None:
    drawn = list(Batches(np.array(lengths), size, seed=1, drop_last=True))
    if len(lengths) >= size:
        assert {len(batch) for batch in drawn} == {size}
        assert len(drawn) == len(lengths) // size


def test_no_weights_are_hashed_to_make_examples(small_demo, tiny_encoder, monkeypatch) -> None:
    """As datasets does to name the result of a map, for every line of a stream."""
    method = EACL(
        resolve("eacl", "demo", overrides=[f"encoder={tiny_encoder}"]).config, small_demo.labels
    )
    hashed, own = [], Hasher.hash
    watched = staticmethod(lambda value: hashed.append(value) or own(value))
    monkeypatch.setattr(Hasher, "hash", watched)
    for kept in (True, False):
        assert ErcDataModule(small_demo, method, kept=kept).examples.keys() == {*SPLITS}
    assert not any(map(callable, hashed))


def test_epochs_and_seeds_differ_and_batches_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 250, 5000)

    def first(seed: int, epoch: int) -> list[int]:
        batches = Batches(lengths, 32, seed=seed)
        batches.set_epoch(epoch)
        return next(iter(batches)).tolist()

    assert first(1, 0) != first(1, 1) != first(2, 1)
    padded = sum(len(b) * lengths[b].max() for b in Batches(lengths, 32, seed=1))
    assert padded < 1.15 * lengths.sum()


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
    assert again.examples["train"]["input_ids"].offsets.tolist() == (
        data.examples["train"]["input_ids"].offsets.tolist()
    )


def test_a_damaged_cache_file_is_made_again(corpus, tiny_encoder, cache) -> None:
    config = resolve("eacl", "demo", overrides=[f"encoder={tiny_encoder}", "max_len=77"]).config
    method = EACL(config, corpus.labels)
    before = set((cache / "erc-bench" / "examples").glob("*.arrow"))
    first = ErcDataModule(corpus, method).examples["test"]["input_ids"].values
    made = set((cache / "erc-bench" / "examples").glob("*.arrow")) - before
    assert len(made) == 2
    for size in (0, 40, 700, -20):
        for path in made:
            path.write_bytes(path.read_bytes()[:size])
        again = ErcDataModule(corpus, method).examples["test"]["input_ids"].values
        assert np.array_equal(first, again)


def test_examples_depend_on_all_code_that_makes_them() -> None:
    """On that of a method that is extended, and on what a dialogue is."""
    own, extending = datamodule._sources(EACL), datamodule._sources(Extending)
    assert set(own) < set(extending)
    room = Path(conversation.__file__).read_bytes()
    assert hashlib.sha256(room).hexdigest() in own


class Extending(EACL):
    """A method of somebody's that changes one of ours."""


def _share(rank: int, port: int) -> None:
    """One of two processes that score a test set together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    predictions = Predictions()
    for rows in Batches(np.arange(1, 24), 4, process=(rank, 2)):
        rows = torch.from_numpy(rows)
        predictions.update(rows, torch.stack([rows, -rows], dim=1).float())
    rows, scores = predictions.compute()
    assert rows.tolist() == list(range(23))
    assert scores[:, 0].tolist() == list(range(23))
    # Left to the interpreter's end, its threads may be gone before it.
    torch.distributed.destroy_process_group()


def test_two_devices_score_every_utterance_once() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_share, (port,), nprocs=2)
    assert not torch.distributed.is_initialized()
