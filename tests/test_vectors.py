"""Utterance vectors: made, cached, and read from pickles that may be hostile."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cosmic_layout import cosmic_parts, vectors_of, write_cosmic
from fitting import PowerCut

from erc_bench.corpus.conversation import (
    Corpus,
    Dialogue,
    LabelSet,
    Utterance,
    without_test_labels,
)
from erc_bench.encoders.loading import load_encoder, load_tokenizer
from erc_bench.errors import ErcBenchError
from erc_bench.files import cache_folder
from erc_bench.method.data import ErcDataModule
from erc_bench.methods.dag_erc import DAGERC, DAGERCConfig
from erc_bench.training.train import train
from erc_bench.vectors import (
    OF_A_FILE,
    FeatureConfig,
    Vectors,
    fine_tuning,
    utterance_vectors,
    vector_size,
    vectors_identity,
)
from erc_bench.vectors.cosmic import CosmicUnpickler, as_array, match, read_cosmic

SIZE = 8

# In the package, the name of this module is that of the function.
room = sys.modules["erc_bench.vectors.utterance_vectors"]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The folder of vectors in an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "erc-bench" / "vectors"


@pytest.fixture(scope="module")
def corpus(small_demo):
    """A handful of dialogues."""
    sizes = {"train": 12, "dev": 4, "test": 3}
    splits = {split: small_demo.dialogues(split)[:n] for split, n in sizes.items()}
    return Corpus.build("handful", small_demo.labels, splits)


@pytest.fixture(scope="module")
def plain(corpus) -> bytes:
    """The vectors of ``corpus`` in COSMIC's layout."""
    return pickle.dumps(cosmic_parts(corpus, SIZE))


def settings(**changed) -> FeatureConfig:
    values = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "precision": "float32"} | changed
    return FeatureConfig(**values)


def turns_of(corpus: Corpus) -> list[Utterance]:
    splits = [split for split in ("train", "dev", "test") if split in corpus.splits]
    return [u for split in splits for d in corpus.dialogues(split) for u in d.utterances]


# --- made here ---


def cls_state(folder: Path, text: str, max_len: int = 128) -> torch.Tensor:
    """The last state ``(d,)`` of a text's first token, by the encoder in a folder."""
    encoder, tokenizer = load_encoder(str(folder)).eval(), load_tokenizer(str(folder))
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_len)
        return encoder(inputs["input_ids"]).last_hidden_state[0, 0]


def assert_states_of(folder: Path, corpus: Corpus, made: Vectors) -> None:
    """Assert that some vectors of a corpus are the states of the encoder in a folder."""
    turns = turns_of(corpus)
    for row in (0, len(turns) // 2, len(turns) - 1):
        state = cls_state(folder, turns[row].text)
        torch.testing.assert_close(made.vectors[row], state, rtol=1e-4, atol=1e-5)


def test_vectors_are_cls_states_of_a_fine_tuned_encoder(corpus, tiny_encoder, own_cache) -> None:
    state = torch.random.get_rng_state()
    made = utterance_vectors(corpus, tiny_encoder, settings())
    assert torch.equal(state, torch.random.get_rng_state())
    assert made.vectors.shape == (len(turns_of(corpus)), 32)
    assert made.present.all()

    (folder,) = own_cache.glob("*/encoder")
    assert_states_of(folder, corpus, made)
    story = made.fine_tuning
    assert (story["precision"], story["threads"]) == ("32-true", torch.get_num_threads())
    assert story["seconds"] > 0
    before, after = load_encoder(tiny_encoder).state_dict(), load_encoder(str(folder)).state_dict()
    assert any(not torch.equal(before[k], v) for k, v in after.items())
    left = {path.name for path in folder.parent.iterdir()}
    assert left - {"lock"} == {"encoder", *(path.name for path in own_cache.rglob("*.npy"))}


def test_a_frozen_encoder_is_read_as_it_is_and_needs_no_train_split(
    corpus, tiny_encoder, own_cache, capsys
) -> None:
    frozen = settings(epochs=0)
    made = utterance_vectors(corpus, tiny_encoder, frozen)
    assert_states_of(Path(tiny_encoder), corpus, made)
    assert made.fine_tuning == {}
    new = new_dialogues(corpus)
    assert new.splits.keys() == {"test"}
    assert_states_of(Path(tiny_encoder), new, utterance_vectors(new, tiny_encoder, frozen))
    assert "Fine-tuning" not in capsys.readouterr().err
    assert not list(own_cache.glob("*/encoder"))
    # The settings of a fine-tuning do not matter for a frozen encoder.
    same = utterance_vectors(corpus, tiny_encoder, settings(epochs=0, lr=0.5, seed=9))
    assert same.key == made.key
    # The weights of a run hold the key of a frozen encoder, too.
    again = utterance_vectors(new, tiny_encoder, frozen, key=made.key)
    assert_states_of(Path(tiny_encoder), new, again)


def test_every_seed_may_fine_tune_an_encoder_of_its_own(corpus, tiny_encoder, own_cache) -> None:
    config = DAGERCConfig(encoder=tiny_encoder, features=settings(epochs=1, seed=3, per_seed=True))
    made = {}
    for seed in (1, 2):
        made[seed] = DAGERC(config, corpus.labels)
        made[seed].prepare(ErcDataModule(corpus, made[seed], seed=seed))
    given = utterance_vectors(corpus, tiny_encoder, settings(epochs=1, seed=3 + 2))
    assert torch.equal(made[2].features, given.vectors)
    assert bytes(made[2].encoder_key.tolist()) == given.key
    own = made[1].features
    assert not torch.equal(own, made[2].features)
    # Trained weights use their own encoder, whatever seed they are used with.
    made[1].prepare(ErcDataModule(corpus, made[1], seed=2))
    assert torch.equal(made[1].features, own)


@pytest.mark.parametrize("other", [{"epochs": 0}, {"path": "vectors.npz"}])
def test_per_seed_without_a_fine_tuning_is_an_error(other) -> None:
    with pytest.raises(ErcBenchError, match="per_seed=true every seed fine-tunes"):
        settings(per_seed=True, **other)


def test_vectors_are_made_once_for_all_seeds(corpus, tiny_encoder, own_cache, capsys) -> None:
    torch.manual_seed(1)
    made = utterance_vectors(corpus, tiny_encoder, settings())
    assert "Fine-tuning" in capsys.readouterr().err
    torch.manual_seed(2)
    other = utterance_vectors(corpus, tiny_encoder, settings())
    assert capsys.readouterr().err == ""
    assert torch.equal(made.vectors, other.vectors)
    assert made.key == other.key
    assert made.fine_tuning == other.fine_tuning

    # With an empty cache, the same vectors are made again.
    shutil.rmtree(own_cache)
    again = utterance_vectors(corpus, tiny_encoder, settings())
    assert torch.equal(made.vectors, again.vectors)


# --- dependencies of vectors


@pytest.fixture
def encoder(tiny_encoder, tmp_path) -> Path:
    """A copy of the tiny encoder that may be changed."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "tiny-bert"))


def change_weights(encoder: Path) -> None:
    network = load_encoder(str(encoder))
    with torch.no_grad():
        network.get_input_embeddings().weight *= 1.5
    network.save_pretrained(encoder)


def change_tokenizer(encoder: Path) -> None:
    """Two words exchange their ids."""
    file = encoder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["i"], words["you"] = words["you"], words["i"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def change_activation(encoder: Path) -> None:
    """The same weights in another network."""
    file = encoder / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"hidden_act": "relu"}),
        encoding="utf-8",
    )


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("change", [change_weights, change_tokenizer, change_activation])
def test_another_encoder_in_the_same_folder_makes_other_vectors(
    corpus, encoder, own_cache, change, epochs
) -> None:
    config = settings(epochs=epochs, max_batches=2)
    before = utterance_vectors(corpus, str(encoder), config)
    change(encoder)
    after = utterance_vectors(corpus, str(encoder), config)
    assert not torch.equal(before.vectors, after.vectors)
    assert before.key != after.key
    if not epochs:
        assert_states_of(encoder, corpus, after)


@pytest.mark.parametrize("epochs", [0, 1])
def test_another_text_makes_other_vectors(corpus, tiny_encoder, own_cache, epochs) -> None:
    config = settings(epochs=epochs, max_batches=2)
    before = utterance_vectors(corpus, tiny_encoder, config)
    splits = {split: corpus.dialogues(split) for split in corpus.splits}
    first, *others = splits["train"]
    changed = (replace(first.utterances[0], text="And now something else."), *first.utterances[1:])
    splits["train"] = [Dialogue(first.id, changed), *others]
    after = utterance_vectors(
        Corpus.build(corpus.name, corpus.labels, splits), tiny_encoder, config
    )
    assert not torch.equal(before.vectors[0], after.vectors[0])
    # A fine-tuned encoder becomes another one; a frozen one stays the same for the other turns.
    assert (before.key == after.key) == (epochs == 0)
    rest = before.vectors[len(first) :], after.vectors[len(first) :]
    assert torch.allclose(*rest, atol=1e-5) == (epochs == 0)


CHANGED = {
    "epochs": 3,
    "max_batches": 1,
    "batch_size": 8,
    "max_len": 4,
    "dropout": 0.5,
    "lr": 1e-2,
    "warmup": 0.5,
    "weight_decay": 0.5,
    "precision": "bfloat16",
    "seed": 3,
}
"""Another value of every setting that the vectors of an encoder depend on."""


def test_every_setting_is_either_of_a_file_or_changes_the_vectors() -> None:
    assert {*CHANGED, *OF_A_FILE, "per_seed"} == set(FeatureConfig.__dataclass_fields__)


@pytest.fixture(scope="module")
def unchanged(corpus, tiny_encoder) -> Vectors:
    return utterance_vectors(corpus, tiny_encoder, settings())


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_other_settings_make_other_vectors(corpus, tiny_encoder, unchanged, name) -> None:
    other = utterance_vectors(corpus, tiny_encoder, settings(**{name: CHANGED[name]}))
    assert other.key != unchanged.key
    assert not torch.equal(other.vectors, unchanged.vectors)


def test_max_len_changes_the_vectors_of_a_frozen_encoder(corpus, tiny_encoder, own_cache) -> None:
    long, short = (
        utterance_vectors(corpus, tiny_encoder, settings(epochs=0, max_len=n)) for n in (128, 4)
    )
    assert long.key != short.key
    turns = turns_of(corpus)
    state = cls_state(Path(tiny_encoder), turns[0].text, 4)
    torch.testing.assert_close(short.vectors[0], state, rtol=1e-4, atol=1e-5)
    assert not torch.equal(long.vectors[0], short.vectors[0])


def test_vectors_with_another_max_len_are_not_those_of_the_training(
    corpus, tiny_encoder, own_cache
) -> None:
    """The key names the fine-tuned encoder; ``max_len`` is that of the settings."""
    made = utterance_vectors(corpus, tiny_encoder, settings())
    short = utterance_vectors(corpus, tiny_encoder, settings(max_len=4), key=made.key)
    assert not torch.equal(short.vectors, made.vectors)
    again = utterance_vectors(corpus, tiny_encoder, settings(), key=made.key)
    assert torch.equal(again.vectors, made.vectors)


@pytest.mark.parametrize("epochs", [0, 1])
def test_vectors_are_made_anew_by_other_code(
    corpus, tiny_encoder, own_cache, monkeypatch, epochs
) -> None:
    config = settings(epochs=epochs, max_batches=2)
    before = utterance_vectors(corpus, tiny_encoder, config)
    calls = []
    extract = room.extract
    monkeypatch.setattr(room, "extract", lambda *given: calls.append(given) or extract(*given))
    utterance_vectors(corpus, tiny_encoder, config)
    assert not calls
    monkeypatch.setattr(room, "_code", lambda **given: ["another version"])
    after = utterance_vectors(corpus, tiny_encoder, config)
    assert after.key != before.key
    assert len(calls) == 1


def test_the_key_covers_all_code_that_makes_vectors() -> None:
    """That is the code for vectors of any encoder, and all code that a fine-tuning goes through."""
    package = Path(room.__file__).parents[1]

    def digests(*names: str) -> set[str]:
        files = [path for name in names for path in (package / name).rglob("*.py")]
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert {*digests("vectors", "encoders"), torch.__version__} <= set(room._code(fine_tuned=False))
    rooms = ("vectors", "encoders", "method", "training", "evaluation")
    assert digests(*rooms) <= set(room._code(fine_tuned=True))


# --- interruptions and damage


def test_damaged_vectors_are_made_anew(corpus, tiny_encoder, own_cache, capsys) -> None:
    made = utterance_vectors(corpus, tiny_encoder, settings())
    (file,) = own_cache.rglob("*.npy")
    for damage in (file.read_bytes()[:500], b"", b"nonsense"):
        file.write_bytes(damage)
        capsys.readouterr()
        again = utterance_vectors(corpus, tiny_encoder, settings())
        assert "Fine-tuning" not in capsys.readouterr().err
        assert torch.equal(made.vectors, again.vectors)


def test_an_interrupted_fine_tuning_leaves_nothing(corpus, tiny_encoder, own_cache) -> None:
    splits = {split: corpus.dialogues(split) for split in ("train", "test")}
    silent = Corpus.build("handful", corpus.labels, splits)
    with pytest.raises(KeyError):  # there is no dev split to select on
        utterance_vectors(silent, tiny_encoder, settings())
    (folder,) = own_cache.iterdir()
    assert {path.name for path in folder.iterdir()} <= {"lock"}


def interrupted(corpus: Corpus, encoder: str, config: FeatureConfig, epoch: int, monkeypatch):
    """Interrupt a fine-tuning in an epoch (counted from 0); return the folder that is left."""
    with monkeypatch.context() as patch:
        patch.setattr(
            fine_tuning, "train", lambda *given: train(*given, callbacks=[PowerCut(epoch)])
        )
        with pytest.raises(RuntimeError, match="power cut"):
            utterance_vectors(corpus, encoder, config)
    (folder,) = (cache_folder() / "vectors").iterdir()
    return folder


@pytest.mark.slow
def test_an_interrupted_fine_tuning_goes_on_to_the_same_encoder(
    corpus, tiny_encoder, tmp_path, monkeypatch, capsys
) -> None:
    config = settings(epochs=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    whole = utterance_vectors(corpus, tiny_encoder, config)
    for epoch in (0, 1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cut-{epoch}"))
        folder = interrupted(corpus, tiny_encoder, config, epoch, monkeypatch)
        assert (folder / "unfinished").exists() == (epoch > 0)
        capsys.readouterr()
        torch.rand(5)
        resumed = utterance_vectors(corpus, tiny_encoder, config)
        said = capsys.readouterr().err
        assert ("Resuming the" in said) == (epoch > 0)
        assert said.count("Epoch ") == 3 - epoch
        assert torch.equal(whole.vectors, resumed.vectors)
        assert not (folder / "unfinished").exists()


@pytest.mark.parametrize("damaged", ["last.ckpt", "best-*.ckpt"])
def test_a_damaged_fine_tuning_is_started_anew(
    corpus, tiny_encoder, own_cache, monkeypatch, capsys, damaged
) -> None:
    folder = interrupted(corpus, tiny_encoder, settings(), 1, monkeypatch)
    (checkpoint,) = (folder / "unfinished").glob(damaged)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    utterance_vectors(corpus, tiny_encoder, settings())
    said = capsys.readouterr().err
    assert "damaged" in said
    assert "Epoch 1/2" in said
    assert not (folder / "unfinished").exists()


class KilledError(Exception):
    """The process ends here."""


def killed(*given, **options):
    raise KilledError


@pytest.mark.parametrize(
    "when",
    [
        "the encoder is written",
        "the encoder gets its name",
        "the vectors are computed",
        "the vectors are written",
    ],
)
def test_a_kill_after_the_fine_tuning_loses_nothing(
    corpus, tiny_encoder, unchanged, own_cache, monkeypatch, capsys, when
) -> None:
    with monkeypatch.context() as patch:
        if when == "the encoder is written":
            kind = type(load_encoder(tiny_encoder))
            save = kind.save_pretrained

            def partly(self, folder, *given, **options):
                save(self, folder, *given, **options)
                (Path(folder) / "config.json").write_text("{", encoding="utf-8")
                raise KilledError

            patch.setattr(kind, "save_pretrained", partly)
        elif when == "the encoder gets its name":
            rename = Path.replace
            patch.setattr(
                Path,
                "replace",
                lambda path, to: killed() if path.name == "encoder" else rename(path, to),
            )
        elif when == "the vectors are computed":
            patch.setattr(room, "extract", killed)
        else:
            patch.setattr(np, "save", killed)
        with pytest.raises(KilledError):
            utterance_vectors(corpus, tiny_encoder, settings())
    capsys.readouterr()
    again = utterance_vectors(corpus, tiny_encoder, settings())
    assert "loss" not in capsys.readouterr().err  # no epoch is trained
    assert torch.equal(again.vectors, unchanged.vectors)
    assert again.fine_tuning.keys() == unchanged.fine_tuning.keys()
    (folder,) = own_cache.iterdir()
    left = {path.name for path in folder.iterdir()} - {"lock"}
    assert left == {"encoder", *(path.name for path in folder.glob("*.npy"))}


# --- vectors of other dialogues


def new_dialogues(corpus: Corpus, *, first: str = "I am furious about the soup!") -> Corpus:
    """Dialogues that no encoder was trained on, in a test split alone."""
    texts = (first, "Oh.", "Wow, I never expected that!")
    turns = tuple(Utterance(f"new-{i}", "AB"[i % 2], text, 0) for i, text in enumerate(texts))
    return Corpus.build("new", corpus.labels, {"test": [Dialogue("new", turns)]})


def test_new_dialogues_are_read_by_the_encoder_of_the_training(
    corpus, tiny_encoder, own_cache
) -> None:
    trained = utterance_vectors(corpus, tiny_encoder, settings())
    new = new_dialogues(corpus)
    with pytest.raises(ErcBenchError, match="no train split"):
        utterance_vectors(new, tiny_encoder, settings())

    found = utterance_vectors(new, tiny_encoder, settings(), key=trained.key)
    (folder,) = own_cache.rglob("encoder")
    expected = room.extract(folder, [u.text for u in turns_of(new)], 128)
    assert torch.equal(found.vectors, expected)
    assert found.key == trained.key

    shutil.rmtree(folder)
    other = new_dialogues(corpus, first="And now something else.")
    with pytest.raises(ErcBenchError, match=r"not in .*Copy that folder"):
        utterance_vectors(other, tiny_encoder, settings(), key=trained.key)


def test_another_corpus_with_a_train_split_is_read_by_that_encoder_too(
    corpus, demo, tiny_encoder, own_cache
) -> None:
    trained = utterance_vectors(corpus, tiny_encoder, settings())
    splits = {split: demo.dialogues(split)[30:33] for split in ("train", "dev", "test")}
    other = Corpus.build("else", demo.labels, splits)
    assert utterance_vectors(other, tiny_encoder, settings(), key=trained.key).key == trained.key
    assert len(list(own_cache.iterdir())) == 1


def test_a_cache_that_can_not_be_written_is_one_error(
    corpus, tiny_encoder, tmp_path, monkeypatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ErcBenchError, match="XDG_CACHE_HOME"):
        utterance_vectors(corpus, tiny_encoder, settings())
    assert cache_folder() == tmp_path / "file" / "erc-bench"


# --- pickles from elsewhere ---


def given(corpus: Corpus, path, **changed):
    config = FeatureConfig(path=str(path), size=SIZE, **changed)
    return match(read_cosmic(path), corpus, config.layer, config.size, path)


def expected_vectors(corpus: Corpus) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(list(vectors_of(corpus, SIZE).values())))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["list of arrays", "array", "list of lists", "fortran", "double"])
def test_vectors_come_back_from_every_protocol(corpus, plain, tmp_path, protocol, form) -> None:
    parts = pickle.loads(plain)
    change = {
        "list of arrays": list,
        "array": np.array,
        "list of lists": lambda rows: np.array(rows).tolist(),
        "fortran": lambda rows: np.asfortranarray(np.array(rows)),
        "double": lambda rows: np.array(rows, dtype=">f8"),
    }[form]
    parts[3] = {key: change(rows) for key, rows in parts[3].items()}
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps(parts, protocol=protocol))
    vectors, present = given(corpus, path)
    torch.testing.assert_close(vectors, expected_vectors(corpus), rtol=1e-6, atol=0)
    assert vectors.dtype == torch.float32
    assert present.all()


def test_pickles_of_python_2_and_of_older_numpys_are_read(corpus, tmp_path) -> None:
    path = tmp_path / "old.pkl"
    new = pickle.dumps(cosmic_parts(corpus, SIZE), protocol=2)
    assert b"numpy._core.multiarray" in new
    path.write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    torch.testing.assert_close(given(corpus, path)[0], expected_vectors(corpus))
    # As Python 2 wrote an array of two numbers: the bytes as a plain string.
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80\x3f\x00\x00\x00\xc0tb."
    )
    assert as_array(CosmicUnpickler(path.read_bytes(), path).load()).tolist() == [1, -2]


@pytest.mark.parametrize("ids", [list, set, frozenset, np.array])
@pytest.mark.parametrize("sentiments", [True, False])
def test_dialogues_with_other_ids_are_found_by_their_order(
    corpus, tmp_path, ids, sentiments
) -> None:
    parts = cosmic_parts(corpus, SIZE, sentiments)
    number = {key: n for n, key in enumerate(parts[0])}
    numbered = [{number[k]: v for k, v in part.items()} for part in parts[:-3]]
    of_splits = [ids([number[k] for k in part]) for part in parts[-3:]]
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps([*numbered, *of_splits]))
    assert torch.equal(given(corpus, path)[0], expected_vectors(corpus))


def test_the_layer_is_chosen(corpus, tmp_path) -> None:
    path = write_cosmic(corpus, tmp_path / "vectors.pkl", SIZE)
    assert given(corpus, path, layer=1)[0].any()
    assert not given(corpus, path, layer=4)[0].any()


def test_vectors_of_labelled_turns_alone(tmp_path) -> None:
    labels = LabelSet(("sad", "glad"))
    turns = [Utterance(f"u{i}", "A", "Hm.", None if i % 2 else 1) for i in range(5)]
    corpus = Corpus.build("gaps", labels, {"test": [Dialogue("d", tuple(turns))]})
    vectors = {"d": np.ones((3, SIZE))}
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps([{}, {}, vectors, {}, {}, {}, {}, [], ["d"], []]))
    found, present = given(corpus, path)
    assert present.tolist() == [True, False, True, False, True]
    assert found.sum(dim=1).tolist() == [SIZE, 0, SIZE, 0, SIZE]


def test_vectors_of_labelled_turns_are_found_while_the_labels_of_test_are_hidden(tmp_path) -> None:
    """A search and ``--no-test`` hide them. Nothing reads the vectors of test then."""
    labels = LabelSet(("sad", "glad"))

    def dialogue(split: str) -> Dialogue:
        return Dialogue(
            split,
            tuple(Utterance(f"{split}{i}", "A", "Hm.", None if i % 2 else 1) for i in range(5)),
        )

    splits = {split: [dialogue(split)] for split in ("train", "dev", "test")}
    corpus = Corpus.build("gaps", labels, splits)
    parts = cosmic_parts(corpus, SIZE)
    for part in parts[:-3]:
        part.update({key: values[::2] for key, values in part.items()})
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps(parts))
    whole, present = given(corpus, path)
    vectors, there = given(without_test_labels(corpus), path)
    assert there.tolist() == [*present[:10].tolist(), *[False] * 5]
    assert torch.equal(vectors[:10], whole[:10])
    assert not vectors[10:].any()


def with_sentences(corpus: Corpus, path, change) -> None:
    """Write a file with the vectors of a corpus and changed sentences."""
    parts = cosmic_parts(corpus, SIZE)
    parts[7] = {key: change(texts) for key, texts in parts[7].items()}
    path.write_bytes(pickle.dumps(parts))


@pytest.mark.parametrize(
    "change",
    [
        lambda texts: [f"  {t.upper()}\n" for t in texts],
        lambda texts: [t.replace("'", "\x92").replace("’", "\x92") for t in texts],
        lambda texts: [t.encode().decode("latin1") for t in texts],
        lambda texts: [f"[LAUGHTER] {t.encode().decode('latin1')}" for t in texts],
        lambda texts: [t.encode() for t in texts],
        lambda texts: [t.split() for t in texts],
        np.array,
        tuple,
    ],
)
def test_sentences_may_be_written_differently(corpus, tmp_path, change) -> None:
    path = tmp_path / "vectors.pkl"
    with_sentences(corpus, path, change)
    assert torch.equal(given(corpus, path)[0], expected_vectors(corpus))


def test_vectors_of_other_texts_are_refused_and_counted(corpus, tmp_path) -> None:
    path = tmp_path / "vectors.pkl"
    first, second = corpus.dialogues("train")[2:4]
    parts = cosmic_parts(corpus, SIZE)
    parts[7][first.id][1] = "Something else was said."
    parts[7][second.id] = parts[7][second.id][:-1]
    path.write_bytes(pickle.dumps(parts))
    with pytest.raises(ErcBenchError, match="other texts") as caught:
        given(corpus, path)
    turns = sum(len(d) for split in corpus.splits for d in corpus.dialogues(split))
    assert f"{1 + len(second)} of {turns} utterances" in str(caught.value)
    assert f"{first.utterances[1].id!r}" in str(caught.value)
    assert "'Something else was said.'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vectors_in_another_order_are_refused(corpus, tmp_path) -> None:
    """Two numbered dialogues of the same length are exchanged, which only their texts show."""
    path = tmp_path / "vectors.pkl"
    lengths = [len(d) for d in corpus.dialogues("train")]
    one, other = next(
        (i, j) for j in range(len(lengths)) for i in range(j) if lengths[i] == lengths[j]
    )
    parts = cosmic_parts(corpus, SIZE)
    number = {key: n for n, key in enumerate(parts[0])}
    numbered = [{number[k]: v for k, v in part.items()} for part in parts[:-3]]
    of_splits = [[number[k] for k in part] for part in parts[-3:]]
    train = of_splits[0]
    train[one], train[other] = train[other], train[one]
    path.write_bytes(pickle.dumps([*numbered, *of_splits]))
    with pytest.raises(ErcBenchError, match=r"\d+ of .* other texts"):
        given(corpus, path)


def broken(kind: str, parts: list) -> object:
    """Return the parts with one defect."""
    first = next(iter(parts[3]))
    if kind == "utterance missing":
        parts[3][first] = parts[3][first][1:]
    elif kind == "dialogue missing":
        del parts[3][first]
    elif kind == "other length":
        parts[3][first] = [row[:-1] for row in parts[3][first]]
    elif kind == "ragged":
        parts[3][first][0] = parts[3][first][0][:-1]
    elif kind == "words":
        parts[3][first] = ["happy"] * len(parts[3][first])
    elif kind == "nan":
        parts[3][first][0] = parts[3][first][0] * np.nan
    elif kind == "too few parts":
        return parts[:-2]
    elif kind == "no list":
        return {"vectors": parts}
    return parts


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("utterance missing", "vectors, the dialogue .* utterances"),
        ("dialogue missing", "does not fit handful"),
        ("other length", r"shape .* features\.size"),
        ("ragged", "no numbers"),
        ("words", "no numbers"),
        ("nan", "not all finite"),
        ("too few parts", "COSMIC's layout"),
        ("no list", "COSMIC's layout"),
    ],
)
def test_files_that_do_not_fit_are_one_error(corpus, tmp_path, kind, message) -> None:
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps(broken(kind, cosmic_parts(corpus, SIZE))))
    with pytest.raises(ErcBenchError, match=message) as caught:
        given(corpus, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_can_not_be_read_are_one_error(corpus, tmp_path) -> None:
    path = tmp_path / "vectors.pkl"
    with pytest.raises(ErcBenchError, match="can't be read"):
        read_cosmic(path)
    whole = pickle.dumps(cosmic_parts(corpus, SIZE))
    small = pickle.dumps(np.zeros((3, 2)), protocol=2)
    assert b"K\x03K\x02\x86" in small
    terabytes = small.replace(b"K\x03K\x02\x86", b"\x8a\x06\x00\x00\x00\x00\x00\x01K\x02\x86")
    for data in (whole[:1000], b"", b"label,text\n", terabytes):
        path.write_bytes(data)
        with pytest.raises(ErcBenchError, match=r"vectors\.pkl") as caught:
            read_cosmic(path)
        assert "\n" not in str(caught.value)


def test_identical_vectors_are_refused_and_zeros_are_reported(corpus, tmp_path, capsys) -> None:
    ids = [turn.id for turn in turns_of(corpus)]
    rows = np.random.default_rng(0).normal(size=(len(ids), SIZE))
    rows[2] = 0
    config = FeatureConfig(path=str(tmp_path / "vectors.npz"))
    np.savez(config.path, vectors=rows, ids=ids)
    made = utterance_vectors(corpus, "none", config).vectors
    assert torch.equal(made, torch.from_numpy(rows).float())
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of {len(ids)} vectors of {corpus.name} hold nothing but zeros" in said
    assert ids[2] in said
    for same in (0.0, 1.0):
        np.savez(config.path, vectors=np.full((len(ids), SIZE), same), ids=ids)
        with pytest.raises(ErcBenchError, match=r"vectors\.npz: .* are the same.*again"):
            utterance_vectors(corpus, "none", config)


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(target) -> dict:
    """Objects whose pickles would run code or build something other than plain data."""
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "posix.system": Reduced(os.system, f"touch {target}"),
        "subprocess.Popen": Reduced(subprocess.Popen, ["touch", str(target)]),
        "builtins.eval": Reduced(eval, code),
        "builtins.exec": Reduced(exec, code),
        "io.open": Reduced(open, str(target), "w"),
        "builtins.getattr": Reduced(getattr, "text", "upper"),
        "builtins.__import__": Reduced(__import__, "os"),
        "collections.OrderedDict": OrderedDict(a=1),
        "pathlib": target,
        "torch._utils._rebuild_tensor_v2": torch.ones(2),
        "numpy.ma": np.ma.masked_array([1, 2]),
        "LabelSet": LabelSet(("sad", "glad")),
    }


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", hostile("x"))
@pytest.mark.parametrize("inside", [True, False])
def test_hostile_pickles_are_refused_by_name(plain, tmp_path, protocol, name, inside) -> None:
    target, path = tmp_path / "ran", tmp_path / "vectors.pkl"
    payload = hostile(target)[name]
    parts = pickle.loads(plain)
    if inside:
        parts[3][next(iter(parts[3]))][0] = payload
    path.write_bytes(pickle.dumps(parts if inside else payload, protocol=protocol))
    with pytest.raises(ErcBenchError, match=r"is refused: it asks for \w+\."):
        read_cosmic(path)
    assert not target.exists()


def test_a_pickle_that_would_create_a_file_creates_none(corpus, tmp_path) -> None:
    target, path = tmp_path / "ran", tmp_path / "vectors.pkl"
    hostile_bytes = pickle.dumps(Reduced(os.system, f"touch {target}"))
    pickle.loads(hostile_bytes)
    assert target.exists()  # so an ordinary unpickler runs it
    target.unlink()
    path.write_bytes(hostile_bytes)
    with pytest.raises(ErcBenchError, match=r"refused: it asks for posix\.system"):
        utterance_vectors(corpus, "", FeatureConfig(path=str(path), size=SIZE))
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["multiarray.os.system", "ndarray.tofile", "dtype.__class__", "load", "fromfile"]
)
def test_other_names_of_numpy_are_refused(tmp_path, name) -> None:
    path = tmp_path / "vectors.pkl"
    text = [b"\x8c" + bytes([len(part)]) + part for part in (b"numpy", name.encode())]
    path.write_bytes(b"\x80\x04" + b"".join(text) + b"\x93.")
    with pytest.raises(ErcBenchError, match=f"asks for numpy.{name}"):
        read_cosmic(path)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}, None], dtype=object),
        np.zeros(2, dtype=[("x", "f4"), ("y", "O")]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype=np.void(b"1234").dtype),
    ],
)
def test_arrays_of_anything_but_numbers_and_strings_are_refused(tmp_path, array) -> None:
    path = tmp_path / "vectors.pkl"
    path.write_bytes(pickle.dumps([array]))
    with pytest.raises(ErcBenchError, match="numpy dtype"):
        read_cosmic(path)


def test_utterance_vectors_reads_a_file_too(corpus, tmp_path) -> None:
    path = write_cosmic(corpus, tmp_path / "vectors.pkl", SIZE)
    found = utterance_vectors(corpus, "", FeatureConfig(path=str(path), size=SIZE))
    assert torch.equal(found.vectors, expected_vectors(corpus))
    assert found.present.all()
    assert found.key == hashlib.sha256(path.read_bytes()).digest()
    assert found.fine_tuning == {}


def test_the_identity_names_the_encoder_or_the_file(corpus, tiny_encoder, tmp_path) -> None:
    path = write_cosmic(corpus, tmp_path / "vectors.pkl", SIZE)
    own, given = FeatureConfig(), FeatureConfig(path=str(path), size=SIZE)
    assert vectors_identity(tiny_encoder, own)["name"] == tiny_encoder
    assert vector_size(tiny_encoder, own) == 32
    assert vectors_identity("", given)["name"] == "vectors.pkl"
    assert vector_size("", given) == SIZE
    digests = [vectors_identity(tiny_encoder, own), vectors_identity("", given)]
    assert [len(each["digest"]) for each in digests] == [64, 64]
