"""The commands ``show`` and ``explain``, and the names by which runs are found."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_records import Method, write_records
from test_cli import elsewhere, fails

from erc_bench.cli import main
from erc_bench.cli.printing import plot
from erc_bench.errors import ErcBenchError
from erc_bench.records.store import find_record, run_name

__all__ = ["elsewhere"]

SETTINGS = ("max_batches=2", "epochs=3", "max_len=32", "precision=float32")


@pytest.fixture(scope="module")
def made(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard with a run on demo, and external predictions for the test set of demo."""
    folder = tmp_path_factory.mktemp("made")
    root = folder / "leaderboard"
    argv = ["run", "--method", "finetune", "--dataset", "demo", "--preset", "smoke", "--quiet"]
    settings = [f"encoder={tiny_encoder}", *SETTINGS]
    assert main([*argv, *settings, "--leaderboard-dir", str(root)]) == 0
    (path,) = root.glob("records/demo/finetune/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    test = record["predictions"]["test"]
    pairs = zip(test["ids"], (record["labels"][c] for c in test["predicted"]), strict=True)
    lines = (json.dumps({"id": i, "label": x}) for i, x in pairs)
    (folder / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    argv = ["score", str(folder / "p.jsonl"), "--dataset", "demo", "--name", "my-llm", "--quiet"]
    assert main([*argv, "--leaderboard-dir", str(root)]) == 0
    return root


@pytest.fixture
def root(made: Path, elsewhere: Path) -> Path:
    """A copy of ``made`` in the working folder."""
    return shutil.copytree(made, elsewhere / "leaderboard")


@pytest.fixture
def record(root: Path) -> dict:
    (path,) = root.glob("records/demo/finetune/*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def change(root: Path, **values) -> None:
    (path,) = root.glob("records/demo/finetune/*.json")
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8"
    )


# --- names of runs


@pytest.fixture
def several(tmp_path: Path) -> Path:
    methods = [
        Method("eacl"),
        Method("eacl", preset="small", seeds=(1,)),
        Method("spcl", seeds=[10]),
    ]
    write_records(tmp_path / "board", methods, ["meld", "iemocap"], 20)
    return tmp_path / "board"


def test_a_run_has_a_name(several: Path) -> None:
    path = several / "records" / "meld" / "eacl" / f"{Method('eacl').config_hash}-seed2.json"
    name = f"eacl/meld/{Method('eacl').config_hash}/seed2"
    assert run_name(path) == name
    assert find_record(several, name) == path
    assert find_record(several, str(path)) == path
    assert find_record(several, f"{name}/") == path


def test_an_unambiguous_part_of_a_name_finds_the_run(several: Path) -> None:
    of_paper, of_small = Method("eacl").config_hash, Method("eacl", preset="small").config_hash
    assert of_paper[:3] != of_small[:3]
    for short, name in {
        "spcl/meld": "spcl/meld/",
        "sp/me": "spcl/meld/",
        f"meld/{of_paper[:3]}/seed3": f"eacl/meld/{of_paper}/seed3",
        f"eacl/meld/{of_small[:4]}": f"eacl/meld/{of_small}/seed1",
        "iemocap/seed10": "spcl/iemocap/",
        "eacl/iemocap/seed2": f"eacl/iemocap/{of_paper}/seed2",
    }.items():
        assert run_name(find_record(several, short)).startswith(name), short


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("eacl/meld", ["several runs", "(preset paper", "(preset small", "/seed1", "/seed3"]),
        ("seed10", ["several runs", "spcl/meld/", "spcl/iemocap/"]),
        ("meld/seed1", ["several runs"]),
        ("eacll/meld", ["There is no run 'eacll/meld'", "Did you mean one of these? eacl/meld/"]),
        ("meld/eacl", ["There is no run", "these? eacl/meld/"]),
        ("EACL/meld/seed4", ["There is no run", "these? eacl/meld/", "/seed1", "/seed3"]),
        ("spcl/meld/0123456789ab/seed10", ["There is no run", "these? spcl/meld/", "/seed10"]),
        ("spcl-meld-seed10", ["There is no run", "these? spcl/meld/", "/seed10"]),
        ("eacl:small", ["not by its settings", "these? eacl/", "seed1 (preset small"]),
        ("zzzz", ["There is no run", "There are: eacl on iemocap; eacl on meld; spcl on iemocap"]),
        ("nowhere.json", ["There is no run 'nowhere.json': no such file."]),
        (".", ["is a folder"]),
    ],
)
def test_an_ambiguous_or_unknown_name_is_an_error(
    run: str, words: list[str], several: Path
) -> None:
    with pytest.raises(ErcBenchError) as caught:
        find_record(several, run)
    for word in words:
        assert word in str(caught.value)


def test_many_candidates_are_not_all_listed(tmp_path: Path) -> None:
    write_records(tmp_path, [Method("m", seeds=range(30))], dialogues=8)
    with pytest.raises(ErcBenchError, match="and 18 more"):
        find_record(tmp_path, "m")
    with pytest.raises(ErcBenchError, match=r"of these\? .* and \d+ more"):
        find_record(tmp_path, "mm")


def test_an_empty_name_is_an_error(capsys) -> None:
    assert "Which run?" in fails(capsys, "show", "")


def test_a_missing_or_empty_store_is_an_error(capsys) -> None:
    assert "There is no run 'eacl': no folder leaderboard." in fails(capsys, "show", "eacl")
    Path("leaderboard").mkdir()
    assert "no record lies below leaderboard/records" in fails(capsys, "show", "eacl")


def test_a_name_with_settings_suggests_the_run_with_these_settings(tmp_path: Path) -> None:
    methods = [
        Method("eacl"),
        Method("eacl", seeds=[7], changes={"overrides": ["stage2_epochs=0"]}),
    ]
    write_records(tmp_path, methods, dialogues=8)
    with pytest.raises(ErcBenchError, match=r"these\? \S+/seed7 \(preset paper, stage2_epochs=0"):
        find_record(tmp_path, "eacl:stage2_epochs=0")


# --- show


def test_show_prints_all_of_a_run(root: Path, record: dict, capsys) -> None:
    assert main(["show", "finetune"]) == 0
    out = capsys.readouterr().out
    for split in ("test", "dev"):
        for figure in ("weighted_f1", "accuracy", "macro_f1", "calibration_error"):
            assert f"{record['metrics'][split][figure]:.2f}" in out
    of_class = record["metrics"]["test"]["per_class"]["surprise"]
    row = [f"{of_class[figure]:.2f}" for figure in ("precision", "recall", "f1")]
    assert re.search(r"surprise +76 +" + " +".join(row), out)
    confusion = " +".join(map(str, record["metrics"]["test"]["confusion"][3]))
    assert re.search(f"joy +{confusion}", out)
    assert re.search(r"position +first +60 ", out)
    assert re.search(r"emotion +shift +224 ", out)
    for word in ("max_batches: 2", "batch_size: ", "dev weighted_f1", "Training", "parameters"):
        assert word in out
    losses = [epoch["train/loss"] for epoch in record["training"]["curves"]]
    assert f"{max(losses):.4g} │" in out
    assert f"▲ epoch {record['training']['best_epoch']} of 3" in out


def test_show_external_predictions(root: Path, capsys) -> None:
    assert main(["show", "my-llm"]) == 0
    out = capsys.readouterr().out
    assert "predicted elsewhere" in out
    assert "context: unknown" in out
    assert "▲" not in out


def test_show_a_record_by_its_path_and_one_of_the_first_schema(root: Path, record, capsys) -> None:
    old = json.loads(json.dumps(record))
    old["schema"] = 1
    for split in old["predictions"].values():
        del split["dialogue"], split["facts"]
    Path("old.json").write_text(json.dumps(old), encoding="utf-8")
    assert main(["show", "old.json"]) == 0
    out = capsys.readouterr().out
    assert "By class" in out
    assert "Parts of test" not in out


def test_a_plot_spans_its_values() -> None:
    lines, low, high = plot([1.0, None, 3.0, 2.0], 2)
    assert (low, high) == (1.0, 3.0)
    assert lines == ["    " * 2 + "████" + "▁▁▁▁", "▁▁▁▁" + "    " + "████" * 2]
    assert plot([5.0], 1) == (["████"], 5.0, 5.0)
    (line,), _, _ = plot(list(range(1000)), 1)
    assert len(line) == 60
    assert line == "".join(sorted(line))
    assert plot([None, None], 1)[0] == ["        "]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"metrics": {}}, "$.metrics.test: it is not there"),
        ({"metrics": None}, "$.metrics: Expected"),
        ({"predictions": []}, "$.predictions: Expected"),
        ({"config": 3}, "$.config: Expected"),
    ],
)
def test_a_damaged_record_is_named(values, field: str, root: Path, capsys) -> None:
    change(root, **values)
    assert main(["show", "finetune", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert f"seed1.json is a damaged record: {field}" in message
    assert "--force" in message


# --- explain


def test_explain_a_dialogue_turn_by_turn(root: Path, record: dict, demo, capsys) -> None:
    dialogue = demo.dialogues("test")[2]
    assert main(["explain", "finetune", "--dialogue", dialogue.id]) == 0
    out = capsys.readouterr().out
    test, labels = record["predictions"]["test"], record["labels"]
    right = 0
    for number, u in enumerate(dialogue.utterances, 1):
        at = test["ids"].index(u.id)
        said, shares = test["predicted"][at], test["probabilities"][at]
        line = next(line for line in out.splitlines() if line.startswith(f"{number} "))
        assert u.speaker in line
        assert u.text.split()[0] in line
        gold = labels[u.label] + ("" if said == u.label else f" {100 * shares[u.label]:.0f} %")
        assert re.search(f"{gold} +{labels[said]} {100 * shares[said]:.0f} %", line)
        right += said == u.label
    assert f"{right} of {len(dialogue)} right" in out
    assert main(["explain", "finetune", "--dialogue", "dev-d0"]) == 0
    assert "dev-d0:" in capsys.readouterr().out


def test_right_and_wrong_are_coloured(root: Path, record: dict, demo, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for key in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(key, raising=False)
    gold = record["predictions"]["test"]["gold"]
    predictions = {"test": {**record["predictions"]["test"], "predicted": list(gold)}}
    predictions["test"]["predicted"][1] = (gold[1] + 1) % 7
    change(root, predictions=predictions)
    assert main(["explain", "finetune", "--dialogue", "test-d0"]) == 0
    out = capsys.readouterr().out
    assert out.count("\x1b[31m") == 1
    assert out.count("\x1b[32m") == len(demo.dialogues("test")[0]) - 1


def test_explain_lists_the_worst_dialogues(root: Path, record: dict, capsys) -> None:
    test = record["predictions"]["test"]
    errors: dict[int, int] = {}
    for d, gold, said in zip(test["dialogue"], test["gold"], test["predicted"], strict=True):
        errors[d] = errors.get(d, 0) + (gold != said)
    assert main(["explain", "finetune", "--worst", "4"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [int(row.split()[1]) for row in rows] == sorted(errors.values())[:-5:-1]
    assert all(errors[int(row.split()[0][6:])] == int(row.split()[1]) for row in rows)
    assert main(["explain", "finetune", "--split", "dev"]) == 0
    assert "dev-d" in capsys.readouterr().out


def test_explain_external_predictions(root: Path, capsys) -> None:
    assert main(["explain", "my-llm", "--dialogue", "test-d0"]) == 0
    out = capsys.readouterr().out
    assert "%" not in out
    assert "right" in out
    assert main(["explain", "my-llm"]) == 0
    capsys.readouterr()
    for argv in (["--split", "dev"], ["--dialogue", "dev-d0"]):
        assert "no predictions on dev, only on test" in fails(capsys, "explain", "my-llm", *argv)


def test_explain_says_what_is_wrong(root: Path, record: dict, capsys) -> None:
    explain = ("explain", "finetune")
    assert "Did you mean 'test-d1" in fails(capsys, *explain, "--dialogue", "test-d1x")
    assert "no predictions on train" in fails(capsys, *explain, "--dialogue", "train-d0")
    assert "--worst 0" in fails(capsys, *explain, "--worst", "0")
    change(root, dataset_digest="0" * 64)
    message = fails(capsys, *explain)
    assert "The copy of demo here is not the one of" in message
    assert "000000000000…" in message
    assert "--data-dir" in message
    change(root, dataset="iemocap")
    assert "SAIL" in fails(capsys, *explain)
    change(root, dataset=None)
    assert "is a damaged record: $.dataset: Expected" in fails(capsys, *explain)
    change(root, dataset="demo", dataset_digest="")
    assert "$.dataset_digest: it does not say which copy" in fails(capsys, *explain)
    ids = record["predictions"]["test"]["ids"]
    test = {**record["predictions"]["test"], "ids": [*ids[:-1], "another"]}
    whole = {"dataset_digest": record["dataset_digest"], "predictions": {"test": test}}
    change(root, **whole)
    assert "its labels and ids are not those of demo" in fails(capsys, *explain)


def test_explain_an_utterance_without_an_answer(root: Path, record: dict, demo, capsys) -> None:
    test = record["predictions"]["test"]
    test["predicted"][0], test["probabilities"][0] = -1, None
    change(root, predictions={"test": test})
    assert main(["explain", "finetune", "--dialogue", "test-d0"]) == 0
    (first,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("1 "))
    assert re.search(rf"{record['labels'][test['gold'][0]]} +no answer", first)


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_turns_without_a_label(elsewhere: Path, capsys) -> None:
    """Speakers are shown by the names that prompts use, and texts may hold brackets."""
    from iemocap_layout import write_release

    from erc_bench.settings.registry import corpus_source

    write_release(elsewhere / "data" / "iemocap")
    corpus = corpus_source("iemocap").load(elsewhere / "data")
    turns = [d.utterances[i] for d in corpus.dialogues("test") for i in d.labelled]
    lines = (json.dumps({"id": u.id, "label": corpus.labels.names[u.label]}) for u in turns)
    Path("p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    where = ["--data-dir", "data", "--quiet"]
    assert main(["score", "p.jsonl", "--dataset", "iemocap", "--name", "x", *where]) == 0
    capsys.readouterr()
    argv = ["explain", "x", *where]
    assert main([*argv, "--dialogue", "test-Ses05F_impro04"]) == 0
    out = capsys.readouterr().out
    assert out.count("no label") == 3
    assert "7 of 7 right" in out
    assert "Mary" in out


@pytest.mark.parametrize(
    "argv",
    [["show", "finetune"], ["explain", "finetune"], ["explain", "finetune", "--dialogue=test-d0"]],
)
def test_reading_a_run_needs_no_torch(argv: list[str], root: Path) -> None:
    script = (
        f"import sys\nfrom erc_bench.cli import main\nassert main({argv!r}) == 0\n"
        "print('heavy:', sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ.copy()
    )
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr


@pytest.mark.parametrize("argv", [["show", "finetune"], ["explain", "finetune"]])
def test_only_a_terminal_that_lacks_characters_loses_them(
    argv: list[str], root: Path, monkeypatch
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    shown, written = io.BytesIO(), io.BytesIO()
    for out in (Terminal(shown, "ascii"), io.TextIOWrapper(written, "ascii")):
        monkeypatch.setattr(sys, "stdout", out)
        assert main(argv) == 0
        out.flush()
    assert shown.getvalue().isascii()
    assert "?" not in written.getvalue().decode("utf-8")
    if argv[0] == "show":
        assert b"?" in shown.getvalue()
