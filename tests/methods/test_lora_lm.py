"""Low-rank adapters on a causal language model."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from fitting import built, fitted, last_state
from lightning import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.utils.rnn import pad_sequence

from erc_bench.errors import ErcBenchError
from erc_bench.method import Batch
from erc_bench.method.parts import PARTS
from erc_bench.methods.lora_lm import LoraLM, LoraLMConfig
from erc_bench.training.sharding import checkpoint_layers
from erc_bench.training.train import ClipGradients

NUMBERS = torch.arange(0, 200, 20).numpy()
"""The numbers of ten examples."""


@pytest.fixture(scope="module")
def config(tiny_causal: str) -> LoraLMConfig:
    return LoraLMConfig(
        encoder=tiny_causal,
        epochs=2,
        batch_size=8,
        micro_batch=8,
        window=3,
        max_len=256,
        lr=1e-2,
        dropout=0.0,
        precision="float32",
    )


@pytest.fixture(scope="module")
def batch_of(config: LoraLMConfig, small_demo):
    """The method in float64 with random adapters, and a batch of ten examples of different
    lengths."""
    method, data = built(LoraLM, config, small_demo)
    method.double()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:  # one half of each begins with zeros
                parameter.normal_(0, 0.05)
    batch = data._loader("train", [NUMBERS]).dataset[NUMBERS]
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 3
    return method, batch


def test_the_loss_is_that_of_the_answer_tokens_of_each_text_alone(batch_of) -> None:
    method, batch = batch_of
    total, tokens = 0.0, 0
    for ids, mask, label in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"].tolist(), strict=True
    ):
        answer = torch.tensor(method.answers[label])
        whole = torch.cat([ids[mask.bool()], answer])[None]
        logits = method.model(input_ids=whole).logits[0, -len(answer) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, answer, reduction="sum").item()
        tokens += len(answer)
    ours = method.answer_loss(batch).item()
    assert ours == pytest.approx(total, rel=1e-5)
    method.eval()
    with torch.no_grad():
        from_likelihoods = method.loss(method(batch), batch)["loss"].item()
    method.train()
    assert from_likelihoods == pytest.approx(total / tokens, rel=1e-5)


def gradients(method: LoraLM, batches: list[Batch]) -> torch.Tensor:
    """The gradients of the loss of a batch that comes in parts."""
    method.zero_grad()
    for batch in batches:
        method.answer_loss(batch).backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad])


def test_micro_batches_give_the_gradients_of_the_batch(batch_of, config, small_demo) -> None:
    method, batch = batch_of
    whole = gradients(method, [batch])
    assert whole.abs().max() > 0
    for size in (1, 3):
        _, data = built(LoraLM, replace(config, micro_batch=size), small_demo)
        parts = data._loader("train", [NUMBERS], in_parts=True).dataset[NUMBERS][PARTS].batches
        assert len(parts) == -(-10 // size)
        torch.testing.assert_close(gradients(method, parts), whole, rtol=1e-5, atol=1e-8)


def test_checkpointed_layers_give_the_same_gradients(batch_of, config, small_demo) -> None:
    method, batch = batch_of
    plain = LoraLM(config, small_demo.labels).double().train()
    plain.load_saved_state(method.saved_state())
    without = gradients(plain, [batch])
    checkpoint_layers(plain)
    assert any(getattr(m, "gradient_checkpointing", False) for m in plain.model.modules())
    torch.testing.assert_close(gradients(plain, [batch]), without, rtol=1e-5, atol=1e-8)


def test_only_adapters_are_trained_and_saved(config, small_demo, tmp_path) -> None:
    before = LoraLM(config, small_demo.labels).state_dict()
    settings = replace(config, micro_batch=3, max_batches=3, epochs=1)
    trained = fitted(LoraLM, settings, small_demo, tmp_path)
    saved = last_state(tmp_path)
    assert saved.keys() == {name for name in before if ".lora_" in name}
    assert sum(p.numel() for p in saved.values()) < 0.7 * sum(p.numel() for p in before.values())
    for name, value in trained.method.state_dict().items():
        assert torch.equal(value, before[name]) != (".lora_" in name), name
    adapted = {name.split(".")[-4] for name in saved}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert adapted == projections


@pytest.mark.slow
def test_steps_are_the_same_whatever_the_micro_batch(config, small_demo, tmp_path) -> None:
    states = []
    for size in (8, 3):
        settings = replace(config, micro_batch=size, epochs=1, max_batches=4, accumulate=2)
        fitted(LoraLM, settings, small_demo, tmp_path / str(size))
        states.append(torch.cat([p.flatten() for p in last_state(tmp_path / str(size)).values()]))
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-3)


class Noted(Callback):
    """Notes the norm of the gradient and the learning rate of every step."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(gradients).norm()))
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_the_rate_falls_to_0_over_the_steps_not_the_batches(config, small_demo, tmp_path) -> None:
    settings = replace(config, epochs=2, max_batches=8, accumulate=3, warmup=0.5)
    noted = Noted()
    fitted(LoraLM, settings, small_demo, tmp_path, noted)
    shares = [rate / config.lr for rate in noted.rates]
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])


def test_gradients_in_float16_are_clipped_after_they_were_unscaled(config, small_demo) -> None:
    method, data = built(LoraLM, replace(config, gradient_clip=0.01), small_demo)
    noted = Noted()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ClipGradients(), noted],
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=512.0))],
    )
    trainer.fit(method, datamodule=data)
    assert noted.norms == pytest.approx([0.01, 0.01], rel=1e-2)


def test_adapters_of_another_shape_are_refused(config, small_demo) -> None:
    method = LoraLM(config, small_demo.labels)
    other = LoraLM(replace(config, rank=4), small_demo.labels)
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict"):
        method.load_saved_state(other.saved_state())
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict"):
        method.load_saved_state({})


def test_a_batch_is_padded_at_its_beginning(batch_of) -> None:
    method, batch = batch_of
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows = [row[there.bool()].flip(0) for row, there in zip(ids, mask, strict=True)]
    assert torch.equal(pad_sequence(rows, batch_first=True).flip(1), ids)
    assert (mask.diff(dim=1) >= 0).all()
    text = method.reader.chat.tokenizer.decode(rows[0].flip(0))
    assert text.endswith("answer :")


def test_a_missing_package_is_named(config, small_demo, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ErcBenchError, match=r"erc-bench\[lm-4bit\]"):
        LoraLM(replace(config, bits=4), small_demo.labels)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ErcBenchError, match=r"erc-bench\[lm\]"):
        LoraLM(config, small_demo.labels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 8}, "bits=8"),
        ({"rank": 0}, "rank=0"),
        ({"prompt": "plian"}, "Did you mean 'plain'"),
        ({"prompt_digest": "0" * 64}, "has changed.*leave out prompt_digest,"),
    ],
)
def test_a_wrong_setting_is_named(settings, words) -> None:
    with pytest.raises(ErcBenchError, match=words):
        LoraLMConfig(**settings)
