"""Batches hold every example once, group similar lengths, and are the same for a seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erc_bench.evaluation.metrics import Predictions
from erc_bench.method.batches import Batches

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
    drawn = [batch for share in shares for batch in list(share)[: share.own]]
    # All processes get equally many batches. If the number is not divisible, some repeat a batch.
    assert {len(list(share)) for share in shares} == {len(share) for share in shares}
    assert len({len(share) for share in shares}) == 1
    assert sorted(np.concatenate(drawn)) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 40))
def test_drop_last_leaves_out_less_than_a_batch(lengths: list[int], size: int) -> None:
    drawn = list(Batches(np.array(lengths), size, seed=1, drop_last=True))
    if len(lengths) >= size:
        assert {len(batch) for batch in drawn} == {size}
        assert len(drawn) == len(lengths) // size


def test_epochs_and_seeds_differ_and_batches_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 250, 5000)

    def first(seed: int, epoch: int) -> list[int]:
        batches = Batches(lengths, 32, seed=seed)
        batches.set_epoch(epoch)
        return next(iter(batches)).tolist()

    assert first(1, 0) != first(1, 1) != first(2, 1)
    padded = sum(len(b) * lengths[b].max() for b in Batches(lengths, 32, seed=1))
    assert padded < 1.15 * lengths.sum()


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
    # Otherwise the group is destroyed at the interpreter's end, when its threads may be gone.
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_devices_score_every_utterance_once() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_share, (port,), nprocs=2)
    assert not torch.distributed.is_initialized()
