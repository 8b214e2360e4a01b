"""SACL-LSTM against its reference figures, its packed LSTMs, and its two backward passes."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from conftest import golden_file
from cosmic_layout import write_cosmic
from fitting import PowerCut, built, fitted, last_state
from torch import Tensor, nn
from torch.nn import functional as F

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.execution import run as runner
from erc_bench.method.config import is_added_later
from erc_bench.method.data import ErcDataModule
from erc_bench.method.ragged import Ragged, take
from erc_bench.methods.sacl_lstm import (
    SACLLSTM,
    DualLSTM,
    SACLConfig,
    adversarial_backward,
    focal_loss,
    nt_xent,
    sacl_loss,
    sequences,
    speaker_turns,
)
from erc_bench.settings.experiment import resolve
from erc_bench.training.train import prepare, train
from erc_bench.vectors import FeatureConfig

SIZE = 8
CASES = ("meld_like", "iemocap_like", "speakers_only")


# --- the reference figures ---


class Case:
    """One case of the reference figures, with its network."""

    def __init__(self, name: str) -> None:
        self.figures = np.load(golden_file("sacl_lstm.npz"), allow_pickle=False)
        self.name = name
        lengths = self.array("lengths")
        dialogues = np.repeat(np.arange(len(lengths)), lengths)
        places = np.concatenate([np.arange(n) for n in lengths])
        self.features = torch.from_numpy(self.array("features")[places, dialogues])
        turns = np.arange(len(places))
        whole = Ragged(turns, np.concatenate([[0], np.cumsum(lengths)]))
        speakers = self.array("speaker_onehot")[places, dialogues].argmax(axis=1)
        own = speaker_turns(turns, dialogues, speakers)
        longest = int(lengths.max())
        self.situation = sequences(whole, longest, len(turns))
        self.speaker = sequences(own, longest, len(turns))
        self.labels = self["labels"]
        weights = {self.ours(k): v for k, v in self.all("param/").items()}
        hidden = weights["situation.weight_hh_l0"].shape[1]
        layers = 2 if "situation.weight_ih_l1" in weights else 1
        classes = len(weights["head.2.bias"])
        self.network = DualLSTM(self.features.shape[1], classes, hidden, layers)
        self.network.load_state_dict(weights)

    def array(self, key: str) -> np.ndarray:
        return np.asarray(self.figures[f"{self.name}/{key}"])

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.array(key))

    def all(self, prefix: str) -> dict[str, Tensor]:
        start = f"{self.name}/{prefix}"
        keys = [k for k in self.figures.files if k.startswith(start)]
        return {k[len(start) :]: torch.from_numpy(np.asarray(self.figures[k])) for k in keys}

    @staticmethod
    def ours(name: str) -> str:
        """Our name for a parameter of the authors' network."""
        name = name.replace("cognition_net.smax_fc.", "head.2.")
        return name.replace("rnn_parties.", "speaker.").replace("rnn.", "situation.")

    def loss(self, weight: str) -> dict[str, Tensor]:
        hidden = self.network(self.features, self.situation, self.speaker)
        weights = self["class_weights"].float()
        classes = self.network.head[2].out_features
        return sacl_loss(
            hidden,
            self.network.log_probs(hidden),
            self.labels,
            gamma=self["gamma"].item(),
            class_weights=weights if len(weights) else torch.ones(classes),
            temperature=self["temperature"].item(),
            contrastive_weight=self[weight].item(),
            contrast_on="hidden" if self["contrast_on_hidden"] else "log_probs",
        )

    def compare_gradients(self, kind: str) -> None:
        parameters = dict(self.network.named_parameters())
        expected = self.all(f"out/{kind}/")
        assert len(expected) == len(parameters)
        for name, value in expected.items():
            close(parameters[self.ours(name)].grad, value)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6, check_dtype=False)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_losses_are_the_authors(name: str) -> None:
    case = Case(name)
    hidden = case.network(case.features, case.situation, case.speaker)
    close(hidden, case["out/hidden"])
    close(case.network.log_probs(hidden), case["out/log_prob"])
    parts = case.loss("contrastive_weight")
    close(parts["focal"], case["out/focal_sum"])
    close(parts["contrastive"], case["out/ntxent"])
    close(parts["loss"], case["out/clean_loss"])


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_both_passes_are_the_authors(name: str) -> None:
    case = Case(name)
    case.loss("contrastive_weight")["loss"].backward()
    case.compare_gradients("clean_grad")

    case = Case(name)
    before = {k: v.clone() for k, v in case.network.state_dict().items()}
    attacked = {case.ours(str(k)) for k in case.array("perturbed_parameters")}
    lstms = {k.partition(".")[0] for k in attacked}
    layer = "last" if name == "iemocap_like" else "first"
    moved = [p for lstm in lstms for p in case.network.input_parameters(lstm, layer)]
    named = dict(case.network.named_parameters())
    assert {id(named[k]) for k in attacked} == {id(p) for p in moved}
    losses = []

    def adversarial() -> Tensor:
        losses.append(case.loss("adversarial_contrastive_weight")["loss"])
        return losses[-1]

    adversarial_backward(
        case.loss("contrastive_weight")["loss"],
        adversarial,
        moved,
        [p for k, p in named.items() if k not in attacked],
        case["epsilon"].item(),
    )
    close(losses[0], case["out/adversarial_loss"])
    case.compare_gradients("final_grad")
    assert all(torch.equal(before[k], v) for k, v in case.network.state_dict().items())


def test_the_attack_follows_the_gradient_of_its_own_batch() -> None:
    network = nn.Linear(2, 1)
    weight, bias = network.weight, network.bias
    start = weight.detach().clone()
    weight.grad = torch.tensor([[100.0, 0.0]])  # of an earlier batch of the same step
    seen = []

    def adversarial() -> Tensor:
        seen.append(weight.detach() - start)
        return network(torch.ones(1, 2)).sum()

    clean = network(torch.tensor([[3.0, 4.0]])).sum()
    adversarial_backward(clean, adversarial, [weight], [bias], 5.0)
    close(seen[0], torch.tensor([[3.0, 4.0]]))
    close(weight.grad, torch.tensor([[103.0, 4.0]]))
    close(bias.grad, torch.tensor([2.0]))
    assert torch.equal(weight, start)


def test_parameters_return_when_the_adversarial_pass_fails() -> None:
    network = nn.Linear(2, 1)
    before = network.weight.detach().clone()

    def adversarial() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        adversarial_backward(
            network(torch.ones(1, 2)).sum(), adversarial, [network.weight], [network.bias], 1.0
        )
    assert torch.equal(network.weight, before)


# --- losses ---


def test_nt_xent_is_the_mean_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator)
    labels = torch.randint(0, 3, (12,), generator=generator)
    unit = F.normalize(x, dim=1)
    terms = []
    for i in range(12):
        for j in range(12):
            if i != j and labels[i] == labels[j]:
                own = torch.exp(unit[i] @ unit[j] / 0.1)
                others = torch.exp(unit[labels != labels[i]] @ unit[i] / 0.1).sum()
                terms.append(-torch.log(own / (own + others)))
    close(nt_xent(x, labels, 0.1), torch.stack(terms).mean())


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [2]])
def test_nt_xent_without_pairs_or_others_is_zero(labels: list[int]) -> None:
    x = torch.randn(len(labels), 4, requires_grad=True)
    loss = nt_xent(x, torch.tensor(labels), 0.1)
    loss.backward()
    assert loss == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_focal_loss_is_a_weighted_sum_and_its_factor_has_no_gradient() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, alpha = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([1.0, 2.0, 0.5])
    p = logits.softmax(dim=1)[range(6), labels].detach()
    plain = F.cross_entropy(logits, labels, reduction="none")
    expected = ((1 - p) ** 2 * alpha[labels] * plain).sum()
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = focal_loss(logits.log_softmax(dim=1), labels, 2.0, alpha)
    close(loss, expected)
    close(torch.autograd.grad(loss, logits)[0], wanted)
    close(focal_loss(logits.log_softmax(dim=1), labels, 0.0, torch.ones(3)), plain.sum())


# --- sequences ---


def test_sequences_are_packed_longest_first() -> None:
    packed = sequences(Ragged(np.array([0, 1, 2, 3, 4, 5]), np.array([0, 2, 3, 6])))
    assert packed.data.tolist() == [3, 0, 2, 4, 1, 5]
    assert packed.batch_sizes.tolist() == [3, 2, 1]
    padded = sequences(Ragged(np.array([0, 1, 2]), np.array([0, 2, 3])), pad_to=3, pad=9)
    assert padded.data.tolist() == [0, 2, 1, 9, 9, 9]
    assert padded.batch_sizes.tolist() == [2, 2, 2]


def test_speakers_with_one_utterance_have_no_sequence() -> None:
    dialogues = np.array([0, 0, 0, 0, 1, 1, 2])
    speakers = np.array([0, 1, 0, 2, 0, 0, 1])
    own = speaker_turns(np.arange(7), dialogues, speakers)
    assert [own.values[own.row_of_value == i].tolist() for i in range(len(own))] == [[0, 2], [4, 5]]


def test_both_lstms_equal_loops_over_dialogues_and_speakers() -> None:
    torch.manual_seed(0)
    network = DualLSTM(SIZE, 7, 5, layers=2).eval()
    lengths, speakers = [4, 1, 6], [[0, 1, 0, 2], [0], [1, 1, 0, 1, 0, 2]]
    vectors = torch.randn(11, SIZE)
    expected = []
    for start, names in zip([0, 4, 5], speakers, strict=True):
        own = vectors[start : start + len(names)]
        situation = network.situation(own[:, None])[0][:, 0]
        speaker = torch.zeros_like(situation)
        for name in set(names):
            turns = [i for i, n in enumerate(names) if n == name]
            if len(turns) > 1:
                speaker[turns] = network.speaker(own[turns][:, None])[0][:, 0]
        expected.append(torch.cat([situation, speaker], dim=1))
    dialogues = np.repeat(np.arange(3), lengths)
    whole = Ragged(np.arange(11), np.concatenate([[0], np.cumsum(lengths)]))
    own_turns = speaker_turns(np.arange(11), dialogues, np.concatenate(speakers))
    ours = network(vectors, sequences(whole), sequences(own_turns))
    close(ours, torch.cat(expected))


# --- the method ---


@pytest.fixture(scope="module")
def vectors(small_demo, tmp_path_factory):
    """A file of utterance vectors of the small demo corpus."""
    return write_cosmic(small_demo, tmp_path_factory.mktemp("vectors") / "demo.pkl", SIZE)


@pytest.fixture
def config(vectors) -> SACLConfig:
    return SACLConfig(
        encoder="",
        features=FeatureConfig(path=str(vectors), size=SIZE),
        epochs=3,
        batch_size=4,
        hidden_size=16,
        lr=5e-3,
        epsilon=1.0,
    )


def scores_by_row(method: SACLLSTM, datamodule: ErcDataModule, numbers: list[int]) -> dict:
    """Scores of the targets of some test dialogues that are put into one batch."""
    columns = datamodule.columns["test"]
    batch = datamodule.batch({k: take(column, np.array(numbers)) for k, column in columns.items()})
    with torch.no_grad():
        scores = method.scores(method(batch), batch)
    return dict(zip(batch["rows"].tolist(), scores, strict=True))


def prepared(config: SACLConfig, corpus: Corpus) -> tuple[SACLLSTM, ErcDataModule]:
    method, datamodule = built(SACLLSTM, config, corpus)
    return method.eval(), datamodule


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(small_demo, config) -> None:
    differences = {}
    for pad_through in (False, True):
        chosen = replace(config, pad_through=pad_through)
        method, datamodule = prepared(chosen, small_demo)
        together = scores_by_row(method, datamodule, list(range(12)))
        alone = {k: v for d in range(12) for k, v in scores_by_row(method, datamodule, [d]).items()}
        assert alone.keys() == together.keys()
        differences[pad_through] = max((alone[k] - together[k]).abs().max() for k in alone)
    assert differences[False] < 1e-6
    assert differences[True] > 1e-3


def test_vectors_given_to_forward_replace_those_of_their_turns(small_demo, config) -> None:
    method, datamodule = prepared(config, small_demo)
    columns = datamodule.columns["train"]
    batch = datamodule.batch({k: take(v, np.array([2, 0, 5])) for k, v in columns.items()})
    turns = batch["turns"].flip(0)
    others = torch.rand_like(method.features[turns])
    with torch.no_grad():
        given = method(batch, (turns, others))
        method.features[turns] = others
        placed = method(batch)
    for ours, theirs in zip(given, placed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_reads_the_future(small_demo, config) -> None:
    method, datamodule = prepared(config, small_demo)
    first, following = datamodule.columns["test"]["first_row"][:2].tolist()
    before = scores_by_row(method, datamodule, [0])[first]
    method.features[following - 1] += 1
    assert not torch.equal(before, scores_by_row(method, datamodule, [0])[first])


@pytest.mark.slow
def test_it_learns_and_predicts_every_labelled_utterance(small_demo, config, tmp_path) -> None:
    trained = fitted(SACLLSTM, replace(config, epochs=12), small_demo, tmp_path)
    losses = [epoch["train/loss"] for epoch in trained.log.curves]
    assert losses[-1] < losses[0] / 2
    predicted = trained.predict("test")
    gold = trained.data.gold[predicted.rows]
    assert torch.equal(predicted.classes, predicted.probabilities.argmax(dim=1))
    correct = (predicted.classes == gold).float().mean()
    assert correct > gold.bincount().max() / len(gold) + 0.2


def test_predictions_for_earlier_dialogues_stay_the_same_after_others(
    small_demo, config, tmp_path
) -> None:
    trained = fitted(SACLLSTM, replace(config, epochs=1), small_demo, tmp_path)
    method = trained.method
    before = trained.predict("test").probabilities
    others = Corpus.build("other", small_demo.labels, {"test": small_demo.dialogues("dev")})
    of_others = ErcDataModule(others, method)
    prepare(method, of_others)
    assert len(method.features) == len(of_others.ids)
    assert torch.equal(before, trained.predict("test").probabilities)


@pytest.mark.slow
def test_the_same_seed_repeats_and_another_attack_differs(small_demo, config, tmp_path) -> None:
    runs = [
        fitted(SACLLSTM, replace(config, **changed), small_demo, tmp_path / str(number))
        for number, changed in enumerate([{}, {}, {"epsilon": 2.0}, {"at_rate": 0.0}])
    ]
    assert runs[0].log.curves == runs[1].log.curves
    assert len({str(run.log.curves) for run in runs}) == 3


@pytest.mark.parametrize(
    ("rates", "lstms"),
    [
        ((1, 1, 0), ["situation"]),
        ((1, 0, 1), ["speaker"]),
        ((1, 0, 0), ["situation", "speaker"]),
        ((0, 0, 0), []),
    ],
)
def test_rates_choose_the_attacked_lstms(small_demo, config, rates, lstms) -> None:
    names = dict(zip(("at_rate", "situ_rate", "speaker_rate"), map(float, rates), strict=True))
    method, _ = prepared(replace(config, layers=2, at_layer="last", **names), small_demo)
    wanted = [p for lstm in lstms for p in method.network.input_parameters(lstm, "last")]
    assert [id(p) for p in method.attacked()] == [id(p) for p in wanted]
    if lstms:
        assert wanted[0] is getattr(method.network, lstms[0]).weight_ih_l1


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (4, 3), (20, 1)])
def test_the_last_batches_of_an_epoch_make_a_step(
    small_demo, config, tmp_path, accumulate, steps
) -> None:
    config = replace(config, epochs=2, accumulate=accumulate)
    trained = fitted(SACLLSTM, config, small_demo, tmp_path)
    assert trained.trainer.global_step == 2 * steps
    assert all(p.grad is None for p in trained.method.parameters())


def test_class_weights_are_the_inverse_frequencies_of_train(small_demo, config) -> None:
    gold = torch.tensor(
        [
            u.label
            for d in small_demo.dialogues("train")
            for u in d.utterances
            if u.label is not None
        ]
    )
    inverse = len(gold) / gold.bincount(minlength=7)
    for kind, expected in {
        "none": torch.ones(7), "inverse": inverse, "log_inverse": inverse.log()
    }.items():  # fmt: skip
        method, _ = prepared(replace(config, class_weights=kind), small_demo)
        close(method.class_weights, expected)


@pytest.mark.slow
def test_early_stopping_stops(small_demo, config, tmp_path) -> None:
    config = replace(config, epochs=40, patience=2, lr=5e-2)
    trained = fitted(SACLLSTM, config, small_demo, tmp_path)
    losses = [epoch["dev/loss"] for epoch in trained.log.curves]
    assert len(losses) < 40
    assert len(losses) - 1 - losses.index(min(losses)) == 2


def test_dev_is_read_once_for_its_scores_and_its_loss(small_demo, config, tmp_path) -> None:
    passes = []

    class Counting(SACLLSTM):
        def forward(self, batch, vectors=None):
            passes.append(self.training)
            return super().forward(batch, vectors)

    assert config.select_on == "loss"
    trained = fitted(Counting, replace(config, epochs=2), small_demo, tmp_path)
    method, data = trained.method.eval(), trained.data
    assert passes.count(False) == 2 * len(data.val_dataloader()[0])
    method.load_saved_state(last_state(tmp_path))
    with torch.no_grad():
        batches = list(data.evaluation_loader("dev"))
        losses = [method.loss(method(batch), batch)["loss"].item() for batch in batches]
    sizes = [len(batch["labels"]) for batch in batches]
    expected = np.average(losses, weights=sizes)
    assert trained.log.curves[-1]["dev/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_resumed_training_goes_on_with_the_vectors_it_began_with(
    small_demo, config, tmp_path, tiny_encoder
) -> None:
    made = FeatureConfig(epochs=1, max_batches=4, max_len=32, lr=3e-3)
    config = replace(config, encoder=tiny_encoder, features=made)
    whole = fitted(SACLLSTM, config, small_demo, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(SACLLSTM, config, small_demo, tmp_path / "cut", PowerCut(1))
    # As if changed code or another machine would now make other vectors.
    others = replace(config, features=replace(config.features, seed=7))
    resumed = fitted(SACLLSTM, others, small_demo, tmp_path / "cut")
    assert torch.equal(resumed.method.features, whole.method.features)
    assert resumed.log.curves == whole.log.curves
    anew = fitted(SACLLSTM, others, small_demo, tmp_path / "anew")
    assert not torch.equal(anew.method.features, whole.method.features)


@pytest.mark.slow
def test_a_resumed_run_leaves_the_same_record(demo, tmp_path, monkeypatch) -> None:
    path = write_cosmic(demo, tmp_path / "demo.pkl", SIZE)
    experiment = resolve(
        "sacl-lstm",
        "demo",
        overrides=[
            f"features.path={path}", f"features.size={SIZE}", "epochs=3", "hidden_size=8",
            "lr=1e-3", "at_rate=0.5", "accumulate=3", "max_batches=7", "layers=2",
            "situ_rate=0.3", "speaker_rate=0.3",
        ],
    )  # fmt: skip
    whole = runner.run(experiment, tmp_path / "whole").record

    def cut(*given, callbacks, **options):
        return train(*given, callbacks=[*callbacks, PowerCut(1)], **options)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "train", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            runner.run(experiment, tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("*.json"))
    resumed = runner.run(experiment, tmp_path / "cut").record
    assert resumed.predictions == whole.predictions
    assert resumed.metrics == whole.metrics
    assert resumed.training.curves == whole.training.curves
    assert whole.context == "full"
    assert whole.encoder.name == "demo.pkl"
    assert resumed.encoder == whole.encoder
    assert len(whole.encoder.vectors) == 64


LABELS = LabelSet(("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))


def talk(key: str, speakers: str, labels: str) -> Dialogue:
    """A dialogue with one letter per speaker and one digit per label; ``-`` means no label."""
    return Dialogue(
        key,
        tuple(
            Utterance(f"{key}-{i}", who, "Oh.", None if label == "-" else int(label))
            for i, (who, label) in enumerate(zip(speakers, labels, strict=True))
        ),
    )


def renamed(dialogue: Dialogue) -> Dialogue:
    """The same dialogue under other ids."""
    turns = tuple(replace(u, id=f"again-{u.id}") for u in dialogue.utterances)
    return Dialogue(f"again-{dialogue.id}", turns)


def test_odd_dialogues(tmp_path, config) -> None:
    odd = [
        talk("one", "A", "3"),
        talk("monologue", "AAAA", "3456"),
        talk("long", "AB" * 83 + "C", "-3" * 83 + "4"),
        talk("unlabelled", "ABA", "---"),
        talk("all-different", "ABCD", "3-4-"),
    ]
    plain = [talk(f"d{i}", "ABAB", "3434") for i in range(3)]
    splits = {"train": odd, "dev": plain, "test": [renamed(d) for d in odd]}
    corpus = Corpus.build("odd", LABELS, splits)
    path = write_cosmic(corpus, tmp_path / "odd.pkl", SIZE)
    config = replace(config, features=FeatureConfig(path=str(path), size=SIZE), batch_size=1)
    config = replace(config, class_weights="log_inverse", contrast_on="hidden")
    trained = fitted(SACLLSTM, config, corpus, tmp_path / "run")
    assert np.isfinite([epoch["train/loss"] for epoch in trained.log.curves]).all()
    predicted = trained.predict("test")
    assert len(predicted.rows) == 1 + 4 + 84 + 2
    assert torch.isfinite(predicted.probabilities).all()


def test_turns_without_a_vector_are_left_out_of_the_sequences(tmp_path, config) -> None:
    labelled, with_gaps = talk("d", "ABAB", "3434"), talk("d", "ABCCAB", "34--34")
    splits = {"train": [talk("t", "AB", "34")], "dev": [talk("v", "AB", "34")], "test": [labelled]}
    path = write_cosmic(Corpus.build("plain", LABELS, splits), tmp_path / "plain.pkl", SIZE)
    config = replace(config, features=FeatureConfig(path=str(path), size=SIZE))
    scores = []
    for dialogue in (labelled, with_gaps):
        corpus = Corpus.build("c", LABELS, {"test": [dialogue]})
        method, datamodule = prepared(config, corpus)
        scores.append(torch.stack(list(scores_by_row(method, datamodule, [0]).values())))
    close(scores[0], scores[1])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("at_rate=1.5", "share"),
        ("situ_rate=0.7 speaker_rate=0.7", "share"),
        ("precision=float16", "float16"),
        ("pad_through=true micro_batch=4", "a part of the batch at a time"),
        ("temperature=0", "temperature"),
        ("features.layer=5", "1 … 4"),
        ("features.lr=0", r"features\.lr=0"),
        ("features.epochs=-1", r"features\.epochs=-1"),
        ("features.epoch=5", "features.epochs"),
    ],
)
def test_invalid_settings_are_errors(setting: str, message: str) -> None:
    with pytest.raises(ErcBenchError, match=message):
        resolve("sacl-lstm", "demo", overrides=setting.split())


TABLE = {
    "gamma": (1, 1, 0),
    "class_weights": ("none", "log_inverse", "inverse"),
    "lr": (1e-4, 5e-5, 1e-4),
    "weight_decay": (2e-4, 2e-4, 2e-4),
    "batch_size": (16, 16, 2),
    "accumulate": (2, 2, 16),
    "epsilon": (5, 0.5, 5),
    "at_rate": (1, 0.1, 1),
    "situ_rate": (0, 0.9, 0),
    "speaker_rate": (0, 0, 0),
    "at_layer": ("first", "first", "last"),
    "temperature": (0.1, 0.1, 0.1),
    "contrastive_weight": (0.1, 0.05, 0.05),
    "adversarial_contrastive_weight": (0.05, 0.1, 0.5),
    "contrast_on": ("log_probs", "log_probs", "hidden"),
    "select_on": ("loss", "weighted_f1", "loss"),
    "patience": (20, 20, 20),
    "epochs": (100, 100, 100),
    "hidden_size": (128, 128, 128),
    "layers": (1, 1, 2),
    "dropout": (0.2, 0.2, 0.2),
    "gradient_clip": (0, 0, 0),
    "pad_through": (False, False, False),
    "encoder": ("FacebookAI/roberta-large",) * 3,
    "precision": ("float32",) * 3,
}
"""The paper's settings on MELD, EmoryNLP and IEMOCAP."""

OTHERS = {"emorynlp-reduced": "emorynlp", "iemocap-4": "iemocap"}


@pytest.mark.parametrize("preset", ["paper", "base", "small"])
@pytest.mark.parametrize("dataset", ["meld", "emorynlp", "iemocap", *OTHERS])
def test_every_corpus_has_the_papers_settings(dataset: str, preset: str) -> None:
    column = ("meld", "emorynlp", "iemocap").index(OTHERS.get(dataset, dataset))
    expected = {key: values[column] for key, values in TABLE.items()}
    config = resolve("sacl-lstm", dataset, preset=preset).config
    if preset != "paper":  # the other presets differ only in the encoder
        del expected["encoder"]
    assert {key: getattr(config, key) for key in expected} == expected
    # The dev loss has a part that depends on what else is in the batch.
    assert config.evaluation.batch_size == config.batch_size
    own = {each.name for each in fields(SACLConfig) if not is_added_later(each)}
    of_no_paper = {"features", "evaluation", "max_batches", "drop_last"}
    assert own - set(TABLE) == of_no_paper


def test_float16_is_never_chosen_for_the_lstms() -> None:
    assert resolve("sacl-lstm", "meld", overrides=["precision=auto"]).config.precision == "float32"
