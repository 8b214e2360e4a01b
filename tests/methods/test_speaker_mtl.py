"""Speaker-ID multi-task: its network, both SI forms, λ = 0, and the extra SI corpus."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fitting import fitted, last_state, resumed_equals_uninterrupted
from rich.console import Console
from torch.nn import functional as F

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.report import data_list, data_stats
from erc_bench.errors import ErcBenchError
from erc_bench.execution.run import run
from erc_bench.method.data import ErcDataModule
from erc_bench.method.ragged import take
from erc_bench.methods.speaker_mtl import (
    SpeakerMTL,
    SpeakerMTLConfig,
    mean_answer,
    most_frequent,
    overlapping,
    speaker_code,
)
from erc_bench.methods.speaker_mtl_network import SpeakerNames, SpeakerPairs
from erc_bench.settings import registry
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.training.train import prepare

LABELS = LabelSet(("joy", "sadness", "anger"))
FORMS = ("names", "pairs")


@pytest.fixture
def config(tiny_encoder) -> SpeakerMTLConfig:
    return SpeakerMTLConfig(
        encoder=tiny_encoder,
        epochs=2,
        main_speakers=4,
        encoder_lr=2e-3,
        lr=5e-3,
        precision="float32",
    )


def dialogue(name: str, turns: list[tuple[str, str, int | None]]) -> Dialogue:
    """A dialogue from turns ``(speaker, text, label)``."""
    return Dialogue(name, tuple(Utterance(f"{name}-{i}", *turn) for i, turn in enumerate(turns)))


@pytest.fixture
def strange() -> Corpus:
    """Dialogues of every awkward shape, in words that no other corpus has."""
    long = [(("Ilse", "Tomas", "Priya")[i % 3], f"tale {i}", i % 3) for i in range(167)]
    train = [
        dialogue("one-turn", [("Ilse", "lonely word", 0)]),
        dialogue("one-speaker", [("Ilse", "monologue", 1), ("Ilse", "goes on", 0)]),
        dialogue("unlabelled", [("Tomas", "nobody", None), ("Priya", "knows", None)]),
        dialogue("mixed", [("Tomas", "half", None), ("Priya", "known", 1), ("Nobody", "", None)]),
        dialogue("long", long),
    ]
    dev = [dialogue("dev", [("Ilse", "yes", 0), ("Tomas", "no", 1), ("Ilse", "maybe", None)])]
    test = [
        dialogue("test-long", long[::-1]),
        dialogue("test-one", [("Priya", "end", 2)]),
        dialogue("test-unlabelled", [("Priya", "silence", None)]),
    ]
    return Corpus.build("strange", LABELS, {"train": train, "dev": dev, "test": test})


def prepared(
    config: SpeakerMTLConfig, corpus: Corpus, kind: type[SpeakerMTL] = SpeakerMTL
) -> tuple[SpeakerMTL, ErcDataModule]:
    torch.manual_seed(1)
    method = kind(config, corpus.labels)
    datamodule = ErcDataModule(corpus, method, seed=1)
    prepare(method, datamodule)
    return method, datamodule


# --- learning ---


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_both_tasks_are_learnt_and_recorded(config, form, tmp_path):
    config = replace(config, speaker=form, epochs=4)
    outcome = run(Experiment("speaker-mtl", "demo", "paper", 1, config), tmp_path)
    record = outcome.record
    curves = record.training.curves
    # The texts of demo reveal a speaker only if somebody is addressed.
    for part, falls in (("loss", 0.8), ("cer", 0.7), ("si", 0.99)):
        assert curves[-1][f"train/{part}"] < falls * curves[0][f"train/{part}"], part
    test = record.metrics.test
    support = [figures.support for figures in test.per_class.values()]
    assert test.accuracy > 100 * max(support) / sum(support) + 5
    assert record.context == "full"
    for metrics in (record.metrics.dev, record.metrics.test):
        assert 0 < metrics.extra["speaker_accuracy"] < 100


# --- λ = 0 ---


class SingleTask(SpeakerMTL):
    """The same network trained with the cross-entropy of the emotions and nothing else."""

    def loss(self, output, batch):
        logits = self.network.emotions(output[0], batch["targets"])
        return {"loss": F.cross_entropy(logits, batch["labels"])}


@pytest.mark.slow
def test_without_weight_it_is_the_single_task_model(config, small_demo, tmp_path):
    def predictions(kind: type[SpeakerMTL], name: str, **settings) -> torch.Tensor:
        trained = fitted(kind, replace(config, **settings), small_demo, tmp_path / name)
        return trained.predict("test").probabilities

    single = predictions(SingleTask, "single")
    for form in FORMS:
        assert torch.equal(predictions(SpeakerMTL, form, speaker=form, si_weight=0.0), single)
    whatever = {"balance": "uncertainty", "extra_corpus": "demo", "si_weight": 0.0}
    assert torch.equal(predictions(SpeakerMTL, "whatever", **whatever), single)
    assert not torch.equal(predictions(SpeakerMTL, "two tasks"), single)


def test_the_si_task_does_not_change_the_initial_weights_of_other_parts(config, small_demo):
    def weights(**settings) -> dict[str, torch.Tensor]:
        method, _ = prepared(replace(config, **settings), small_demo)
        state = method.network.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("si_head")}

    names = weights()
    for settings in ({"main_speakers": 7}, {"speaker": "pairs"}):
        others = weights(**settings)
        assert names.keys() == others.keys()
        assert all(torch.equal(names[name], others[name]) for name in names)


def test_without_weight_no_speaker_accuracy_is_reported(config, small_demo, tmp_path):
    for si_weight, names in ((0.5, {"speaker_accuracy"}), (0.0, set())):
        folder = tmp_path / str(si_weight)
        settings = replace(config, epochs=1, si_weight=si_weight)
        trained = fitted(SpeakerMTL, settings, small_demo, folder)
        assert trained.predict("test").extra.keys() == names


# --- the SI task ---


def test_main_speakers_are_the_most_frequent_of_training(config, small_demo):
    method, _ = prepared(config, small_demo)
    counts: dict[str, int] = {}
    for d in small_demo.dialogues("train"):
        for u in d.utterances:
            counts[u.speaker] = counts.get(u.speaker, 0) + 1
    chosen = method.network.si_head.main_speakers.tolist()
    found = {speaker_code(name): count for name, count in counts.items()}
    assert [found[code] for code in chosen] == sorted(counts.values(), reverse=True)[:4]
    few = most_frequent(np.array([7, 5, 5]), 3)
    assert few.tolist() == [5, 7, -1]


def test_names_answer_with_a_main_speaker_or_other():
    head = SpeakerNames(3, 2, dropout=0.0)
    head.main_speakers.copy_(torch.tensor([11, 12]))
    states = torch.randn(2, 3, 3)
    speakers = torch.tensor([[12, 99, 11], [11, -1, -1]])
    present = speakers >= 0
    losses, right, weights = head(states, speakers, present)
    wanted = torch.tensor([1, 2, 0, 0])
    logits = head.head(states)[present]
    torch.testing.assert_close(mean_answer(losses, weights), F.cross_entropy(logits, wanted))
    assert right[present].tolist() == (logits.argmax(dim=1) == wanted).tolist()


def test_pairs_ask_every_turn_about_every_earlier_one():
    torch.manual_seed(0)
    head = SpeakerPairs(3, dropout=0.0)
    states = torch.randn(3, 4, 3)
    speakers = torch.tensor([[1, 2, 1, 1], [5, 5, -1, -1], [8, -1, -1, -1]])
    present = speakers >= 0
    losses, right, weights = head(states, speakers, present)
    turns, hits = [], []
    matrix = head.biaffine.weight
    for b, count in enumerate((4, 2, 1)):
        vectors = [torch.cat([head.project(s), torch.ones(1)]) for s in states[b, :count]]
        for later in range(1, count):
            terms = []
            for earlier in range(later):
                score = (matrix @ vectors[later]) @ vectors[earlier]
                same = speakers[b, later] == speakers[b, earlier]
                terms.append(F.binary_cross_entropy_with_logits(score, same.float()))
                hits.append(bool((score > 0) == same))
            turns.append(torch.stack(terms).mean())
    torch.testing.assert_close(mean_answer(losses, weights), torch.stack(turns).mean())
    assert right[weights > 0].tolist() == hits


def test_learnt_weights_start_at_the_fixed_ones_and_move(config, small_demo, tmp_path):
    fixed, datamodule = prepared(config, small_demo)
    learnt, _ = prepared(replace(config, balance="uncertainty"), small_demo)
    for method in (fixed, learnt):
        method.eval()
    batch = next(iter(datamodule.evaluation_loader("test")))
    of_fixed, of_learnt = (method.loss(method(batch), batch) for method in (fixed, learnt))
    shift = -math.log(0.5) / 2
    torch.testing.assert_close(of_learnt["loss"], of_fixed["loss"] + shift)
    of_fixed["loss"].backward()
    of_learnt["loss"].backward()
    for (name, p), q in zip(
        fixed.network.named_parameters(), learnt.network.parameters(), strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    trained = fitted(SpeakerMTL, replace(config, balance="uncertainty"), small_demo, tmp_path)
    weights = [epoch["train/si_weight"] for epoch in trained.log.curves]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("stop", [False, True])
def test_the_bridge_can_keep_the_emotion_loss_from_the_si_side(config, small_demo, stop):
    config = replace(config, stop_gradient=stop)
    method, datamodule = prepared(config, small_demo, SingleTask)
    batch = next(iter(datamodule.train_dataloader()))
    method.loss(method(batch), batch)["loss"].backward()
    touched = [p.grad is not None for p in method.network.si_context.parameters()]
    assert touched == [not stop] * len(touched)
    assert all(p.grad is not None for p in method.network.cer_context.parameters())


# --- what a prediction depends on ---


@torch.no_grad()
def scores_of(method: SpeakerMTL, *dialogues: Dialogue) -> tuple[torch.Tensor, torch.Tensor]:
    """CER logits of the labelled turns ``(N, C)`` and SI states of all turns ``(N', s)``."""
    corpus = Corpus.build("some", method.labels, {"test": dialogues})
    datamodule = ErcDataModule(corpus, method)
    batch = datamodule.batch(datamodule.columns["test"])
    method.eval()
    output = method(batch)
    return method.scores(output, batch), output[1][batch["present"]]


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(config, small_demo):
    method, _ = prepared(config, small_demo)
    dialogues = small_demo.dialogues("test")
    alone = torch.cat([scores_of(method, d)[0] for d in dialogues])
    torch.testing.assert_close(scores_of(method, *dialogues)[0], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_only_a_causal_model_ignores_later_turns(config, small_demo, form, causal):
    method, _ = prepared(replace(config, causal=causal, speaker=form), small_demo)
    assert method.context == ("past" if causal else "full")
    assert SpeakerMTL.context == "full"
    whole = max(small_demo.dialogues("test"), key=len)
    half = len(whole) // 2
    later = [
        Utterance(u.id, "Greta", "the boiler, again and again and again!", u.label)
        for u in whole.utterances[half:]
    ]
    one_more = Utterance("one more", "Bruno", "ugh", 0)
    altered = Dialogue(whole.id, (*whole.utterances[:half], *later, one_more))
    before, after = scores_of(method, whole)[0][:half], scores_of(method, altered)[0][:half]
    assert torch.allclose(before, after, atol=1e-5) == causal


def test_unlabelled_turns_are_context_and_never_scored(config, strange):
    method, datamodule = prepared(config, strange)
    for split in ("dev", "test"):
        rows = torch.cat([b["rows"] for b in datamodule.evaluation_loader(split)])
        assert sorted(rows.tolist()) == datamodule.rows(split).tolist()
    turns = [("Ilse", "yes", 0), ("Tomas", "no", None)]
    with_second = scores_of(method, dialogue("d", turns))[0]
    assert not torch.allclose(with_second, scores_of(method, dialogue("d", turns[:1]))[0])


@pytest.mark.parametrize("form", FORMS)
def test_dialogues_of_every_shape(config, strange, form, tmp_path):
    config = replace(config, speaker=form, epochs=1, batch_size=1)
    trained = fitted(SpeakerMTL, config, strange, tmp_path)
    predicted = trained.predict("test")
    assert len(predicted.rows) == 168
    assert predicted.probabilities.isfinite().all()
    assert all(value.isfinite().all() for value in last_state(tmp_path).values())
    assert math.isfinite(trained.log.curves[0]["train/loss"])


def test_speakers_are_in_the_text_only_if_set_and_never_in_that_of_si(config, small_demo):
    d = small_demo.dialogues("test")[0]
    renamed = Dialogue(d.id, tuple(replace(u, speaker="Zoe", name="Marek") for u in d.utterances))
    method, _ = prepared(config, small_demo)
    assert torch.equal(scores_of(method, d)[0], scores_of(method, renamed)[0])
    method, datamodule = prepared(replace(config, speaker_in_text=True), small_demo)
    (cer, si), (other_cer, other_si) = scores_of(method, d), scores_of(method, renamed)
    assert not torch.allclose(cer, other_cer)
    assert torch.equal(si, other_si)
    batch = next(iter(datamodule.train_dataloader()))
    assert method.loss(method(batch), batch)["loss"].isfinite()


def test_long_turns_are_cut_and_turns_are_encoded_in_chunks_of_similar_length(config, demo):
    _, datamodule = prepared(replace(config, max_len=8, batch_size=32), demo)
    turns = next(iter(datamodule.train_dataloader()))["turns"]
    lengths = [chunk["attention_mask"].sum(dim=1) for chunk in turns["chunks"]]
    assert max(len(each) for each in lengths) <= 32 < sum(len(each) for each in lengths)
    in_order = torch.cat(lengths)
    assert in_order.tolist() == in_order.sort().values.tolist()
    assert in_order.max() == 8
    assert sorted(turns["cells"].tolist()) == sorted(set(turns["cells"].tolist()))


# --- the extra SI corpus ---


def test_overlap_is_by_long_utterances_three_turns_or_whole_dialogues():
    scored = [
        dialogue("a", [("A", "Okay.", 0), ("B", "We never did find that old umbrella.", 0)]),
        dialogue("b", [("A", "Well?", 0), ("B", "No.", 0)]),
        dialogue("c", [("A", t, 0) for t in ("...", "Is it Tom?", "Hush.", "It is.", "Oh dear.")]),
    ]
    extra = [
        dialogue("shared", [("C", "we never did find that old umbrella", 0)]),
        dialogue("whole", [("C", "well", 0), ("D", "no", 0)]),
        dialogue("chance", [("C", "Okay.", 0), ("D", "No.", 0)]),
        dialogue("scene", [("C", t, 0) for t in ("Well?", "Is it Tom?", "Hush!", "It is", "!")]),
        dialogue("two", [("C", t, 0) for t in ("!", "Is it Tom?", "Hush!", "?", "...")]),
    ]
    assert overlapping(extra, scored).tolist() == [True, True, False, True, False]


def test_dialogues_of_dev_and_test_are_refused_and_counted(config, small_demo):
    config = replace(config, extra_corpus="demo")
    with pytest.raises(
        ErcBenchError, match=r"(\d+) of the 200 training dialogues of demo"
    ) as error:
        prepared(config, small_demo)
    _, datamodule = prepared(replace(config, extra_overlap="drop"), small_demo)
    extra = (np.asarray(datamodule.columns["train"]["dialogue"]) < 0).sum()
    assert f"demo: {200 - extra} of the 200" in str(error.value)
    assert 0 < extra < 200


@pytest.mark.slow
def test_extra_dialogues_come_by_their_share_and_without_labels(config, strange, tmp_path):
    config = replace(config, extra_corpus="demo", extra_ratio=2.0, batch_size=2)
    method, datamodule = prepared(config, strange)
    own, extra = range(5), range(5, 205)
    first, again, second = (method.epoch_examples(datamodule, e) for e in (0, 0, 1))
    assert first.tolist() == again.tolist() != second.tolist()
    for drawn in (first, second):
        assert drawn[:5].tolist() == list(own)
        assert len(set(drawn[5:]) & set(extra)) == 10
    prepare(method, datamodule)  # a second time adds no second copy
    assert len(datamodule.columns["train"]["dialogue"]) == 205
    examples = datamodule.columns["train"]
    alone = datamodule.batch({name: take(c, np.array([5, 6])) for name, c in examples.items()})
    parts = method.loss(method(alone), alone)
    assert len(alone["labels"]) == 0
    assert parts["cer"] == 0 < parts["si"]
    parts["loss"].backward()
    config = replace(config, balance="uncertainty")
    resumed_equals_uninterrupted(SpeakerMTL, config, strange, tmp_path)


def test_a_small_extra_corpus_is_used_several_times(config, strange):
    method, datamodule = prepared(replace(config, extra_corpus="demo", extra_ratio=50.0), strange)
    drawn = method.epoch_examples(datamodule, 0)[5:]
    assert len(drawn) == 250
    assert set(drawn.tolist()) == set(range(5, 205))


def test_main_speakers_missing_in_the_extra_corpus_are_an_error(config):
    turns = [("Ses01_F", "tale", 0), ("Ses01_M", "told", 1)]
    splits = {split: [dialogue(split, turns)] for split in ("train", "dev", "test")}
    corpus = Corpus.build("actors", LABELS, splits)
    with pytest.raises(ErcBenchError, match="speaker=pairs"):
        prepared(replace(config, extra_corpus="demo"), corpus)
    _, datamodule = prepared(replace(config, extra_corpus="demo", speaker="pairs"), corpus)
    assert len(datamodule.columns["train"]["dialogue"]) == 201


def test_an_extra_corpus_without_a_train_split_is_refused(config, small_demo, tmp_path):
    rows = "dialogue,speaker,text,emotion\n1,Ann,Hi.,joy\n1,Bo,Oh.,anger\n"
    (tmp_path / "test.csv").write_text(rows, encoding="utf-8")
    sheet = tmp_path / "corpus.yaml"
    sheet.write_text(
        "name: extra\nsplits: {test: test.csv}\ncolumns: {label: emotion}\n", encoding="utf-8"
    )
    with pytest.raises(ErcBenchError, match=r"extra_corpus=.*no train split"):
        prepared(replace(config, extra_corpus=str(sheet), speaker="pairs"), small_demo)


BYSTANDERS = """
from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import CorpusSource


class Bystanders(CorpusSource):
    name = "bystanders"
    labels = LabelSet(())
    description = "who speaks, and nothing of what they feel"
    classes = licence = homepage = citation = release = "made up"

    def parse(self, paths):
        turns = [("Ilse", "Who is it?"), ("Tomas", "Me."), ("Ilse", "Come in.")]
        return {
            "train": [
                Dialogue(f"b{d}", tuple(Utterance(f"b{d}-{i}", *t) for i, t in enumerate(turns)))
                for d in range(7)
            ]
        }
"""


@pytest.fixture
def bystanders(tmp_path, monkeypatch):
    """A package that registers a corpus of speakers without emotions."""
    (tmp_path / "bystanders.py").write_text(BYSTANDERS, encoding="utf-8")
    package = tmp_path / "bystanders-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bystanders\nVersion: 1.0\n", encoding="utf-8"
    )
    (package / "entry_points.txt").write_text(
        "[erc_bench.datamodules]\nbystanders = bystanders:Bystanders\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry._points.cache_clear()
    yield "bystanders"
    registry._points.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_si_learns_from_a_corpus_without_emotions(config, strange, bystanders, form, tmp_path):
    config = replace(config, extra_corpus=bystanders, extra_ratio=1.0, speaker=form, batch_size=3)
    _, datamodule = prepared(config, strange)
    assert len(datamodule.columns["train"]["dialogue"]) == 5 + 7
    trained = fitted(SpeakerMTL, config, strange, tmp_path)
    assert all(math.isfinite(epoch["train/si"]) for epoch in trained.log.curves)
    predicted = trained.predict("test")
    assert torch.equal(predicted.rows, trained.data.rows("test"))
    assert predicted.probabilities.isfinite().all()


def test_a_corpus_without_emotions_is_described_and_nothing_is_trained_on_it(
    config, bystanders, tmp_path
):
    console = Console(file=io.StringIO(), width=100)
    source = registry.corpus_source(bystanders)
    data_stats(console, source)
    data_list(console, [source])
    assert console.file.getvalue().count("who speaks, and nothing of what they feel") == 2
    with pytest.raises(ErcBenchError, match="no emotion labels"):
        run(Experiment("speaker-mtl", bystanders, "paper", 1, config), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


# --- settings ---


def test_settings_are_checked():
    for key in ("encoder_lr", "lr", "extra_ratio", "main_speakers", "max_len"):
        with pytest.raises(ErcBenchError, match=key):
            SpeakerMTLConfig(**{key: 0})
    for preset in ("paper", "base", "small", "smoke"):
        config = resolve("speaker-mtl", "iemocap", preset=preset).config
        assert (config.speaker, config.batch_size) == ("pairs", 4)
        assert resolve("speaker-mtl", "meld", preset=preset).config.speaker == "names"
