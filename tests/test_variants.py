"""Variants, which are methods without one of their parts: names, settings and comparisons."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import seed_everything
from synthetic_records import Method, write_records

from erc_bench.cli import main
from erc_bench.cli.run import experiments
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.statistics import compare, holm, resampled_scores
from erc_bench.execution.recording import make_record
from erc_bench.leaderboard import build, compare_methods, read_board
from erc_bench.leaderboard.ablations import ablations_of
from erc_bench.leaderboard.cache import Cache
from erc_bench.leaderboard.runs import read_runs
from erc_bench.method.data import ErcDataModule
from erc_bench.records.place import Identity, Place
from erc_bench.settings import experiment as settings
from erc_bench.settings.experiment import resolve, variants
from erc_bench.settings.registry import method_class, method_names, plugin
from erc_bench.training.train import prepare, train

QUICK = ("precision=float32", "max_batches=2", "epochs=1")
EVERY = [(method, name) for method in method_names() for name in variants(method)]
EXTRA = {("speaker-mtl", "no-extra-corpus"): ["extra_corpus=demo", "extra_overlap=drop"]}
"""Settings that give a method the part that a variant leaves out."""


# --- names and settings


def test_methods_have_the_variants_of_their_papers_and_the_control_one() -> None:
    methods = ("eacl", "spcl", "sacl-lstm", "speaker-mtl", "finetune")
    assert {m: list(variants(m)) for m in methods} == {
        "eacl": ["no-angle", "no-contrastive", "no-stage2"],
        "spcl": ["no-prototypes", "no-curriculum", "no-augmentation"],
        "sacl-lstm": ["no-contrastive", "no-adversarial", "at-without-context", "no-speaker-lstm"],
        "speaker-mtl": ["no-si", "no-bridge", "no-extra-corpus"],
        "finetune": ["no-context"],
    }


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_a_variant_is_the_method_with_other_settings(method: str, name: str) -> None:
    overrides = EXTRA.get((method, name), [])
    whole = resolve(method, "meld", preset="small", overrides=overrides)
    without = resolve(method, "meld", preset="small", overrides=overrides, variant=name)
    assert (whole.variant, without.variant) == ("", name)
    assert whole.hash != without.hash
    for key, value in variants(method)[name].settings.items():
        if (method, name) not in EXTRA:
            assert without.settings[key] == value


def test_overrides_are_applied_after_a_variant_and_may_not_undo_it() -> None:
    both = resolve("eacl", "meld", variant="no-angle", overrides=["epochs=3"])
    assert (both.config.angle_weight, both.config.epochs) == (0.0, 3)
    with pytest.raises(ErcBenchError, match="would undo the variant 'no-angle'"):
        resolve("eacl", "meld", variant="no-angle", overrides=["angle_weight=0.2"])
    with pytest.raises(ErcBenchError, match=r"no variant 'no-angel'. Did you mean 'no-angle'"):
        resolve("eacl", "meld", variant="no-angel")


@pytest.mark.parametrize("entry", [None, {}, 3, {"paired": True}])
def test_a_wrong_variant_is_named(entry: Any, monkeypatch) -> None:
    sheet = {"title": "", "variants": {"no-angle": entry}}
    monkeypatch.setattr(settings, "method_sheet", lambda method: sheet)
    with pytest.raises(ErcBenchError, match=r"eacl.yaml, variants.no-angle: .*mapping of settings"):
        variants("eacl")


def test_variant_all_is_the_whole_method_and_its_applicable_variants(capsys) -> None:
    wanted = experiments(
        method=["eacl", "speaker-mtl"], dataset=["meld"], preset="small", variant=["all"]
    )
    assert [(e.method, e.variant) for e in wanted] == [
        ("eacl", ""),
        *(("eacl", name) for name in variants("eacl")),
        *(("speaker-mtl", name) for name in ("", "no-si", "no-bridge")),
    ]
    assert "no-extra-corpus: left out" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ErcBenchError, match="lora-lm has no variants"):
        experiments(method=["lora-lm"], dataset=["meld"], variant=["all"])


def test_the_printed_configuration_names_the_variant(capsys) -> None:
    words = ["config", "--method", "eacl", "--dataset", "meld", "--variant", "no-stage2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "variant: no-stage2" in out
    assert "stage2_epochs: 0" in out


# --- models and losses


@pytest.fixture
def built(encoder_for, small_demo):
    """A function that makes an experiment, its prepared method or variant, and its data."""

    def made(method: str, variant: str = ""):
        given = [f"encoder={encoder_for(method)}", *QUICK]
        experiment = resolve(method, "demo", preset="smoke", overrides=given, variant=variant)
        seed_everything(3, verbose=False)
        model = method_class(method)(experiment.config, small_demo.labels)
        data = ErcDataModule(small_demo, model, seed=3)
        prepare(model, data)
        return experiment, model, data

    return made


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(m, n, marks=pytest.mark.slow if m == "sacl-lstm" else ())
        for m, n in EVERY
        if variants(m)[n].paired
    ],
)
def test_variants_with_paired_seeds_share_weights_and_batches(
    built, method: str, name: str
) -> None:
    (_, whole, of_whole), (_, without, of_without) = built(method), built(method, name)
    states = whole.state_dict(), without.state_dict()
    shared = states[0].keys() & states[1].keys()
    assert {n for n, _ in without.named_parameters()} <= shared
    for key in shared:
        assert torch.equal(states[0][key], states[1][key]), key
    for epoch in range(2):
        batches = []
        for data, model in ((of_whole, whole), (of_without, without)):
            examples = model.epoch_examples(data, epoch)
            loader = data.train_dataloader() if examples is None else None
            batches.append(examples if loader is None else np.concatenate(list(loader.sampler)))
        assert np.array_equal(*batches)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), EVERY)
def test_every_variant_trains_and_its_record_names_it(
    built, method: str, name: str, tmp_path: Path
) -> None:
    experiment, model, data = built(method, name)
    trained = train(model, data, tmp_path)
    record = make_record(
        experiment,
        trained,
        Identity(data.corpus.digest, "tiny", "0" * 64),
        predictions={split: trained.predict(split) for split in ("dev", "test")},
        model=("model.ckpt", "0" * 64),
        plugin=plugin(method),
        wall_seconds=1.0,
    )
    assert record.variant == name
    assert record.config_hash == experiment.hash
    assert 0 <= record.metrics.test.weighted_f1 <= 100


def test_without_contrast_eacl_learns_its_anchors_by_cross_entropy() -> None:
    from erc_bench.methods.eacl import eacl_loss

    torch.manual_seed(0)
    z, anchors, labels = torch.randn(6, 8), torch.randn(3, 8), torch.tensor([0, 1, 2, 0, 1, 1])
    logits = torch.randn(6, 3)
    weights = {"temperature": 0.1, "ce_weight": 0.0, "angle_weight": 0.0}
    parts = eacl_loss(z, logits, labels, anchors, **weights, contrast=False)
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (z, anchors)]
    cosines = unit[0] @ unit[1].T
    # EACL's similarity is (1 + cos) / 2.
    wanted = torch.nn.functional.cross_entropy((1 + cosines) / 2 / 0.1, labels)
    assert torch.allclose(parts["loss"], wanted, atol=1e-5)


def test_without_prototypes_spcl_compares_the_batch_alone() -> None:
    from erc_bench.methods.spcl import spcl_loss

    torch.manual_seed(0)
    h = torch.randn(7, 8, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    unit, terms = torch.nn.functional.normalize(h, dim=1), []
    for i in range(7):
        alike = {j: ((1 + unit[i] @ unit[j]) / 2 / 0.5).exp() for j in range(7) if j != i}
        own = [alike[j] for j in alike if labels[j] == labels[i]]
        terms.append(-torch.log(sum(own) / sum(alike.values()) / len(own)))
    wanted = torch.stack([term for term in terms if term > 0.3]).mean()
    loss = spcl_loss(h, labels, torch.empty(0, 8), 0.5)
    torch.testing.assert_close(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, h, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, h)[0])


def test_the_adversarial_pass_without_context_moves_the_vectors_alone(monkeypatch) -> None:
    """They move by ε along the gradient of the clean loss, as one matrix. The weights stay."""
    from erc_bench.corpus.conversation import LabelSet
    from erc_bench.method.ragged import Ragged
    from erc_bench.methods.sacl_lstm import SACLLSTM, SACLConfig, sequences
    from erc_bench.vectors import method as on_vectors

    monkeypatch.setattr(on_vectors, "vector_size", lambda *_: 5)
    torch.manual_seed(0)
    config = SACLConfig(attack="vectors", epsilon=0.7, hidden_size=4, dropout=0.0)
    method = SACLLSTM(config, LabelSet(("joy", "anger", "neutral")))
    method.features = torch.randn(6, 5)
    turns = sequences(Ragged(np.arange(6), np.array([0, 4, 6])))
    everything = torch.arange(6)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = {"turns": everything, "targets": everything, "situation": turns, "speaker": turns}
    batch["labels"] = labels
    read = []
    forward = method.network.forward
    monkeypatch.setattr(
        method.network, "forward", lambda v, *a: read.append(v.detach().clone()) or forward(v, *a)
    )
    weights = {name: p.detach().clone() for name, p in method.named_parameters()}
    monkeypatch.setattr(method, "log_dict", lambda *_, **__: None)
    monkeypatch.setattr(method, "manual_backward", torch.Tensor.backward)
    monkeypatch.setattr(
        SACLLSTM, "trainer", type("Trainer", (), {"is_last_batch": False}), raising=False
    )
    method.training_step(batch, 0)
    clean, adversarial = read
    assert torch.equal(clean, method.features)
    assert torch.linalg.vector_norm(adversarial - clean).item() == pytest.approx(0.7, rel=1e-5)
    vectors = clean.clone().requires_grad_()
    hidden = forward(vectors, turns, turns)
    parts = method.loss((hidden, method.network.log_probs(hidden)), batch)
    (gradient,) = torch.autograd.grad(parts["loss"], vectors)
    moved = (adversarial - clean) / 0.7
    assert torch.allclose(moved, gradient / gradient.norm(), atol=1e-5)
    for name, parameter in method.named_parameters():
        assert torch.equal(parameter, weights[name])


# --- how they compare


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a method, of three variants of it, of another preset, and of the control."""
    folder = tmp_path_factory.mktemp("variants")
    methods = [
        Method("eacl", 0.5, (1, 2, 3)),
        Method("eacl", -0.5, (1, 2, 3), changes={"variant": "no-angle"}),
        Method("eacl", 0.4, (2, 3, 4), changes={"variant": "no-contrastive", "context": "past"}),
        Method("eacl", 0.0, (1,), changes={"variant": "no-stage2", "attempt": "x"}),
        Method("eacl", 0.5, (1, 2), preset="small"),
        Method("finetune", 0.2, (1, 2)),
    ]
    write_records(folder, methods, ["meld"], 60)
    return folder


def test_ablations_compare_each_variant_with_the_whole(root: Path) -> None:
    (found,), left_out = ablations_of(root, "eacl", "meld")
    assert left_out == []
    assert [row.name for row in found.variants] == list(variants("eacl"))
    assert found.seeds == [1, 2, 3]
    runs, _ = read_runs(root, Cache(root))

    def scores(variant: str):
        mine = [r for r in runs if (r.method, r.preset, r.variant) == ("eacl", "paper", variant)]
        mine.sort(key=lambda r: r.seed)
        predictions, seeds = [r.predicted for r in mine], [r.seed for r in mine]
        return resampled_scores(mine[0].gold, predictions, mine[0].dialogue, 7, seeds)

    whole = scores("")
    by_hand = {
        "no-angle": compare(scores("no-angle"), whole, paired_seeds=True),
        "no-contrastive": compare(scores("no-contrastive"), whole, paired_seeds=True),
        "no-stage2": compare(scores("no-stage2"), whole),
    }
    corrected = holm([by_hand[row.name].p for row in found.variants])
    for row, p in zip(found.variants, corrected, strict=True):
        assert row.difference == pytest.approx(by_hand[row.name].difference)
        assert row.p_holm == pytest.approx(p)
    paired = {row.name: row.paired_seeds for row in found.variants}
    # Seeds are not paired if only one is in common.
    assert paired == {"no-angle": [1, 2, 3], "no-contrastive": [2, 3], "no-stage2": []}


def test_a_change_of_the_variants_reaches_pairs_of_an_earlier_leaderboard(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether seeds are paired depends on the method's YAML file, which is no record."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)

    def p_values() -> list[float]:
        tracks = read_board(tmp_path).corpora[0].tracks
        return [pair.p for track in tracks for pair in track.pairs]

    paired = p_values()
    independent = {name: replace(v, paired=False) for name, v in variants("eacl").items()}
    monkeypatch.setattr(
        "erc_bench.leaderboard.ablations.variants",
        lambda method: independent if method == "eacl" else variants(method),
    )
    changed = p_values()
    assert changed != paired
    shutil.rmtree(tmp_path / ".cache")
    assert p_values() == changed


def test_variants_that_leave_out_a_further_corpus_belong_to_the_whole_method(
    tmp_path: Path,
) -> None:
    """``no-si`` shares its initial weights, but its batches lack the further dialogues."""
    given = EXTRA["speaker-mtl", "no-extra-corpus"]
    names = ["", "no-si", "no-bridge", "no-extra-corpus"]
    made = [resolve("speaker-mtl", "meld", overrides=given, variant=name) for name in names]
    further = [{"demo": "d" * 64}, None, {"demo": "d" * 64}, None]
    methods = [
        Method(
            "speaker-mtl",
            0.1 * n,
            changes={
                "variant": each.variant,
                "overrides": list(each.overrides),
                "config_hash": each.hash,
                "further_corpora": corpora,
                f"number{n}": n,
            },
        )
        for n, (each, corpora) in enumerate(zip(made, further, strict=True))
    ]
    plain = resolve("speaker-mtl", "meld")  # no-extra-corpus leaves out nothing of it
    methods.append(Method("speaker-mtl", 0.5, changes={"config_hash": plain.hash, "attempt": "x"}))
    write_records(tmp_path, methods, ["meld"], 30)
    (found,), left_out = ablations_of(tmp_path, "speaker-mtl", "meld")
    assert left_out == []
    paired = {row.name: bool(row.paired_seeds) for row in found.variants}
    assert paired == {"no-si": False, "no-bridge": True, "no-extra-corpus": False}


def test_a_variant_whose_seeds_read_the_same_encoders_is_paired(tmp_path: Path) -> None:
    """This holds even if it starts from other weights than the whole method."""
    encoder = {"name": "e", "digest": "e"}
    write_records(
        tmp_path,
        [
            Method("sacl-lstm", ability, (seed,), changes=extra | {"encoder": encoder | vectors})
            for seed, vectors in ((1, {"vectors": "v"}), (2, {"vectors": "w"}))
            for ability, extra in ((0.5, {}), (0.3, {"variant": "no-speaker-lstm"}))
        ],
        ["meld"],
        30,
    )
    (found,), _ = ablations_of(tmp_path, "sacl-lstm", "meld")
    assert not variants("sacl-lstm")["no-speaker-lstm"].paired
    assert [row.paired_seeds for row in found.variants] == [[1, 2]]


def test_variants_are_not_ranked_and_have_their_own_table(root: Path) -> None:
    (meld,) = (corpus for corpus in read_board(root).corpora if corpus.name == "meld")
    rows = [row for track in meld.tracks for row in track.rows]
    assert {row.variant for row in rows if row.unranked == "a variant"} == set(variants("eacl"))
    assert [a.method for a in meld.ablations] == ["eacl"]
    assert [a.method for a in read_board(root).corpora[0].ablations] == ["eacl"]  # from the cache
    build(root)
    for name in ("README.md", "index.html"):
        text = (root / name).read_text()
        assert "Parts of " in text
        assert "the whole method" in text
        assert "no-contrastive" in text


def test_the_command_prints_differences_and_whether_seeds_are_paired(
    root: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    where = ["--leaderboard-dir", str(root)]
    assert main(["ablations", "--method", "eacl", "--dataset", "meld", *where]) == 0
    printed = capsys.readouterr().out
    row = r"│ no-contrastive +│ 81.+ │ +3 │ +[+−]\d\.\d\d \([+−].+ to [+−].+\) │ .+ │\n"
    assert re.search(row, printed), printed  # on one line
    out = " ".join(printed.split())
    assert "no-angle: paired over dialogues and over seeds 1, 2, 3" in out
    assert "no-stage2: paired over dialogues; seeds are independent samples. With one seed" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "eacle", "--dataset", "meld"], "Did you mean 'eacl'?"),
        (["--method", "eacl", "--dataset", "meld", "--preset", "small"], "--variant all"),
        (["--method", "lora-lm", "--dataset", "meld"], "has no variants"),
        (["--method", "spcl", "--dataset", "mled"], "Did you mean 'meld'?"),
    ],
)
def test_mistakes_in_the_ablations_command_are_errors(
    words: list[str], said: str, root: Path, capsys
) -> None:
    assert main(["ablations", *words, "--leaderboard-dir", str(root)]) == 2
    assert said in capsys.readouterr().err


def test_a_comparison_without_a_variant_means_the_whole_method(root: Path) -> None:
    whole = compare_methods(root, "eacl:paper", "finetune", "meld")
    assert compare_methods(root, "eacl", "finetune", "meld", preset="paper").result == whole.result
    without = compare_methods(root, "eacl:no-angle", "finetune", "meld")
    assert "no-angle" in without.a.configuration
    assert without.result.difference < whole.result.difference
    with pytest.raises(ErcBenchError, match="Did you mean 'no-angle'"):
        compare_methods(root, "eacl:no-angel", "finetune", "meld")


def test_a_variant_and_a_run_with_the_same_settings_are_two_runs(tmp_path: Path) -> None:
    seen = Identity("corpus", "encoder", "weights")
    named = resolve("eacl", "meld", variant="no-angle")
    given = resolve("eacl", "meld", overrides=["angle_weight=0.0"])
    assert named.hash == given.hash
    assert Place.of(tmp_path, named, seen).run == Place.of(tmp_path, given, seen).run.replace(
        "-seed", "-no-angle-seed"
    )


def test_a_variant_with_tuned_settings_belongs_to_the_tuned_method(tmp_path: Path) -> None:
    """Such a variant has the settings that the search drew, without those that it sets itself."""
    search = {"trials": 8, "sampler": "random", "sampler_seed": 0, "space": {}}
    search |= {"chosen": 1, "digest": "ab" * 32}
    drawn = ["angle_weight=0.2", "lr=0.001"]
    write_records(
        tmp_path,
        [
            Method("eacl", 0.5, (1, 2), changes={"tuned": search, "overrides": drawn}),
            Method("eacl", 0.1, (1, 2), changes={"variant": "no-angle", "overrides": drawn[1:]}),
            Method("eacl", 0.1, (1, 2)),
        ],
        ["meld"],
        30,
    )
    (found,), _ = ablations_of(tmp_path, "eacl", "meld")
    assert found.overrides == drawn
    assert [row.name for row in found.variants] == ["no-angle"]


def test_another_method_of_the_same_name_has_no_variants(root: Path, tmp_path: Path) -> None:
    write_records(tmp_path, [Method("elsewhere", 0.5, (1, 2))], ["meld"], 20)
    with pytest.raises(ErcBenchError, match="elsewhere has no variants"):
        ablations_of(tmp_path, "elsewhere", "meld")
