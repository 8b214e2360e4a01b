"""Fast dropout masks: the right shares, independent, repeatable."""

import pytest
import torch
from torch.nn import functional as F

from erc_bench.encoders.fast.dropout import bernoulli_, draw_masks_fast


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_the_share_of_ones_is_the_probability(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = bernoulli_(torch.empty(1001, 999, dtype=dtype), p)
    assert set(mask.unique().tolist()) <= {0, 1}
    # Five standard deviations of a share over a million draws.
    assert mask.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5 + 1e-5)


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    mask = bernoulli_(torch.empty(1_000_000), 0.1) - 0.1
    for lag in (1, 2, 3, 4, 8):
        correlation = (mask[lag:] * mask[:-lag]).mean() / 0.09
        assert abs(correlation) < 0.006


def test_all_dropout_draws_from_the_global_stream() -> None:
    draw_masks_fast()
    x = torch.ones(300, 7)

    def dropped() -> torch.Tensor:
        torch.manual_seed(3)
        return F.dropout(x, 0.25, training=True)

    torch.manual_seed(3)
    mask = bernoulli_(torch.empty_like(x), 0.75)
    if draw_masks_fast() is not None:  # not on Intel's processors
        torch.testing.assert_close(dropped(), mask / 0.75)
    assert dropped().unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(F.dropout(x, 0.25, training=False), x)
