"""Runs are pushed to a local server with the hub's interface, and read from it again."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, Hub, Repository
from huggingface_hub import constants
from safetensors.torch import load
from test_cli import elsewhere, fails

import erc_bench
from erc_bench.cli import main
from erc_bench.corpus.conversation import Corpus, Dialogue
from erc_bench.files import cache_folder
from erc_bench.settings.experiment import resolve

__all__ = ["elsewhere"]


@pytest.fixture(scope="module")
def made(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quick run of plain fine-tuning."""
    root = tmp_path_factory.mktemp("pushed") / "leaderboard"
    settings = {"encoder": tiny_encoder, "max_batches": 2, "max_len": 32, "precision": "float32"}
    erc_bench.run("finetune", "demo", preset="smoke", settings=settings, folder=root)
    return root


@pytest.fixture
def root(made: Path, elsewhere: Path) -> Path:
    """A copy of ``made`` in the working folder."""
    return shutil.copytree(made, elsewhere / "leaderboard")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The local server, with which the hub's library talks; a user is logged in."""
    server = Hub()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        patch.setenv("HF_TOKEN", TOKEN)
        yield server
    server.close()


def push(*argv: str) -> int:
    return main(["hub", "push", "finetune", "me/first", "--quiet", *argv])


def only(files: dict[str, bytes], end: str) -> bytes:
    (found,) = [data for name, data in files.items() if name.endswith(end)]
    return found


@pytest.mark.slow
def test_a_run_is_pushed_and_read_again(root, hub, elsewhere, capsys) -> None:
    """Every command that takes a run reads it, in a folder without records."""
    assert push() == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/me/first (private): hf://me/first\n"
    assert hub.repos["me/first"].private
    ours = erc_bench.load_run("finetune", folder=root)
    (root / "records").rename(elsewhere / "gone")

    hub.asked.clear()
    run = erc_bench.load_run("hf://me/first")
    assert not any("safetensors" in path for path in hub.asked)  # the record alone
    assert run.record.metrics == ours.record.metrics
    assert run.record.predictions == ours.record.predictions
    corpus = erc_bench.load_corpus("demo")
    dialogue = corpus.dialogues("test")[0]
    answers = run.predict([dialogue])
    test = run.record.predictions.test
    for i in dialogue.labelled:
        at = test.ids.index(dialogue.utterances[i].id)
        shares = list(answers[i].probabilities.values())
        assert shares == pytest.approx(test.probabilities[at], abs=2e-4)

    Path("talk.txt").write_text("Ilse: Hooray!\n")
    commit = hub.repos["me/first"].head
    for argv in (
        ["show", "hf://me/first"],
        ["explain", "hf://me/first"],
        ["predict", f"hf://me/first@{commit}", "talk.txt"],
        ["encode", "hf://me/first", "talk.txt", "-o", "talk.npz"],
    ):
        capsys.readouterr()
        assert main([*argv, "--quiet"]) == 0, argv
    assert Path("talk.npz").is_file()


def test_the_pushed_files_are_complete_and_hold_no_text(root, hub, demo) -> None:
    assert push("--public") == 0
    assert not hub.repos["me/first"].private
    files = hub.repos["me/first"].files
    ours = erc_bench.load_run("finetune", folder=root)
    place = f"demo/finetune/{ours.path.stem}"
    assert set(files) - {".gitattributes"} == {
        *("README.md", "config.json", f"records/{place}.json"),
        f"runs/{place}/model.safetensors",
    }
    _, head, body = files["README.md"].decode().split("---\n", 2)
    (index,) = yaml.safe_load(head)["model-index"]
    (result,) = index["results"]
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("demo", "test")
    by_name = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert by_name["weighted-F1, percent"] == round(ours.record.metrics.test.weighted_f1, 2)
    for told in ("Apache-2.0", "| selection | dev weighted_f1 |", "| seed | 1 |", "the official"):
        assert told in body
    assert texts_in(files, demo) == []
    assert json.loads(files["config.json"])["seed"] == 1


def texts_in(files: dict[str, bytes], corpus: Corpus) -> list[str]:
    """The whole turns of a corpus, and the runs of five words of its turns, that are in files."""
    readable = b"\n".join(d for name, d in files.items() if not name.endswith(".safetensors"))
    text = readable.decode().lower()
    said = {u.text.lower() for d in all_dialogues(corpus) for u in d.utterances}
    rows = [turn.split() for turn in said]
    runs = {" ".join(row[i : i + 5]) for row in rows for i in range(len(row) - 4)}
    whole = {turn for turn in said if len(turn.split()) > 2}
    assert len(runs) > 500
    return [words for words in runs | whole if words in text]


def all_dialogues(corpus: Corpus) -> list[Dialogue]:
    return [dialogue for split in corpus.contents for dialogue in corpus.dialogues(split)]


@pytest.mark.slow
def test_adapters_are_pushed_alone_and_read_again(tiny_causal, hub, demo, elsewhere) -> None:
    pytest.importorskip("peft")
    settings = {"encoder": tiny_causal, "max_batches": 2, "epochs": 1, "precision": "float32"}
    ours = erc_bench.run("lora-lm", "demo", preset="smoke", settings=settings, folder="mine")
    where = ["--leaderboard-dir", "mine", "--quiet"]
    assert main(["hub", "push", "lora-lm", "me/lora", *where]) == 0
    files = hub.repos["me/lora"].files
    assert all(".lora_" in name for name in load(only(files, ".safetensors")))
    assert texts_in(files, demo) == []
    dialogue = demo.dialogues("test")[0]
    assert erc_bench.load_run("hf://me/lora").predict([dialogue]) == ours.predict([dialogue])


def test_pushes_that_are_refused(root, hub, capsys, monkeypatch) -> None:
    assert push() == 0
    capsys.readouterr()
    assert push() == 0  # the same run again
    capsys.readouterr()
    command = ("hub", "push", "finetune")
    other = "records/demo/eacl/0123-seed1.json"
    hub.repos["me/public"] = Repository(False)
    hub.repos["me/other"] = Repository(True, {other: b"{}"})
    hub.repos["me/thesis"] = Repository(True, {"thesis.tex": b"", "README.md": b""})
    assert "is public" in fails(capsys, *command, "me/public")
    assert "holds the run eacl/demo/0123/seed1" in fails(capsys, *command, "me/other")
    assert "holds README.md, thesis.tex" in fails(capsys, *command, "me/thesis")
    assert "is no name of a repository" in fails(capsys, *command, "first")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "may not be written to" in fails(capsys, *command, "me/second")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-token")
    assert "There is no token" in fails(capsys, *command, "me/second")
    (weights,) = root.rglob("model*.ckpt")
    weights.unlink()
    assert "The model of this run is not here" in fails(capsys, *command, "me/second")
    assert "me/second" not in hub.repos


def test_a_run_that_can_not_be_read_from_the_hub_is_an_error(
    root, hub, capsys, monkeypatch
) -> None:
    hub.repos["me/thesis"] = Repository(False, {"thesis.tex": b""})
    hub.repos["me/secret"] = Repository(True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    for run, words in (
        ("hf://me/nothing", "me/nothing on the Hugging Face hub is not there, or it is private"),
        ("hf://me/secret", "is not there, or it is private"),
        ("hf://me/thesis@v9", "has no revision 'v9'"),
        ("hf://me/thesis", "holds no records"),
        ("hf://thesis", "names no run on the hub"),
        ("hf://me/thesis@", "names no run on the hub"),
    ):
        assert words in fails(capsys, "show", run)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # no server there
    assert "can't be reached" in fails(capsys, "show", "hf://me/late")
    error = fails(capsys, "hub", "push", "finetune", "me/late")
    assert "me/late on the Hugging Face hub can't be reached (" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "can't be reached, and the hub's cache" in fails(capsys, "show", "hf://me/late")


class Boom:
    def __reduce__(self):
        return Path.touch, (Path("boom"),)


def test_nothing_of_the_hub_is_unpickled(root, hub, elsewhere, capsys) -> None:
    """A record that names a pickle as its weights is refused, and so are damaged weights."""
    assert push() == 0
    repo = hub.repos["me/first"]
    (name,) = [name for name in repo.files if name.startswith("records/")]
    weights = name.replace("records/", "runs/").replace(".json", "/model.safetensors")
    record = json.loads(repo.files[name])
    sha256 = record["model"]["sha256"]
    Path("talk.txt").write_text("Ilse: Hooray!\n")
    capsys.readouterr()
    for file in ("model.ckpt", "../../../../boom.ckpt"):
        hostile = {**record, "model": {"file": file, "sha256": sha256}}
        repo.commit(
            {name: json.dumps(hostile).encode(), f"{weights[:-18]}/x": pickle.dumps(Boom())}
        )
        message = fails(capsys, "predict", f"hf://me/first@{repo.head}", "talk.txt")
        assert "nothing is loaded but model.safetensors" in message
    repo.commit({name: json.dumps(record).encode(), weights: pickle.dumps(Boom())})
    message = fails(capsys, "predict", f"hf://me/first@{repo.head}", "talk.txt")
    assert "is damaged or another run's" in message
    assert not Path("boom").exists()


def test_methods_that_train_nothing_are_neither_pushed_nor_loaded(
    root, hub, elsewhere, capsys
) -> None:
    """Their checkpoint may hold texts of the corpus, and their settings may name a server."""
    assert push() == 0
    repo = hub.repos["me/first"]
    (name,) = [name for name in repo.files if name.startswith("records/")]
    record = json.loads(repo.files[name])
    settings = ["base_url=http://127.0.0.1:9/v1", "encoder=some-model"]
    config = resolve("prompt-lm", "demo", preset="smoke", overrides=settings).settings
    prompted = {**record, "method": "prompt-lm", "config": config}
    weights = only(repo.files, "/model.safetensors")
    hub.repos["me/prompted"] = Repository(
        True,
        {
            "records/demo/prompt-lm/0-seed1.json": json.dumps(prompted).encode(),
            "runs/demo/prompt-lm/0-seed1/model.safetensors": weights,
        },
    )
    Path("talk.txt").write_text("Ilse: Hooray!\n")
    capsys.readouterr()
    assert "may name a server" in fails(capsys, "predict", "hf://me/prompted", "talk.txt")
    (path,) = root.rglob("records/*/*/*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trains": False}))
    assert "has no weights of its own" in fails(capsys, "hub", "push", "finetune", "me/second")
    assert "me/second" not in hub.repos


def test_a_copy_in_the_cache_is_enough_without_a_network(root, hub, capsys, monkeypatch) -> None:
    assert push() == 0
    erc_bench.load_run("hf://me/first").model  # noqa: B018
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.close()
    assert erc_bench.load_run("hf://me/first").model.labels.names


@pytest.mark.slow
def test_a_run_on_vectors_brings_its_encoder(tiny_encoder, hub, elsewhere, capsys, monkeypatch):
    settings = {"encoder": tiny_encoder, "features.epochs": 1, "features.max_batches": 2}
    ours = erc_bench.run("dag-erc", "demo", preset="smoke", settings=settings, folder="mine")
    dialogue = erc_bench.load_corpus("demo").dialogues("test")[0]
    wanted = ours.predict([dialogue])
    argv = ("hub", "push", "dag-erc", "me/dag", "--leaderboard-dir", "mine")
    assert main([*argv, "--quiet"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "another"))
    assert not (cache_folder() / "vectors").exists()
    assert erc_bench.load_run("hf://me/dag").predict([dialogue]) == wanted
    capsys.readouterr()
    assert "was fine-tuned for the vectors" in fails(capsys, *argv[:3], "me/other", *argv[4:])
