"""The real command line: its output, its exit statuses, and its errors for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from places import place_of
from real_data import real_data
from synthetic_records import Method, write_records

from erc_bench import __version__, cli
from erc_bench.cli import main
from erc_bench.errors import ErcBenchError
from erc_bench.execution.report import Report
from erc_bench.execution.resources import ONE_DEVICE, Devices, Resources
from erc_bench.leaderboard import bibliography
from erc_bench.leaderboard.site import bibtex
from erc_bench.records.store import read_record
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.settings.presets import default_preset, presets
from erc_bench.settings.registry import corpus_names, method_names

QUICK = ("max_batches=2", "epochs=1", "max_len=32", "precision=float32", "stage2_epochs=1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, only the corpora that a test names, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    return tmp_path


def files(folder: Path) -> list[str]:
    """All files below a folder, except locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    )


def fails(capsys: pytest.CaptureFixture, *argv: str, status: int = 2) -> str:
    """Run a command line that must fail; returns its error, which must be one paragraph."""
    assert main([*argv, "--quiet"]) == status
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("erc-bench: ")
    assert len(streams.err.strip().splitlines()) == 1, "one paragraph"
    assert "Traceback" not in streams.err
    return streams.err


def train(*argv: str, dataset: str = "demo") -> list[str]:
    return ["run", "--method", "eacl", "--dataset", dataset, "--preset", "smoke", *argv]


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
    stored = json.loads(record.read_text(encoding="utf-8"))
    assert stored["seed"] == 4
    assert f"{stored['metrics']['test']['weighted_f1']:.2f}" in out
    assert main(train("--seed", "4", *settings)) == 0
    assert "Finished before" in capsys.readouterr().out


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Experiment], dict[str, Any]]]:
    """The runs and options that command lines ask for; nothing is run."""
    found = []

    def grid(experiments: list[Experiment], root: Path, **options: Any) -> Report:
        found.append((experiments, {"root": root, **options}))
        return Report()

    def one(experiment: Experiment, root: Path, **options: Any) -> None:
        found.append(([experiment], {"root": root, **options}))
        raise ErcBenchError("nothing is run")

    monkeypatch.setattr("erc_bench.execution.grid.run_grid", grid)
    monkeypatch.setattr("erc_bench.execution.run.run", one)
    return found


@pytest.mark.parametrize(
    ("argv", "seeds"),
    [
        ([], [1]),
        (["--seed", "1", "01", "3"], [1, 3]),  # a seed named twice is one run
        (["--seed", "2", "epochs=3", "--seed=0"], [2, 0]),
        (["--seeds", "3"], [1, 2, 3]),
    ],
)
def test_seeds(argv: list[str], seeds: list[int], asked) -> None:
    main(train(*argv))
    ((experiments, _),) = asked
    assert [each.seed for each in experiments] == seeds


def test_options_of_a_run_are_passed_on(asked, elsewhere: Path) -> None:
    main(train("--seeds=2"))
    common = {"retries": 3, "detach": False, "resources": Resources(), "devices": ONE_DEVICE}
    plain = {"root": Path("leaderboard"), "workers": None, "data_dir": None, "wandb": "off"}
    assert asked.pop()[1] == common | plain | {"restart": False, "force": False, "no_test": False}
    options = ["--restart", "--force", "--jobs", "3", "--data-dir=d", "--leaderboard-dir", "b"]
    main(train("--seeds=2", *options))
    given = {"root": Path("b"), "workers": 3, "data_dir": Path("d"), "wandb": "off"}
    assert asked.pop()[1] == common | given | {"restart": True, "force": True, "no_test": False}
    main(train("--resume", "--wandb", "off"))
    assert asked.pop()[1]["restart"] is False


@pytest.mark.slow
def test_all_methods_and_corpora(asked) -> None:
    main(["run", "--method", "all", "--dataset", "all"])
    ((experiments, _),) = asked
    wanted = [(method, dataset) for dataset in corpus_names() for method in method_names()]
    assert [(each.method, each.dataset) for each in experiments] == wanted


def test_the_last_of_repeated_options_counts_and_lists_grow(asked) -> None:
    main(train("--preset", "small", "--dataset", "meld", "--jobs", "2", "--jobs", "4", "--force"))
    ((experiments, options),) = asked
    assert [(each.dataset, each.preset) for each in experiments] == [
        ("demo", "small"),
        ("meld", "small"),
    ]
    assert options["workers"] == 4


def test_devices_nodes_and_strategy_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def one(experiment, root, **options):
        found.append(options["devices"])
        raise ErcBenchError("nothing is run")

    monkeypatch.setattr("erc_bench.execution.run.run", one)
    assert main(train("--devices", "2", "--strategy", "fsdp")) == 2
    assert main(train("--devices", "3")) == 2
    assert main(train("--devices", "4", "--nodes", "2")) == 2
    assert found == [Devices(2, sharded=True), Devices(3), Devices(4, nodes=2)]


@pytest.mark.slow
def test_several_seeds_and_overrides_after_an_option_of_several_values(
    tiny_encoder: str, capsys: pytest.CaptureFixture, elsewhere: Path
) -> None:
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
    assert "'batch_size=5'" in fails(capsys, "methods", "batch_size=5")


def test_overrides_behind_an_option_with_several_values(asked) -> None:
    argv = ["lr=1e-3", "--method", "eacl", "spcl", "epochs=3", "--dataset", "demo", "max_len=40"]
    main(["run", *argv, "--seed", "1", "accumulate=2", "--preset", "small", "batch_size=5"])
    ((experiments, _),) = asked
    assert [each.method for each in experiments] == ["eacl", "spcl"]
    for each in experiments:
        settings = each.settings
        assert (settings["lr"], settings["epochs"], settings["max_len"]) == (1e-3, 3, 40)
        assert (settings["accumulate"], settings["batch_size"]) == (2, 5)


def test_config_prints_what_a_run_would_use(capsys: pytest.CaptureFixture, elsewhere: Path) -> None:
    argv = ["config", "--method", "eacl", "--dataset", "meld", "--preset", "small", "epochs=3"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "epochs: 3" in out
    assert "encoder: sentence-transformers/all-MiniLM-L6-v2" in out
    assert files(elsewhere) == []


def test_methods_lists_what_is_registered(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == method_names()
    for line in lines[1::2]:
        assert all(f"{fact}: " in line for fact in ("family", "context", "trains", "needs a GPU"))


@pytest.mark.parametrize(
    ("executor", "resources", "unused"),
    [
        ("local", ["gpus=1", "cpus=2", "slurm.partition=gpu"], "cpus, gpus, slurm.partition"),
        ("ray", ["gpus=1", "minutes=9", "slurm.partition=gpu"], "minutes, slurm.partition"),
        ("ray", ["cpus=2"], ""),
    ],
)
def test_resources_that_are_not_used_are_named(
    executor: str, resources: list[str], unused: str, asked, capsys: pytest.CaptureFixture
) -> None:
    main(train("--seeds", "2", "--executor", executor, "--resources", *resources))
    said = f"the executor {executor} does not use {unused}."
    assert (said in capsys.readouterr().err) == bool(unused)


def test_a_full_disk_for_the_output_is_one_plain_error(capfd: pytest.CaptureFixture) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    command = [str(Path(sys.executable).with_name("erc-bench")), "methods"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "erc-bench: the output can't be written: No space left on device. Make room."
    ]


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
        (["--seeds", "2.5"], ["--seeds", "'2.5'"]),
        (["--jobs", "0"], ["--jobs takes", "not 0"]),
        (["--jobs", "two"], ["--jobs", "'two'"]),
        (["--wandb", "ofline"], ["--wandb", '"ofline"', 'Did you mean "offline"?']),
        (["encoder=no/such-encoder"], ["'no/such-encoder'", "hub", "pip install"]),
    ],
)
def test_wrong_arguments_are_named(argv, words, capsys, elsewhere: Path) -> None:
    message = fails(capsys, *train(*argv))
    for word in words:
        assert word in message
    assert files(elsewhere) == []


def test_a_folder_of_corpora_that_is_not_there(capsys, elsewhere: Path) -> None:
    assert "nowhere" in fails(capsys, *train("--data-dir", "nowhere", dataset="meld"))
    assert files(elsewhere) == []


def test_missing_data_without_a_network(capsys, elsewhere: Path, cache: Path) -> None:
    message = fails(capsys, *train(dataset="meld"))
    for word in ("train_sent_emo.csv", "https://", str(cache), "--dataset demo"):
        assert word in message
    assert files(elsewhere) == []
    licensed = fails(capsys, *train(dataset="iemocap"))
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
    message = fails(capsys, *train("--data-dir", "data", dataset="meld"))
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
    (folder / "test_data.json").write_text(text, encoding="utf-8")
    before = files(elsewhere)
    message = fails(capsys, *train("--data-dir", "data", dataset="emorynlp"))
    assert "test_data.json" in message
    for word in words:
        assert word in message
    assert files(elsewhere) == before


RUN = ["run", "--method", "eacl", "--dataset", "demo"]


@pytest.mark.parametrize(
    ("argv", "given", "meant"),
    [
        (["rnu", "--method", "eacl"], '"rnu"', '"run"'),
        (["run", "--metod", "eacl", "--dataset", "demo"], "--metod", "--method"),
        (["config", "--method", "eacl", "--datset", "demo"], "--datset", "--dataset"),
        (["score", "p.csv", "--datset", "demo", "--name", "my-llm"], "--dataset", "it by --datset"),
        ([*RUN, "--sed=3"], "--sed=3", "--seed"),
        ([*RUN, "--no-resume"], "--no-resume", "--resume"),
        (["data", "lsit"], '"lsit"', '"list"'),
        (
            ["score", "p.csv", "--dataset", "demo", "--name", "n", "--split", "tst"],
            '"tst"',
            '"test"',
        ),
        (["predict", "eacl", "--jsn"], "--jsn", "--json"),
        (["--vesion"], "--vesion", "--version"),
    ],
)
def test_mistyped_commands_and_options_are_named(argv, given, meant, capsys) -> None:
    message = fails(capsys, *argv)
    assert given in message
    assert f" Did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*RUN, "-x"], "-x"),
        (["run"], "`erc-bench run` needs --method"),
        (["run", "--method", "eacl"], "`erc-bench run` needs --dataset"),
        (["run", "--method", "--dataset", "demo"], "--method"),
        (["run", "--method", "epochs=3", "--dataset", "demo"], "--method"),
        ([*RUN, "--preset"], "--preset"),
        ([], "`erc-bench --help`"),
        (["data"], "`erc-bench data --help`"),
        (["data", "list", "--data-dir", "elsewhere"], "--data-dir"),
        (["compare", "eacl", "--dataset", "demo"], "OTHER"),
        (["predict", "eacl", "a.txt", "b.txt"], "'b.txt'"),
    ],
)
def test_errors_without_a_near_match_suggest_nothing(argv, words, capsys, elsewhere: Path) -> None:
    message = fails(capsys, *argv)
    assert words in message
    assert "Did you mean" not in message
    assert files(elsewhere) == []


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ([*RUN, "--seed", "1", "--seeds", "3"], ["--seed", "--seeds"]),
        ([*RUN, "--resume", "--restart"], ["--resume", "--restart"]),
        (["leaderboard", "--check", "--latex"], ["--check", "--latex"]),
        (["explain", "eacl", "--dialogue", "test-d0", "--worst", "3"], ["--dialogue", "--worst"]),
    ],
)
def test_options_that_exclude_each_other(argv, names, capsys, elsewhere: Path) -> None:
    message = fails(capsys, *argv)
    assert all(name in message for name in [*names, "not both"])
    assert files(elsewhere) == []


def commands(app: App, *before: str) -> Iterator[tuple[str, ...]]:
    """All commands of the command line, including groups of commands."""
    for name, command in app.resolved_commands().items():
        if not name.startswith("-"):
            yield (*before, name)
            yield from commands(command, *before, name)


def test_every_command_has_help(capsys) -> None:
    found = list(commands(cli.app))
    assert ("data", "list") in found
    for argv in found:
        assert main([*argv, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"Usage: erc-bench {' '.join(argv)} ")
        assert "--quiet" in out
        assert "--debug" in out
        assert not re.search("--(no|empty)-(?!test)", out)


def test_help_names_the_presets_and_the_default(capsys) -> None:
    assert main(["run", "--help"]) == 0
    out = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert all(f"{preset.name} ({preset.description})" in out for preset in presets().values())
    assert f"[default: {default_preset()}]" in out


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"erc-bench {__version__}\n"


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("erc_bench.execution.run.run", interrupt)
    assert main(train("--quiet")) == 130
    message = capsys.readouterr().err
    assert message.startswith("erc-bench: interrupted; ")
    assert "the same command resumes it" in message
    monkeypatch.setattr("erc_bench.settings.methods.method_entries", interrupt)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "erc-bench: interrupted.\n"


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


@pytest.mark.slow
def test_an_unreadable_checkpoint(tiny_encoder: str, capsys, elsewhere: Path) -> None:

    settings = [f"encoder={tiny_encoder}", *QUICK]
    experiment = resolve("eacl", "demo", preset="smoke", overrides=settings)
    last = place_of(elsewhere / "leaderboard", experiment).folder / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"torn")
    for resume in ([], ["--resume"]):  # --resume is the default
        message = fails(capsys, *train(*resume, *settings))
        assert "last.ckpt" in message
        assert "--restart" in message
        assert files(elsewhere / "leaderboard" / "records") == []
    assert main(train("--quiet", "--restart", *settings)) == 0


def test_an_output_folder_that_is_a_file(tiny_encoder: str, capsys, elsewhere: Path) -> None:
    (elsewhere / "board").write_text("a file", encoding="utf-8")
    argv = train("--leaderboard-dir", "board", f"encoder={tiny_encoder}", *QUICK)
    assert "--leaderboard-dir" in fails(capsys, *argv)
    assert files(elsewhere) == ["board"]


def _small_files() -> None:
    """Limit the files of this process to 64 KiB, as if the disk were full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


@pytest.mark.skipif(sys.platform == "win32", reason="only Unix limits the size of files")
@pytest.mark.slow
def test_a_full_output_folder(tiny_encoder: str, elsewhere: Path) -> None:
    """A first run fills the caches, so that only checkpoints and the record are left to write."""
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
    assert main(train("--quiet", *settings)) == 0


def test_an_erc_bench_error_shows_a_traceback_only_with_debug(capsys) -> None:
    with pytest.raises(ErcBenchError):
        main([*train("--method", "eacel"), "--debug"])
    assert "Traceback" not in fails(capsys, *train("--method", "eacel"))


@pytest.mark.slow
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
    assert "up to date" in capsys.readouterr().out
    assert "'eacl'" in fails(capsys, "compare", "eacll", "finetune", "--dataset", "demo")
    (record, *_) = (elsewhere / "leaderboard" / "records").glob("*/*/*.json")
    record.write_text("{", encoding="utf-8")
    assert main(["leaderboard"]) == 1
    assert record.name in capsys.readouterr().err


@pytest.mark.slow
def test_one_failing_run_of_several_does_not_stop_the_others(
    tiny_encoder: str, capsys, elsewhere: Path
) -> None:
    settings = [f"encoder={tiny_encoder}", *QUICK]
    argv = ["run", "--method", "eacl", "--dataset", "meld", "demo", "--preset", "smoke", "--quiet"]
    assert main([*argv, *settings]) == 1
    streams = capsys.readouterr()
    assert re.search(r"demo, dev .* demo, test", streams.out)
    assert re.search(r"eacl .* \d+\.\d\d .* \d+\.\d\d", streams.out)
    assert streams.err.startswith("erc-bench: eacl/meld/")
    assert "train_sent_emo.csv" in streams.err
    assert len(files(elsewhere / "leaderboard" / "records")) == 1


def test_runs_are_removed_after_confirmation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path, [Method("a", seeds=(1, 2)), Method("b", seeds=(1,))])
    path = next(tmp_path.glob("records/meld/a/*-seed1.json"))
    folder = tmp_path / "runs" / "meld" / "a" / path.stem
    folder.mkdir(parents=True)
    (folder / "model.ckpt").touch()
    words = ["records", "rm", "a/meld/seed1", "b", "--leaderboard-dir", str(tmp_path)]
    assert main(words) == 2  # no terminal, so nobody can be asked
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert main(words) == 1
    assert path.exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main([*words[:3], "nobody", *words[4:]]) == 2
    assert path.exists()
    assert main(words) == 0
    assert str(folder) in capsys.readouterr().out
    assert not path.exists()
    assert not folder.exists()
    assert [p.parent.name for p in tmp_path.glob("records/*/*/*.json")] == ["a"]


def test_records_of_another_folder_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs, more = (tmp_path / name for name in ("mine", "theirs", "more"))
    write_records(theirs, [Method("a"), Method("b", 0.5)])
    write_records(more, [Method("c")])
    where = ["--leaderboard-dir", str(mine), "--with-records", str(theirs), str(more)]
    for words, shown in (
        (["compare", "b", "c", "--dataset", "meld"], "b against c on meld"),
        (["leaderboard", "--latex"], "\nc & "),
    ):
        assert main([*words, *where]) == 0
        out, err = capsys.readouterr()
        assert f"no folder {mine}, so only records of {theirs} and {more} are read" in err
        assert shown in out
        assert not mine.exists()
    assert main(["leaderboard", *where]) == 0
    rows = json.loads((mine / "leaderboard.json").read_text(encoding="utf-8"))
    assert {row["method"] for track in rows["corpora"][0]["tracks"] for row in track["rows"]} == {
        *"abc"
    }
    assert not list(theirs.glob("*.md"))
    assert main(["leaderboard", *where, "--site", str(tmp_path / "site")]) == 0
    assert len(list((tmp_path / "site").glob("runs/meld/*/*.html"))) == 9
    assert main(["leaderboard", *where, str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def bib_entries(text: str) -> dict[str, dict[str, str]]:
    """The entries of a BibTeX file by key; asserts that each is valid BibTeX."""
    found: dict[str, dict[str, str]] = {}
    rest = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    while rest := rest.strip():
        entry = re.match(r"@(\w+)\{([A-Za-z][\w:.-]*),\n((?:  \w+ = \{.*\},\n)+)\}", rest)
        assert entry, rest[:200]
        kind, key, body = entry.groups()
        fields = re.findall(r"  (\w+) = \{(.*)\},\n", body)
        values = dict(fields)
        assert len(values) == len(fields), f"{key} says something twice"
        assert key not in found
        assert kind == "misc"
        assert {"author", "title", "year"} <= values.keys()  # what biblatex requires of @misc
        for name, value in values.items():
            assert value.strip(), f"{key}: {name} is empty"
            assert value.count("{") == value.count("}")
            if name != "url":
                assert not re.search(r"(?<!\\)[&%$#_]", re.sub(r"\\cite\{.*?\}", "", value)), value
        found[key] = values
        rest = rest[entry.end() :]
    return found


def test_the_papers_that_the_latex_table_cites_have_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path, [Method("a")])
    words = ["leaderboard", "--leaderboard-dir", str(tmp_path)]
    assert main([*words, "--latex"]) == 0
    cited = set(re.findall(r"\\citep\{(.+?)\}", capsys.readouterr().out))
    assert main([*words, "--bib"]) == 0
    entries = capsys.readouterr().out
    assert cited <= bib_entries(entries).keys()
    assert "  eprint = {2403.20289},\n" in entries
    assert "  author = {Yu and others},\n" in entries
    assert "  year = {2024},\n" in entries
    assert main([*words, "--latex", "--bib"]) == 2
    assert "once for each" in capsys.readouterr().err


def test_a_paper_with_unknown_authors_has_an_entry(tmp_path: Path) -> None:
    rows = ["  some_1: {method: A_1 & B, note: 50% quoted, results: {meld: {weighted_f1: 60}}}"]
    (tmp_path / "published.yaml").write_text("\n".join(["papers:", *rows]), encoding="utf-8")
    (entry,) = bib_entries(bibliography(tmp_path)).values()
    assert entry == {
        "author": "{Unknown}",
        "title": r"{A\_1 \& B}",
        "year": "n.d.",
        "note": r"50\% quoted",
    }


def test_the_bibtex_entry_of_a_run_is_valid(tmp_path: Path) -> None:
    (path,) = write_records(tmp_path, [Method("a_1", seeds=[1])])
    (entry,) = bib_entries(bibtex(path, read_record(path), "A_1 & B on MELD", None)).values()
    assert entry["title"] == r"{A\_1 \& B on MELD}"
