"""Plain fine-tuning, the control."""

from __future__ import annotations

import dataclasses

import pytest
from fitting import fitted

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.methods.finetune import Finetune, FinetuneConfig
from erc_bench.settings.experiment import resolve


@pytest.fixture
def config(tiny_encoder) -> FinetuneConfig:
    return FinetuneConfig(
        encoder=tiny_encoder, epochs=6, encoder_lr=2e-3, lr=5e-3, precision="float32"
    )


def test_the_rates_rise_and_fall_to_zero(config, small_demo, tmp_path):
    config = dataclasses.replace(config, epochs=2, batch_size=16, warmup=0.25)
    trainer = fitted(Finetune, config, small_demo, tmp_path).trainer
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    steps = trainer.global_step
    assert scheduler.last_epoch == steps
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    factors = [scheduler.lr_lambdas[0](step) for step in range(steps)]
    assert factors[round(0.25 * steps)] == max(factors) == 1


def test_without_context_the_turns_before_are_not_read(config, demo):
    dialogue = max(demo.dialogues("test"), key=len)
    alone = dataclasses.replace(config, window=0)
    without, whole = (Finetune(each, demo.labels).reader for each in (alone, config))
    for i, turn in enumerate(dialogue.utterances):
        (example,) = without.examples(Dialogue("alone", (turn,)))
        assert without.examples(dialogue)[i]["input_ids"] == example["input_ids"]
    lengths = [[len(e["input_ids"]) for e in r.examples(dialogue)] for r in (without, whole)]
    assert lengths[0][0] == lengths[1][0]
    assert all(a < b for a, b in zip(lengths[0][1:], lengths[1][1:], strict=True))


def test_later_turns_change_nothing(config, demo):
    reader = Finetune(config, demo.labels).reader
    dialogue = max(demo.dialogues("test"), key=len)
    middle = len(dialogue) // 2
    altered = Dialogue(
        dialogue.id,
        (
            *dialogue.utterances[: middle + 1],
            *(Utterance(u.id, "Zoe", "no", u.label) for u in dialogue.utterances[middle + 1 :]),
        ),
    )
    upto = [e for e in reader.examples(dialogue) if e["targets"][0] <= middle]
    assert upto == [e for e in reader.examples(altered) if e["targets"][0] <= middle]
    assert reader.examples(dialogue) != reader.examples(altered)


def test_settings_are_checked():
    with pytest.raises(ErcBenchError, match="encoder_lr"):
        FinetuneConfig(encoder_lr=0)
    for preset in ("paper", "base", "small", "smoke"):
        assert isinstance(resolve("finetune", "meld", preset=preset).config, FinetuneConfig)
