"""Utterance vectors: made, cached, and read from pickles that may be hostile."""

import os
import pickle
import subprocess
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from cosmic_layout import cosmic_parts, vectors_of, write_cosmic
from fitting import PowerCut

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import cache_folder
from erc_bench.encoders.loading import load_encoder, load_tokenizer
from erc_bench.errors import ErcBenchError
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.methods import features
from erc_bench.methods.cosmic import as_array, match, read_cosmic
from erc_bench.methods.features import FeatureConfig, UtteranceFeatures, extract
from erc_bench.methods.sacl_lstm import SACLLSTM, SACLConfig
from erc_bench.training.trainer import build_trainer

SIZE = 8


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def corpus(small_demo):
    """A handful of dialogues."""
    sizes = {"train": 12, "dev": 4, "test": 3}
    splits = {split: small_demo.dialogues(split)[:n] for split, n in sizes.items()}
    return Corpus.build("handful", small_demo.labels, splits)


@pytest.fixture(scope="module")
def plain(corpus) -> bytes:
    """Its vectors in COSMIC's layout."""
    return pickle.dumps(cosmic_parts(corpus, SIZE))


def settings(**changed) -> FeatureConfig:
    values = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "precision": "float32"} | changed
    return FeatureConfig(**values)


def method_on(corpus: Corpus, encoder: str, config: FeatureConfig):
    method = SACLLSTM(SACLConfig(encoder=encoder, features=config, hidden_size=4), corpus.labels)
    return method, ErcDataModule(corpus, method)


# --- made here ---


def test_vectors_are_cls_states_of_a_fine_tuned_encoder(corpus, tiny_encoder, own_cache) -> None:
    method, datamodule = method_on(corpus, tiny_encoder, settings())
    state = torch.random.get_rng_state()
    method.prepare(datamodule)
    assert torch.equal(state, torch.random.get_rng_state())
    assert method.features.shape == (len(datamodule.ids), 32)
    assert method.present.all()

    (kept,) = (own_cache / "erc-bench" / "features").glob("*/encoder")
    encoder, tokenizer = load_encoder(str(kept)).eval(), load_tokenizer(str(kept))
    dialogues = [d for split in ("train", "dev", "test") for d in corpus.dialogues(split)]
    turns = [u for d in dialogues for u in d.utterances]
    for row in (0, 20, len(turns) - 1):
        with torch.no_grad():
            inputs = tokenizer(turns[row].text, return_tensors="pt")
            state = encoder(inputs["input_ids"]).last_hidden_state[0, 0]
        torch.testing.assert_close(method.features[row], state, rtol=1e-4, atol=1e-5)
    story = method.encoder_identity()["fine_tuning"]
    assert (story["precision"], story["threads"]) == ("32-true", torch.get_num_threads())
    assert story["seconds"] > 0
    before = load_encoder(tiny_encoder).state_dict()
    assert any(not torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    left = {path.name for path in kept.parent.iterdir()}
    assert left <= {"encoder", "lock", f"{corpus.digest[:32]}.npy"}


def test_they_are_made_once_for_all_seeds(corpus, tiny_encoder, own_cache, capsys) -> None:
    torch.manual_seed(1)
    method, datamodule = method_on(corpus, tiny_encoder, settings())
    method.prepare(datamodule)
    assert "Fine-tuning" in capsys.readouterr().err
    torch.manual_seed(2)
    other, datamodule = method_on(corpus, tiny_encoder, settings())
    other.prepare(datamodule)
    assert capsys.readouterr().err == ""
    assert torch.equal(method.features, other.features)
    assert torch.equal(method.encoder_key, other.encoder_key)

    # And a second time from nothing they are the same.
    for file in sorted(own_cache.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    again, datamodule = method_on(corpus, tiny_encoder, settings())
    again.prepare(datamodule)
    assert torch.equal(method.features, again.features)


def test_other_settings_make_other_vectors(corpus, tiny_encoder, own_cache) -> None:
    made = []
    for config in (settings(), settings(seed=3), settings(lr=1e-2)):
        method, datamodule = method_on(corpus, tiny_encoder, config)
        method.prepare(datamodule)
        made.append(method)
    keys = {tuple(method.encoder_key.tolist()) for method in made}
    assert len(keys) == len(list((own_cache / "erc-bench" / "features").iterdir())) == 3
    assert not torch.equal(made[0].features, made[1].features)


def test_damaged_vectors_are_made_anew(corpus, tiny_encoder, own_cache, capsys) -> None:
    method, datamodule = method_on(corpus, tiny_encoder, settings())
    method.prepare(datamodule)
    (file,) = own_cache.rglob("*.npy")
    for damage in (file.read_bytes()[:500], b"", b"nonsense"):
        file.write_bytes(damage)
        capsys.readouterr()
        again, datamodule = method_on(corpus, tiny_encoder, settings())
        again.prepare(datamodule)
        assert "Fine-tuning" not in capsys.readouterr().err
        assert torch.equal(method.features, again.features)


def test_an_interrupted_fine_tuning_leaves_nothing(corpus, tiny_encoder, own_cache) -> None:
    splits = {split: corpus.dialogues(split) for split in ("train", "test")}
    silent = Corpus.build("handful", corpus.labels, splits)
    method, datamodule = method_on(silent, tiny_encoder, settings())
    with pytest.raises(KeyError):  # there is no dev split to select on
        method.prepare(datamodule)
    (folder,) = (own_cache / "erc-bench" / "features").iterdir()
    assert {path.name for path in folder.iterdir()} <= {"lock"}


def interrupted(corpus: Corpus, encoder: str, config: FeatureConfig, epoch: int, monkeypatch):
    """Fine-tune with the power cut in an epoch (from 0); the folder of what is left."""
    with monkeypatch.context() as patch:
        patch.setattr(
            features,
            "build_trainer",
            lambda method, folder, callbacks: build_trainer(
                method, folder, [*callbacks, PowerCut(epoch)]
            ),
        )
        method, datamodule = method_on(corpus, encoder, config)
        with pytest.raises(RuntimeError, match="power cut"):
            method.prepare(datamodule)
    (folder,) = (cache_folder() / "features").iterdir()
    return folder


def test_an_interrupted_fine_tuning_goes_on_to_the_same_encoder(
    corpus, tiny_encoder, tmp_path, monkeypatch, capsys
) -> None:
    config = settings(epochs=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "whole"))
    whole, datamodule = method_on(corpus, tiny_encoder, config)
    whole.prepare(datamodule)
    for epoch in (0, 1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cut-{epoch}"))
        folder = interrupted(corpus, tiny_encoder, config, epoch, monkeypatch)
        assert (folder / "unfinished").exists() == (epoch > 0)
        capsys.readouterr()
        torch.rand(5)
        resumed, datamodule = method_on(corpus, tiny_encoder, config)
        resumed.prepare(datamodule)
        said = capsys.readouterr().err
        assert ("Going on" in said) == (epoch > 0)
        assert said.count("Epoch ") == 3 - epoch
        assert torch.equal(whole.features, resumed.features)
        assert not (folder / "unfinished").exists()


@pytest.mark.parametrize("damaged", ["last.ckpt", "best-*.ckpt"])
def test_a_damaged_fine_tuning_is_started_anew(
    corpus, tiny_encoder, own_cache, monkeypatch, capsys, damaged
) -> None:
    folder = interrupted(corpus, tiny_encoder, settings(), 1, monkeypatch)
    (checkpoint,) = (folder / "unfinished").glob(damaged)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    method, datamodule = method_on(corpus, tiny_encoder, settings())
    method.prepare(datamodule)
    said = capsys.readouterr().err
    assert "damaged" in said
    assert "Epoch 1/2" in said
    assert not (folder / "unfinished").exists()


def new_dialogues(corpus: Corpus) -> Corpus:
    """Dialogues that nobody was trained on, a test split alone."""
    texts = ("I am furious about the soup!", "Oh.", "Wow, I never expected that!")
    turns = tuple(Utterance(f"new-{i}", "AB"[i % 2], text, 0) for i, text in enumerate(texts))
    return Corpus.build("new", corpus.labels, {"test": [Dialogue("new", turns)]})


def test_new_dialogues_are_read_by_the_encoder_of_the_training(
    corpus, tiny_encoder, own_cache
) -> None:
    trained, datamodule = method_on(corpus, tiny_encoder, settings())
    trained.prepare(datamodule)
    new = new_dialogues(corpus)
    method, datamodule = method_on(new, tiny_encoder, settings())
    with pytest.raises(ErcBenchError, match="no train split"):
        method.prepare(datamodule)

    method.load_state_dict(trained.state_dict())
    method.prepare(datamodule)
    (kept,) = own_cache.rglob("encoder")
    expected = extract(kept, [u.text for u in new.dialogues("test")[0].utterances], 128)
    assert torch.equal(method.features, expected)
    assert torch.equal(method.encoder_key, trained.encoder_key)

    for file in kept.iterdir():
        file.unlink()
    kept.rmdir()
    datamodule = ErcDataModule(renamed(new), method)
    with pytest.raises(ErcBenchError, match=r"not in .*Copy that folder"):
        method.prepare(datamodule)


def renamed(corpus: Corpus) -> Corpus:
    """The same dialogues with another digest."""
    (dialogue,) = corpus.dialogues("test")
    first, *others = dialogue.utterances
    turns = (replace(first, text="And now something else."), *others)
    return Corpus.build("other", corpus.labels, {"test": [Dialogue("other", turns)]})


def test_another_corpus_with_a_train_split_is_read_by_it_too(
    corpus, demo, tiny_encoder, own_cache
) -> None:
    trained, datamodule = method_on(corpus, tiny_encoder, settings())
    trained.prepare(datamodule)
    key = trained.encoder_key.clone()
    splits = {split: demo.dialogues(split)[30:33] for split in ("train", "dev", "test")}
    trained.prepare(ErcDataModule(Corpus.build("else", demo.labels, splits), trained))
    assert torch.equal(trained.encoder_key, key)
    assert len(list((own_cache / "erc-bench" / "features").iterdir())) == 1


def test_a_cache_that_can_not_be_written_is_one_error(
    corpus, tiny_encoder, tmp_path, monkeypatch
) -> None:
    method, datamodule = method_on(corpus, tiny_encoder, settings())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ErcBenchError, match="XDG_CACHE_HOME"):
        method.prepare(datamodule)
    assert cache_folder() == tmp_path / "file" / "erc-bench"


# --- pickles of others ---


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
    from erc_bench.methods.cosmic import CosmicUnpickler

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


def with_sentences(corpus: Corpus, path, change) -> None:
    """Vectors of a corpus as a file whose sentences were changed."""
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
def test_sentences_may_be_written_otherwise(corpus, tmp_path, change) -> None:
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
    """Dialogues of equal length under numbers: their texts alone tell that they are exchanged."""
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
    """Parts with something wrong about them."""
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
    with pytest.raises(ErcBenchError, match="can not be read"):
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


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(target) -> dict:
    """What a pickle could run or build that is no plain data."""
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
    assert target.exists()  # so it does run elsewhere
    target.unlink()
    path.write_bytes(hostile_bytes)
    config = SACLConfig(encoder="", features=FeatureConfig(path=str(path), size=SIZE))
    method = SACLLSTM(config, corpus.labels)
    with pytest.raises(ErcBenchError, match=r"refused: it asks for posix\.system"):
        method.prepare(ErcDataModule(corpus, method))
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["multiarray.os.system", "ndarray.tofile", "dtype.__class__", "load", "fromfile"]
)
def test_what_hangs_on_an_admitted_name_is_refused(tmp_path, name) -> None:
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


def test_the_record_names_what_made_the_vectors(corpus, tiny_encoder, tmp_path) -> None:
    path = write_cosmic(corpus, tmp_path / "vectors.pkl", SIZE)
    own = UtteranceFeatures(tiny_encoder, FeatureConfig())
    others = UtteranceFeatures("", FeatureConfig(path=str(path), size=SIZE))
    assert own.identity()["name"] == tiny_encoder
    assert own.size == 32
    assert others.identity()["name"] == "vectors.pkl"
    assert others.size == SIZE
    assert len(own.identity()["digest"]) == len(others.identity()["digest"]) == 64
