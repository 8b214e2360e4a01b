"""Speedups for a training, dropout masks and attention, are switched on and off again."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from erc_bench.encoders.fast import Speedups, dropout_masks, enabled
from erc_bench.encoders.fast.dropout_masks import bernoulli_


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


def dropped(p: float = 0.25) -> torch.Tensor:
    """Ones after dropout, drawn from a stream that begins at the same place each time."""
    torch.manual_seed(3)
    return F.dropout(torch.ones(300, 7), p, training=True)


@pytest.fixture
def not_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor where the masks are faster than PyTorch's."""
    monkeypatch.setattr(dropout_masks, "_is_intel", lambda: False)


def test_all_dropout_draws_from_the_global_stream(not_intel: None) -> None:
    torch.manual_seed(3)
    mask = bernoulli_(torch.empty(300, 7), 0.75)
    with enabled(Speedups()):
        torch.testing.assert_close(dropped(), mask / 0.75)
        assert dropped().unique().tolist() == pytest.approx([0, 4 / 3])
        x = torch.ones(300, 7)
        assert torch.equal(F.dropout(x, 0.25, training=False), x)


def test_pytorchs_own_masks_are_back_afterwards(not_intel: None) -> None:
    own = dropped()
    with enabled(Speedups()):
        ours = dropped()
        assert not torch.equal(ours, own)
        with enabled(Speedups(dropout_masks=False)):
            assert torch.equal(dropped(), own)
            with enabled(Speedups()):
                assert torch.equal(dropped(), ours)
        assert torch.equal(dropped(), ours)
    assert torch.equal(dropped(), own)
    with pytest.raises(KeyError), enabled(Speedups()):
        raise KeyError
    assert torch.equal(dropped(), own)


def test_masks_stay_pytorchs_own_on_intels_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout_masks, "_is_intel", lambda: True)
    own = dropped()
    with enabled(Speedups()):
        assert torch.equal(dropped(), own)


def test_attention_in_low_precision_is_switched_on_and_off_again() -> None:
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed
    assert not allowed()
    with enabled(Speedups()):
        assert allowed()
        with enabled(Speedups(low_precision_attention=False)):
            assert not allowed()
        assert allowed()
    assert not allowed()


def test_attention_in_low_precision_is_as_exact_as_its_inputs() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 30, 16) for _ in range(3))
    exact = F.scaled_dot_product_attention(q, k, v)
    low = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    # The kernel that a CPU uses with dropout.
    with enabled(Speedups()), sdpa_kernel(SDPBackend.MATH):
        ours = F.scaled_dot_product_attention(*low)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 2**-6 * exact.norm()  # four units in the last place
