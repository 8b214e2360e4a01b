"""The real command line: what it prints, its exit statuses, and what bad input gets."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_data import real_data

from erc_bench.cli import main

QUICK = ("max_batches=2", "epochs=1", "max_len=32", "precision=float32", "stage2_epochs=1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no corpora but those a test names, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    return tmp_path


def files(folder: Path) -> list[str]:
    """Everything below a folder but empty folders and locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    )


def fails(capsys: pytest.CaptureFixture, *argv: str, status: int = 2) -> str:
    """The one paragraph that a command line which can't be done gets."""
    assert main([*argv, "--quiet"]) == status
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("erc-bench: ")
    assert len(streams.err.strip().splitlines()) == 1, "one paragraph"
    assert "Traceback" not in streams.err
    return streams.err


def train(*argv: str) -> list[str]:
    return ["run", "--method", "eacl", "--dataset", "demo", "--preset", "smoke", *argv]


def test_a_run_prints_a_table_and_leaves_a_record(
    tiny_encoder: str, capsys: pytest.CaptureFixture, elsewhere: Path
) -> None:
    settings = [f"encoder={tiny_encoder}", *QUICK]
    assert main(train("--seed", "4", *settings)) == 0
    out = capsys.readouterr().out
    for word in ("weighted-F1", "accuracy", "macro-F1", "F1 surprise", "521 test utterances"):
        assert word in out
    (record,) = (elsewhere / "leaderboard" / "records").glob("*/*/*.json")
    assert str(record.relative_to(elsewhere)) in out
    stored = json.loads(record.read_text())
    assert stored["seed"] == 4
    assert f"{stored['metrics']['test']['weighted_f1']:.2f}" in out
    assert main(train("--seed", "4", *settings)) == 0
    assert "Finished before" in capsys.readouterr().out


def test_a_seed_named_twice_is_one_run() -> None:
    from erc_bench import cli

    argv = train("--seed", "1", "01", "3")
    seeds = [each.seed for each in cli.experiments(cli.build_parser().parse_args(argv))]
    assert seeds == [1, 3]


def test_several_methods_datasets_and_seeds(
    tiny_encoder: str, capsys: pytest.CaptureFixture, elsewhere: Path
) -> None:
    """Overrides may follow an option that takes several values."""
    argv = ["run", "--preset", "smoke", "--leaderboard-dir", "board", "--quiet", "--seeds", "2"]
    settings = [f"encoder={tiny_encoder}", *QUICK]
    assert main([*argv, "--method", "eacl", "--dataset", "demo", *settings]) == 0
    names = [path.name for path in (elsewhere / "board" / "records").glob("demo/eacl/*.json")]
    assert sorted(name[-10:] for name in names) == ["seed1.json", "seed2.json"]
    assert capsys.readouterr().err == ""


def test_overrides_may_stand_anywhere(capsys: pytest.CaptureFixture) -> None:
    argv = ["config", "--method", "eacl", "epochs=3", "--dataset", "demo"]
    assert main([*argv, "--preset", "small", "batch_size=5"]) == 0
    out = capsys.readouterr().out
    assert "epochs: 3" in out
    assert "batch_size: 5" in out
    with pytest.raises(SystemExit):
        main(["methods", "batch_size=5"])


def test_config_prints_what_a_run_would_use(capsys: pytest.CaptureFixture, elsewhere: Path) -> None:
    argv = ["config", "--method", "eacl", "--dataset", "meld", "--preset", "small", "epochs=3"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "epochs: 3" in out
    assert "encoder: sentence-transformers/all-MiniLM-L6-v2" in out
    assert files(elsewhere) == []


def test_methods_lists_what_is_registered(capsys: pytest.CaptureFixture) -> None:
    from erc_bench.settings.registry import method_names

    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in method_names())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "eacel"], ["'eacel'", "Did you mean 'eacl'?"]),
        (["--dataset", "medl"], ["'medl'", "Did you mean 'meld'?"]),
        (["--preset", "smal"], ["'smal'", "Did you mean 'small'?"]),
        (["batchsize=3"], ["'batchsize'", "Did you mean 'batch_size'?"]),
        (["epochs=many"], ["epochs", "many"]),
        (["epochs=-1"], ["epochs=-1", "too small"]),
        (["evaluation.batch_size=0"], ["setting evaluation.batch_size=0"]),
        (["nonsense"], ["'nonsense'", "key=value"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--seed", "-1"], ["--seed", "0 to"]),
        (["--seeds", "0"], ["--seeds 0"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["encoder=no/such-encoder"], ["'no/such-encoder'", "hub", "erc-bench[small]"]),
        (["--data-dir", "nowhere", "--dataset", "meld"], ["nowhere"]),
    ],
)
def test_wrong_words_are_named(argv, words, capsys, elsewhere: Path) -> None:
    message = fails(capsys, *train(*argv))
    for word in words:
        assert word in message
    assert files(elsewhere) == []


def test_missing_data_without_a_network(capsys, elsewhere: Path, cache: Path) -> None:
    message = fails(capsys, *train("--dataset", "meld"))
    for word in ("train_sent_emo.csv", "https://", str(cache), "--dataset demo"):
        assert word in message
    assert files(elsewhere) == []
    licensed = fails(capsys, *train("--dataset", "iemocap"))
    assert "iemocap" in licensed
    assert "USC" in licensed or "SAIL" in licensed


@pytest.fixture
def meld(elsewhere: Path) -> Path:
    """A copy of the real MELD files that a test may damage."""
    folder = elsewhere / "data" / "meld"
    shutil.copytree(real_data("meld") / "meld", folder)
    return folder


def damage(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[: len(b) // 2], ["checksum"]),
        (lambda b: b[: b.rindex(b",")], ["checksum"]),
        (
            lambda b: b.replace(b",surprise,", b",surprize,", 1),
            ["'surprize'", "line", "'surprise'"],
        ),
        (lambda b: b.replace(b"Emotion", b"Feeling", 1), ["Emotion"]),
        (lambda b: b"", ["test_sent_emo.csv"]),
        (lambda b: b"\x00\xff\xfe" * 99, ["test_sent_emo.csv"]),
    ],
)
def test_damaged_csv_files(change, words, meld: Path, capsys, elsewhere: Path) -> None:
    damage(meld / "test_sent_emo.csv", change)
    before = files(elsewhere)
    message = fails(capsys, *train("--dataset", "meld", "--data-dir", "data"))
    assert "test_sent_emo.csv" in message
    for word in words:
        assert word in message
    assert files(elsewhere) == before


def test_the_doctor_finds_a_wrong_checksum(meld: Path, capsys) -> None:
    damage(meld / "dev_sent_emo.csv", lambda b: b[:-200])
    assert main(["data", "doctor", "--data-dir", "data"]) == 1
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "checksum fails" in out
    assert "dev_sent_emo.csv" in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([[{"text": "Hi.", "speaker": "Ada", "label": "jolly"}]], ["jolly"]),
        ([[]], ["no utterances"]),
        ({"episodes": 3}, ["json"]),
        ([["Hi."]], ["json"]),
        ("[", ["json"]),
    ],
)
def test_json_of_the_wrong_shape(content, words, capsys, elsewhere: Path) -> None:
    folder = elsewhere / "data" / "emorynlp" / "flat"
    shutil.copytree(real_data("emorynlp") / "emorynlp" / "flat", folder)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "test_data.json").write_text(text)
    before = files(elsewhere)
    message = fails(capsys, *train("--dataset", "emorynlp", "--data-dir", "data"))
    assert "test_data.json" in message
    for word in words:
        assert word in message
    assert files(elsewhere) == before


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["rnu", "--method", "eacl"], "run by rnu"),
        (["run", "--metod", "eacl", "--dataset", "demo"], "--method by --metod"),
        (["run", "--method", "eacl", "--dataset", "demo", "--sed=3"], "--seed by --sed"),
        (["data", "lsit"], "list by lsit"),
        (["--vesion"], "--version by --vesion"),
    ],
)
def test_mistyped_commands_and_options_are_named(argv, meant, capsys) -> None:
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert capsys.readouterr().err.endswith(f". Did you mean {meant}?\n")


@pytest.mark.parametrize("argv", [["run", "--method", "eacl", "--dataset", "demo", "-x"], ["run"]])
def test_no_wild_guesses(argv, capsys) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert "Did you mean" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "list", "--data-dir", "elsewhere"])


@pytest.mark.parametrize(
    "argv",
    [
        *(["leaderboard", *option] for option in ([], ["--check"], ["--latex"])),
        ["compare", "eacl", "spcl", "--dataset", "demo"],
        ["rescore"],
    ],
)
def test_a_folder_of_records_that_is_not_there(argv, capsys, elsewhere: Path) -> None:
    assert "no folder leaderboard" in fails(capsys, *argv)
    assert "no folder bord" in fails(capsys, *argv, "--leaderboard-dir", "bord")
    assert files(elsewhere) == []


def test_nothing_to_compare(capsys, elsewhere: Path) -> None:
    (elsewhere / "leaderboard").mkdir()
    message = fails(capsys, "compare", "eacl", "spcl", "--dataset", "meld", "--preset", "small")
    assert "`erc-bench run --method eacl spcl --dataset meld --preset small`" in message
    assert "'meld'" in fails(capsys, "compare", "eacl", "spcl", "--dataset", "medl")


def test_an_unreadable_checkpoint(tiny_encoder: str, capsys, elsewhere: Path) -> None:
    from erc_bench.records.store import run_folder
    from erc_bench.settings.experiment import resolve

    settings = [f"encoder={tiny_encoder}", *QUICK]
    experiment = resolve("eacl", "demo", preset="smoke", overrides=settings)
    last = run_folder(elsewhere / "leaderboard", experiment) / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"torn")
    message = fails(capsys, *train("--resume", *settings))
    assert "last.ckpt" in message
    assert "without --resume" in message
    assert files(elsewhere / "leaderboard" / "records") == []


def test_an_output_folder_that_is_a_file(tiny_encoder: str, capsys, elsewhere: Path) -> None:
    (elsewhere / "board").write_text("a file")
    argv = train("--leaderboard-dir", "board", f"encoder={tiny_encoder}", *QUICK)
    assert "--leaderboard-dir" in fails(capsys, *argv)
    assert files(elsewhere) == ["board"]


def _small_files() -> None:
    """No file of this process may grow beyond 64 KiB: to the process the disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def test_a_full_output_folder(tiny_encoder: str, elsewhere: Path) -> None:
    """The examples are cached first, so that only checkpoints and the record are left to write."""
    settings = [f"encoder={tiny_encoder}", *QUICK]
    assert main(train("--quiet", "--leaderboard-dir", "other", *settings)) == 0
    command = [sys.executable, "-m", "erc_bench.cli", *train("--quiet", *settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=_small_files, env=os.environ.copy()
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "can't be written" in done.stderr
    assert files(elsewhere / "leaderboard") == []
    assert main(train("--quiet", "--resume", *settings)) == 0


def test_an_error_of_ours_shows_no_traceback_unless_asked(capsys) -> None:
    from erc_bench.errors import ErcBenchError

    with pytest.raises(ErcBenchError):
        main([*train("--method", "eacel"), "--debug"])
    assert "Traceback" not in fails(capsys, *train("--method", "eacel"))


def test_the_leaderboard_of_a_run(tiny_encoder: str, capsys, elsewhere: Path) -> None:
    settings = [f"encoder={tiny_encoder}", *QUICK]
    argv = ["run", "--dataset", "demo", "--preset", "smoke", "--seeds", "2", "--quiet"]
    for method in ("eacl", "finetune"):
        chosen = [s for s in settings if method == "eacl" or not s.startswith("stage2")]
        assert main([*argv, "--method", method, *chosen]) == 0
    assert main(["leaderboard", "--check"]) == 1
    assert main(["leaderboard"]) == 0
    assert main(["leaderboard", "--check"]) == 0
    pages = {"README.md", "leaderboard.json", "leaderboard.csv", "index.html"}
    assert pages <= {path.name for path in (elsewhere / "leaderboard").iterdir()}
    capsys.readouterr()
    assert main(["leaderboard", "--latex"]) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert main(["compare", "eacl", "finetune", "--dataset", "demo"]) == 0
    assert "weighted-F1" in capsys.readouterr().out
    assert main(["rescore"]) == 0
    assert "re-scored" in capsys.readouterr().out
    assert main(["leaderboard", "--check"]) == 0
    assert "'eacl'" in fails(capsys, "compare", "eacll", "finetune", "--dataset", "demo")
    (record, *_) = (elsewhere / "leaderboard" / "records").glob("*/*/*.json")
    record.write_text("{")
    assert main(["leaderboard"]) == 1
    assert record.name in capsys.readouterr().err


def test_one_failing_run_of_several_does_not_stop_the_others(
    tiny_encoder: str, capsys, elsewhere: Path
) -> None:
    settings = [f"encoder={tiny_encoder}", *QUICK]
    argv = ["run", "--method", "eacl", "--dataset", "meld", "demo", "--preset", "smoke", "--quiet"]
    assert main([*argv, *settings]) == 1
    streams = capsys.readouterr()
    assert re.search(r"eacl .* – .* \d+\.\d\d", streams.out)  # methods × corpora
    assert streams.err.startswith("erc-bench: eacl/meld/")
    assert "train_sent_emo.csv" in streams.err
    assert len(files(elsewhere / "leaderboard" / "records")) == 1
