"""``erc-bench encode``: its files are written, read by methods, and refused if they do not fit."""

import json
import pickle
import pickletools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from test_cli import elsewhere, fails
from test_external import given
from test_vectors import cls_state

import erc_bench
from erc_bench.cli import main
from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.vectors import Encoded, FeatureConfig, read_vectors, utterance_vectors, vector_size
from erc_bench.vectors.files import BY_ID, SUFFIXES, text_digest

__all__ = ["elsewhere"]

SAID = ("I have lost my umbrella again.", "Çok üzüldüm …", "Never mind!", "")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """One dialogue per split; the last turn of each has no label."""

    def talk(name: str) -> Dialogue:
        turns = [Utterance(f"{name}-u{i}", "AB"[i % 2], text, i % 2) for i, text in enumerate(SAID)]
        return Dialogue(name, (*turns[:-1], replace(turns[-1], label=None)))

    splits = {split: [talk(f"{split}-d0")] for split in ("train", "dev", "test")}
    return Corpus.build("umbrellas", LabelSet(("calm", "upset")), splits)


@pytest.fixture(scope="module")
def encoded(corpus: Corpus) -> Encoded:
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    return Encoded(vectors, corpus, {"model": {"name": "x", "digest": "d" * 64}, "settings": {}})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_method_reads_what_was_written(suffix, encoded, corpus, tmp_path) -> None:
    path = encoded.save(tmp_path / f"vectors{suffix}")
    config = FeatureConfig(path=str(path), size=5, layer=3)
    read = utterance_vectors(corpus, "", config)
    assert torch.equal(read.vectors, torch.from_numpy(encoded.vectors))
    assert read.present.all()
    assert vector_size("", config) == 5
    # The same contents give the same file, because runs are identified by its digest.
    again = encoded.save(tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [again.name, path.name]


@pytest.mark.parametrize("suffix", BY_ID)
def test_a_file_holds_ids_and_model_but_no_text(suffix, encoded, corpus, tmp_path) -> None:
    path = encoded.save(tmp_path / f"vectors{suffix}")
    if suffix == ".npz":
        with np.load(path) as file:
            vectors, ids = file["vectors"], file["ids"].tolist()
            about = json.loads(str(file["about"]))
            texts = file["texts"].tolist()
    else:
        with safe_open(path, "np") as file:
            vectors = file.get_tensor("vectors")
            about = json.loads(file.metadata()["erc-bench"])
            ids, texts = about["ids"], about["texts"]
    assert np.array_equal(vectors, encoded.vectors)
    assert ids == [f"{split}-d0-u{i}" for split in ("train", "dev", "test") for i in range(4)]
    assert about["model"]["digest"] == "d" * 64
    assert texts[:4] == [text_digest(text) for text in SAID]
    contents = path.read_bytes()
    assert all(text.encode() not in contents for text in SAID if text)


def test_the_pickle_is_in_cosmics_layout(encoded, corpus, tmp_path) -> None:
    path = encoded.save(tmp_path / "vectors.pkl")
    speakers, labels, *layers, sentences, train, test, dev = pickle.loads(path.read_bytes())
    assert (train, dev, test) == (["train-d0"], ["dev-d0"], ["test-d0"])
    assert (speakers["dev-d0"], labels["dev-d0"]) == (["A", "B", "A", "B"], [0, 1, 0, -1])
    assert sentences["test-d0"] == list(SAID)
    assert len(layers) == 4
    for layer in layers:
        assert np.array_equal(np.stack(layer["dev-d0"]), encoded.vectors[4:8])


def test_the_pickle_names_no_module_that_an_older_numpy_lacks(encoded, tmp_path) -> None:
    path = encoded.save(tmp_path / "vectors.pkl")
    named = [arg for op, arg, _ in pickletools.genops(path.read_bytes()) if "numpy" in str(arg)]
    assert set(named) == {"numpy"}  # numpy.ndarray
    read = utterance_vectors(
        encoded.corpus, "", FeatureConfig(path=str(path), size=encoded.vectors.shape[1])
    )
    assert torch.equal(read.vectors, torch.from_numpy(encoded.vectors))


def test_vectors_from_elsewhere_need_ids_alone(corpus, encoded, tmp_path) -> None:
    path = tmp_path / "mine.npz"
    order = np.arange(11)[::-1]  # test-d0-u3 has no label, and no vector
    np.savez(
        path, vectors=encoded.vectors[order].astype("float64"), ids=np.array(encoded.ids)[order]
    )
    read = utterance_vectors(corpus, "", FeatureConfig(path=str(path)))
    assert read.present.tolist() == [True] * 11 + [False]
    assert torch.equal(read.vectors[:11], torch.from_numpy(encoded.vectors[:11]))


def test_another_corpus_is_refused(corpus, encoded, tmp_path) -> None:
    path = encoded.save(tmp_path / "vectors.npz")
    config = FeatureConfig(path=str(path))

    def changed(**change) -> Corpus:
        (dialogue,) = corpus.dialogues("dev")
        first, *rest = dialogue.utterances
        dev = [Dialogue("dev-d0", (replace(first, **change), *rest))]
        return Corpus.build("other", corpus.labels, {**corpus.contents, "dev": dev})

    with pytest.raises(ErcBenchError, match=r"1 of 12 utterances had other texts.*'dev-d0-u0'"):
        utterance_vectors(changed(text="I have found it."), "", config)
    with pytest.raises(ErcBenchError, match=r"1 of 12 utterances have no vector.*'dev-d9-u0'"):
        utterance_vectors(changed(id="dev-d9-u0"), "", config)


def npz(path: Path, **arrays) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


ROWS, IDS = np.ones((2, 3), dtype="f4"), np.array(["a", "b"])
FAULTS = {
    "gone": (lambda path: None, "can't be read: No such file"),
    "nonsense": (lambda path: path.write_bytes(b"nonsense"), "can't be read as a file"),
    "empty": (lambda path: path.write_bytes(b""), "can't be read as a file"),
    "no ids": (lambda path: npz(path, vectors=ROWS), "it has no array 'ids'"),
    "no vectors": (lambda path: npz(path, ids=IDS), "it has no array 'vectors'"),
    "objects": (
        lambda path: npz(path, vectors=ROWS, ids=np.array([{}, 1], dtype=object)),
        "Object arrays cannot be loaded",
    ),
    "single": (lambda path: path.open("wb").write(array_bytes()), "it is a single array"),
    "uneven": (lambda path: npz(path, vectors=ROWS[:1], ids=IDS), "it has 2 ids, and vectors"),
    "whole": (lambda path: npz(path, vectors=ROWS.astype(int), ids=IDS), "type int64, not"),
    "nan": (lambda path: npz(path, vectors=ROWS * np.nan, ids=IDS), "vector of 'a' is not all"),
    "twice": (lambda path: npz(path, vectors=ROWS, ids=IDS[[0, 0]]), "id 'a' occurs twice"),
    "texts": (lambda path: npz(path, vectors=ROWS, ids=IDS, texts=IDS[:1]), "1 digests of texts"),
    "about": (
        lambda path: npz(path, vectors=ROWS, ids=IDS, about=np.array("[]")),
        "no JSON object",
    ),
    "newer": (
        lambda path: npz(path, vectors=ROWS, ids=IDS, about=np.array('{"form": 9}')),
        "newer erc-bench",
    ),
}


def array_bytes() -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, ROWS)
    return file.getvalue()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_a_vector_file_is_refused(fault, tmp_path) -> None:
    make, words = FAULTS[fault]
    path = tmp_path / "v.npz"
    make(path)
    with pytest.raises(ErcBenchError) as error:
        read_vectors(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_safetensors_that_are_no_vectors_are_refused(tmp_path) -> None:
    path = tmp_path / "v.safetensors"
    for tensors, metadata, words in (
        ({"weight": ROWS}, {}, "it has no tensor 'vectors'"),
        ({"vectors": ROWS}, {}, "have no ids"),
        ({"vectors": ROWS}, {"erc-bench": "{"}, "can't be read as a file"),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(ErcBenchError, match=words):
            read_vectors(path)


# --- the command


def test_dialogues_are_encoded_by_an_encoder(tiny_encoder, elsewhere, capsys) -> None:
    """The vector of a turn is the state of its text alone, as transformers computes it."""
    Path("talk.txt").write_text("Ilse: Hooray, it is lovely!\nOskar: I see.\n", encoding="utf-8")
    argv = ["encode", tiny_encoder, "talk.txt", "--output", "talk.npz", "--quiet"]
    assert main(argv) == 0
    assert capsys.readouterr().out == "2 vectors of 32 numbers: talk.npz\n"
    read = read_vectors(Path("talk.npz"))
    assert read.ids == ["dialogue-1-u0", "dialogue-1-u1"]
    for row, text in zip(read.vectors, ("Hooray, it is lovely!", "I see."), strict=True):
        state = cls_state(Path(tiny_encoder), text)
        torch.testing.assert_close(torch.from_numpy(row), state, rtol=1e-4, atol=1e-5)
    assert read.about["model"]["kind"] == "encoder"
    capsys.readouterr()
    assert "is there already" in fails(capsys, *argv[:-1])
    assert main([*argv, "--force"]) == 0


@pytest.mark.parametrize("place", [2, 4, 5])
def test_standard_input_is_encoded_with_settings(
    place, tiny_encoder, elsewhere, monkeypatch
) -> None:
    given("Ilse: Hooray, it is lovely!\n", monkeypatch)
    argv = ["encode", tiny_encoder, "--output", "talk.npz", "--quiet"]
    argv.insert(place, "max_len=4")
    argv.insert(2, "-")
    assert main(argv) == 0
    read = read_vectors(Path("talk.npz"))
    state = cls_state(Path(tiny_encoder), "Hooray,")  # and [CLS] and [SEP]
    torch.testing.assert_close(torch.from_numpy(read.vectors[0]), state, rtol=1e-4, atol=1e-5)


def test_mistakes_in_the_encode_command_are_errors(tiny_encoder, elsewhere, capsys) -> None:
    Path("talk.txt").write_text("Ilse: Hooray!\n", encoding="utf-8")
    Path("folder.npz").mkdir()

    def message(what: str, file: str, *argv: str, output: str = "v.npz") -> str:
        return fails(capsys, "encode", what, file, *argv, "--output", output)

    assert "the suffix says in which format" in message(tiny_encoder, "talk.txt", output="v.csv")
    assert "is a folder" in message(tiny_encoder, "talk.txt", output="folder.npz")
    assert "there is no folder" in message(tiny_encoder, "talk.txt", output="no/v.npz")
    assert "There is no file tlak.txt" in message(tiny_encoder, "tlak.txt")
    assert "There is no corpus 'melt'" in message(tiny_encoder, "melt")
    missing = message("nobody/nothing", "talk.txt")
    assert "There is no encoder 'nobody/nothing'" in missing
    assert "Nor is there a run" in missing
    assert "Say the corpus" in message(tiny_encoder, "talk.txt", "epochs=2")
    assert "no setting 'maxlen'" in message(tiny_encoder, "talk.txt", "maxlen=2")
    assert "Leave it out" in message(tiny_encoder, "talk.txt", "path=x")
    assert "seed=2" in message(tiny_encoder, "talk.txt", "per_seed=true")
    tuned = ("--fine-tuned-on", "demo", "epochs=0")
    assert "fine-tunes nothing" in message(tiny_encoder, "talk.txt", *tuned)
    assert not Path("v.npz").exists()


@pytest.mark.slow
def test_a_method_trains_on_a_file_as_on_its_own_vectors(tiny_encoder, elsewhere) -> None:
    """The command encodes the corpus, and the score is that of a frozen encoder."""
    assert main(["encode", tiny_encoder, "demo", "-o", "demo.safetensors", "--quiet"]) == 0
    settings = {"epochs": 2, "max_batches": 0, "encoder": tiny_encoder}
    scores, vectors = [], []
    for features in ({"features.path": "demo.safetensors"}, {"features.epochs": 0}):
        run = erc_bench.run(
            "dag-erc", "demo", preset="smoke", folder="mine", settings=settings | features
        )
        scores.append(run.record.metrics.test.weighted_f1)
        vectors.append(run.record.encoder.vectors)
    assert vectors[0] == vectors[1]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.slow
def test_a_fine_tuned_encoder_encodes_its_corpus_and_others(tiny_encoder, elsewhere) -> None:
    """Its corpus gets the vectors that methods get, and the same encoder reads new dialogues."""
    settings = ("epochs=1", "max_batches=2", "lr=0.003", "precision=float32")
    tuned = ("--fine-tuned-on", "demo", *settings, "--quiet")
    assert main(["encode", tiny_encoder, "demo", "-o", "demo.npz", *tuned]) == 0
    corpus = erc_bench.load_corpus("demo")
    config = FeatureConfig(epochs=1, max_batches=2, lr=0.003, precision="float32")
    whole = read_vectors(Path("demo.npz"))
    wanted = utterance_vectors(corpus, tiny_encoder, config)
    assert np.array_equal(whole.vectors, wanted.vectors.numpy())
    assert whole.about["model"]["key"] == wanted.key.hex()
    dialogue = corpus.dialogues("test")[0]
    turns = [{"speaker": u.speaker, "text": u.text} for u in dialogue.utterances]
    Path("talk.json").write_text(json.dumps(turns), encoding="utf-8")
    assert main(["encode", tiny_encoder, "talk.json", "-o", "talk.npz", *tuned]) == 0
    first = whole.ids.index(dialogue.utterances[0].id)
    known = whole.vectors[first : first + len(turns)]
    assert read_vectors(Path("talk.npz")).vectors == pytest.approx(known, abs=1e-5)
