"""A run from settings to record: seeds, selection, resuming, and the files it leaves."""

import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fitting import PowerCut, fitted
from lightning import Callback
from places import place_of, plain
from torch.utils._python_dispatch import TorchDispatchMode

from erc_bench.corpus.conversation import Corpus
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import evaluate
from erc_bench.execution import run as runner
from erc_bench.execution.run import run
from erc_bench.inference.model import Model
from erc_bench.methods.eacl import EACL
from erc_bench.records.parsing import RecordError
from erc_bench.records.place import LAST, model_file
from erc_bench.records.store import read_record
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.settings.registry import corpus_source
from erc_bench.training import checkpoints, environment, train
from erc_bench.training.environment import device_name, git_commit, joined

QUICK = ("precision=float32", "max_len=48", "batch_size=32", "encoder_lr=0.003", "lr=0.003")


@pytest.fixture(scope="module")
def quick(tiny_encoder: str):
    """EACL on demo for a few batches an epoch; further overrides and a seed can be given."""

    def experiment(*overrides: str, seed: int = 1) -> Experiment:
        settings = [f"encoder={tiny_encoder}", "max_batches=6", "epochs=3", *QUICK, *overrides]
        return resolve("eacl", "demo", preset="smoke", seed=seed, overrides=settings)

    return experiment


@pytest.fixture(scope="module")
def finished_run(quick, tmp_path_factory: pytest.TempPathFactory):
    """One finished run, with the oracle gap."""
    root = tmp_path_factory.mktemp("root")
    experiment = quick("evaluation.oracle=true")
    return root, experiment, run(experiment, root)


def predictions(record) -> dict:
    return {split: stored.probabilities for split, stored in record.predictions.items()}


def model_of(root: Path, experiment: Experiment) -> Path:
    """The only model in the folder of a run."""
    (model,) = place_of(root, experiment).folder.glob("model*.ckpt")
    return model


def cut_off(monkeypatch, experiment: Experiment, root: Path, epoch: int, **options) -> None:
    """Start a run and break it off in the middle of an epoch (counted from 0)."""
    build = train.build_trainer
    with monkeypatch.context() as patched:
        patched.setattr(
            train,
            "build_trainer",
            lambda m, d, f, c, *o: build(m, d, f, [*c, PowerCut(epoch)], *o),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment, root, **options)


def cut_off_at_the_end(monkeypatch, experiment: Experiment, root: Path) -> None:
    """Start a run and break it off between its last epoch and its record."""

    def cut(*args, **kwargs):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "make_record", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment, root)
    assert (place_of(root, experiment).folder / "last.ckpt").exists()


def best_of(folder: Path) -> Path:
    """The checkpoint that ``last.ckpt`` names as the best on dev."""
    callbacks = torch.load(folder / "last.ckpt", weights_only=True)["callbacks"].values()
    named = [Path(c["best_model_path"]) for c in callbacks if "best_model_path" in c]
    (best,) = (path for path in named if path.name.startswith("best-"))
    return best


def test_the_record_holds_settings_and_results(finished_run, demo) -> None:
    root, experiment, outcome = finished_run
    path = place_of(root, experiment).record
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record == plain(outcome.record)
    assert read_record(path) == outcome.record
    assert (record["method"], record["dataset"], record["seed"]) == ("eacl", "demo", 1)
    assert record["config"] == experiment.settings
    assert record["config_hash"] == experiment.hash
    assert record["dataset_digest"] == demo.digest
    assert (record["context"], record["selection"]) == ("past", "dev weighted_f1")
    assert len(record["encoder"]["digest"]) == 64
    assert record["training"]["epochs"] == len(record["training"]["curves"]) == 3
    assert record["training"]["utterances_per_second"] > 0
    assert record["training"]["peak_memory_mib"] > 100
    assert record["environment"]["versions"]["torch"] == torch.__version__
    assert record["plugin"] == {"distribution": "erc-bench", "version": version("erc-bench")}
    model = path.parents[3] / "runs" / "demo" / "eacl" / path.stem / record["model"]["file"]
    assert hashlib.sha256(model.read_bytes()).hexdigest() == record["model"]["sha256"]


def test_every_labelled_utterance_is_predicted_once_in_corpus_order(finished_run, demo) -> None:
    record = plain(finished_run[2].record)
    for split in ("dev", "test"):
        stored = record["predictions"][split]
        wanted = [u for d in demo.dialogues(split) for u in d.utterances if u.label is not None]
        assert stored["ids"] == [u.id for u in wanted]
        assert stored["gold"] == [u.label for u in wanted]
        again = evaluate(
            torch.tensor(stored["predicted"]),
            torch.tensor(stored["gold"]),
            record["labels"],
            torch.tensor(stored["probabilities"]),
        )
        for figure, value in again.items():
            assert record["metrics"][split][figure] == value


def test_dev_selects_the_epoch_and_the_oracle_gap_is_recorded(finished_run) -> None:
    record = plain(finished_run[2].record)
    curves = record["training"]["curves"]
    on_dev = [epoch["dev/weighted_f1"] for epoch in curves]
    on_test = [epoch["test/weighted_f1"] for epoch in curves]
    best = record["training"]["best_epoch"] - 1
    assert on_dev[best] == max(on_dev)
    assert record["oracle_gap"] == pytest.approx(max(on_test) - on_test[best])


def test_attention_is_not_left_to_cudnn(finished_run) -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_only_the_model_is_left_of_the_checkpoints(finished_run) -> None:
    root, experiment, _ = finished_run
    assert list(place_of(root, experiment).folder.glob("*.ckpt")) == [model_of(root, experiment)]


def test_a_finished_run_is_skipped_unless_forced(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    first = run(experiment, tmp_path)
    second = run(experiment, tmp_path)
    assert second.skipped
    assert second.record == read_record(first.path)
    stamp = first.path.stat().st_mtime_ns
    forced = run(experiment, tmp_path, force=True)
    assert not forced.skipped
    assert first.path.stat().st_mtime_ns > stamp


def test_a_skipped_run_writes_nothing(finished_run) -> None:
    """Not even a lock, so that a store may be used without permission to write."""
    root, experiment, _ = finished_run
    (place_of(root, experiment).folder / "lock").unlink(missing_ok=True)
    before = sorted(root.rglob("*"))
    assert run(experiment, root).skipped
    assert sorted(root.rglob("*")) == before


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_a_finished_run_in_a_read_only_folder_is_skipped(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    run(experiment, tmp_path)
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert run(experiment, tmp_path).skipped
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.slow
def test_a_damaged_record_is_an_error_and_force_repeats_the_run(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    whole = run(experiment, tmp_path)
    whole.path.write_text(json.dumps({**plain(whole.record), "metrics": {}}), encoding="utf-8")
    with pytest.raises(RecordError, match="--force"):
        run(experiment, tmp_path)
    assert run(experiment, tmp_path, force=True).record.metrics == whole.record.metrics


@pytest.mark.slow
def test_a_repetition_that_fails_leaves_record_and_model_as_they_were(
    quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = quick("epochs=1")
    path = run(experiment, tmp_path).path
    model = model_of(tmp_path, experiment)
    before = {file: file.read_bytes() for file in (model, path)}

    for moment in ("make_record", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"erc_bench.execution.run.{moment}", power_cut)
            with pytest.raises(RuntimeError, match="power cut"):
                run(experiment, tmp_path, force=True)
        assert {file: file.read_bytes() for file in (model, path)} == before
    stamp = path.stat().st_mtime_ns
    run(experiment, tmp_path, force=True)
    assert path.stat().st_mtime_ns > stamp
    assert list(model.parent.glob("*.ckpt*")) == [model_of(tmp_path, experiment)]


def power_cut(*_: object, **__: object) -> None:
    raise RuntimeError("power cut")


@pytest.mark.slow
def test_force_trains_again_if_the_run_was_killed_before_it_tidied_up(
    quick, tmp_path: Path
) -> None:
    """The repetition does not resume from the finished checkpoints."""
    experiment = quick("epochs=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erc_bench.records.place.Place.tidy_up", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment, tmp_path)
    place = place_of(tmp_path, experiment)
    assert place.record.exists()
    assert place.is_interrupted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erc_bench.execution.run.make_record", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment, tmp_path, force=True)
    made = torch.load(place.folder / LAST, weights_only=True)["callbacks"]["TrainingLog"]
    assert len(made["environments"]) == 1  # of one training that was not resumed


def test_a_record_outside_a_store_has_no_model(quick, tmp_path: Path) -> None:
    outcome = run(quick("epochs=1"), tmp_path)
    moved = tmp_path / "r.json"
    moved.write_bytes(outcome.path.read_bytes())
    with pytest.raises(ErcBenchError, match="does not lie in a store"):
        model_file(moved, outcome.record)


@pytest.mark.slow
def test_a_record_never_names_another_runs_model(quick, tmp_path: Path, monkeypatch) -> None:
    """A repetition may be killed before it writes its record, or before it deletes old weights."""
    experiment = quick("epochs=1")
    first = run(experiment, tmp_path)
    weights = model_of(tmp_path, experiment).read_bytes()
    # Weights of the same run, as another version of the code might have trained them.
    other = model_of(tmp_path, experiment).with_name("model-0123456789abcdef.ckpt")
    other.write_bytes(b"of another training")
    model = model_file(first.path, read_record(first.path))
    assert model.read_bytes() == weights
    os.utime(other, ns=(0, first.path.stat().st_mtime_ns - 1))
    assert run(experiment, tmp_path).skipped
    assert model_of(tmp_path, experiment) == model


def test_weights_that_are_not_the_recorded_ones_are_refused(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    outcome = run(experiment, tmp_path)
    model = model_of(tmp_path, experiment)
    weights = bytearray(model.read_bytes())
    weights[len(weights) // 2] ^= 1
    model.write_bytes(weights)
    with pytest.raises(ErcBenchError, match="SHA-256"):
        Model(outcome.path, outcome.record)


@pytest.mark.slow
def test_the_same_seed_repeats_bit_for_bit_and_another_differs(quick, tmp_path: Path) -> None:
    one = run(quick(), tmp_path / "one").record
    torch.rand(17)  # earlier draws do not matter
    two = run(quick(), tmp_path / "two").record
    three = run(quick(seed=2), tmp_path / "three").record
    assert predictions(one) == predictions(two)
    assert one.metrics == two.metrics
    assert one.training.curves == two.training.curves
    assert predictions(one) != predictions(three)


def command(experiment: Experiment, root: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "erc_bench.cli", "run", "--method", "eacl", "--dataset", "demo"),
        *("--preset", "smoke", "--leaderboard-dir", str(root), *options, *experiment.overrides),
    ]


@pytest.mark.parametrize("epochs_done", [0, 2])
@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_result(
    quick, tmp_path: Path, epochs_done: int
) -> None:
    experiment = quick("epochs=4")
    whole = run(experiment, tmp_path / "whole").record
    root = tmp_path / "killed"
    last = place_of(root, experiment).folder / "last.ckpt"
    process = subprocess.Popen(
        command(experiment, root), stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line.startswith("Epoch ")
        if seen == epochs_done or "error" in line.lower():
            break
    deadline = time.monotonic() + 60
    while epochs_done and not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    assert not place_of(root, experiment).record.exists()
    resumed = run(experiment, root).record
    assert predictions(resumed) == predictions(whole)
    assert resumed.metrics == whole.metrics
    assert resumed.training.best_epoch == whole.training.best_epoch
    assert len(resumed.training.curves) == 4


@pytest.mark.slow
def test_a_run_that_stopped_early_does_not_train_on_when_resumed(
    quick, tmp_path: Path, monkeypatch
) -> None:
    experiment = quick("epochs=6", "patience=1", "encoder_lr=1e-9", "lr=1e-9")
    whole = run(experiment, tmp_path / "whole").record
    assert whole.training.epochs == 2
    root = tmp_path / "killed"
    cut_off_at_the_end(monkeypatch, experiment, root)
    resumed = run(experiment, root).record
    assert resumed.training.epochs == 2
    assert predictions(resumed) == predictions(whole)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_restart_begins_it_anew(
    quick, tmp_path: Path, monkeypatch, capsys
) -> None:
    """``restart`` keeps the old checkpoints until the first new epoch has ended."""
    experiment = quick()
    folder = place_of(tmp_path, experiment).folder

    cut_off(monkeypatch, experiment, tmp_path, epoch=2)
    before = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == 1
    capsys.readouterr()
    cut_off(monkeypatch, experiment, tmp_path, epoch=2)
    assert "Resuming after epoch 2 of 3" in capsys.readouterr().err
    cut_off(monkeypatch, experiment, tmp_path, epoch=0, restart=True)
    assert "Starting from the beginning" in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} == before
    cut_off(monkeypatch, experiment, tmp_path, epoch=1, restart=True)
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == 0
    assert {path.name for path in folder.glob("*.ckpt")} == {LAST, "best-epoch=0.ckpt"}
    # If it is killed while deleting, no last.ckpt is left that names a deleted best checkpoint.
    (folder / "best-epoch=9.ckpt").mkdir()
    with pytest.raises(OSError, match="best-epoch=9"):
        run(experiment, tmp_path, restart=True)
    assert not (folder / LAST).exists()


@pytest.mark.slow
def test_a_record_names_all_commits_and_devices_that_trained(
    quick, tmp_path: Path, monkeypatch
) -> None:
    experiment = quick()
    monkeypatch.setattr(environment, "COMMIT", "old")
    cut_off(monkeypatch, experiment, tmp_path, epoch=1)
    monkeypatch.setattr(environment, "COMMIT", "new")
    monkeypatch.setattr(environment, "device_name", lambda: "another")
    resumed = run(experiment, tmp_path).record
    assert resumed.environment.git_commit == "old → new"
    assert resumed.environment.device == f"{device_name()} → another"
    assert resumed.environment.threads == torch.get_num_threads()
    again = run(experiment, tmp_path, force=True).record
    assert again.environment.git_commit == "new"


def test_environments_of_a_resumed_run_are_joined() -> None:
    a, b = ({"commit": c, "threads": 2, "versions": {"torch": v}} for c, v in ("ax", "by"))
    assert joined([a]) == a
    assert joined([a, b, b]) == {
        "commit": "a → b",
        "threads": 2,
        "versions": {"torch": "x → y"},
    }
    assert joined([{}, b])["versions"] == {"torch": "unknown → y"}
    assert joined([{"commit": None}, {"commit": None}]) == {"commit": None}


def test_only_changes_of_the_code_make_a_commit_dirty(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        name = ("-c", "user.name=N", "-c", "user.email=e@example.org")
        done = subprocess.run(
            ["git", "-C", tmp_path, *name, *command], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "-q")
    assert git_commit(tmp_path) is None
    for folder in ("docs", "methods"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    (tmp_path / "docs" / "a").write_text("2", encoding="utf-8")
    assert git_commit(tmp_path) == head
    (tmp_path / "methods" / "a").write_text("2", encoding="utf-8")
    assert git_commit(tmp_path) == f"{head}-dirty"


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_checkpoint_names_existing_files_whenever_power_fails(
    quick, tmp_path: Path, monkeypatch, epoch: int
) -> None:
    """The power fails after the best checkpoint of an epoch is saved, and before last.ckpt is."""
    experiment, save, saved = quick("epochs=4"), checkpoints.save_whole, []

    def failing(checkpoint: dict, path: Path) -> None:
        if path.name == "last.ckpt":
            saved.append(path)
            if len(saved) == epoch:
                raise RuntimeError("power cut")
        save(checkpoint, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_whole", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            run(experiment, tmp_path)
    assert best_of(place_of(tmp_path, experiment).folder).exists()


@pytest.mark.slow
def test_an_unreadable_checkpoint_is_named(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    last = place_of(tmp_path, experiment).folder / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"not a checkpoint")
    with pytest.raises(ErcBenchError, match="--restart") as caught:
        run(experiment, tmp_path)
    assert str(last) in str(caught.value)
    assert not place_of(tmp_path, experiment).record.exists()
    assert run(experiment, tmp_path, restart=True).path.exists()


def test_a_checkpoint_of_another_version_is_an_error(quick, tmp_path: Path, monkeypatch) -> None:
    experiment = quick()
    cut_off(monkeypatch, experiment, tmp_path, epoch=1)
    last = place_of(tmp_path, experiment).folder / LAST
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, last)
    with pytest.raises(ErcBenchError, match="does not fit EACL as it is now"):
        run(experiment, tmp_path)


@pytest.mark.parametrize("when", ["in training", "while a checkpoint is written"])
def test_a_gpu_without_enough_memory_is_an_error(quick, tmp_path: Path, monkeypatch, when) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has more to say."
        )

    place = (EACL, "loss") if when == "in training" else (checkpoints.torch, "save")
    monkeypatch.setattr(*place, full)
    said = r"The GPU .*\(CUDA out of memory\)\. .*--jobs 1.*resumes .* the last finished epoch\.$"
    with pytest.raises(ErcBenchError, match=said):
        run(quick("epochs=1"), tmp_path)


def test_two_processes_do_not_do_the_same_run(quick, tmp_path: Path) -> None:
    from filelock import FileLock

    experiment = quick("epochs=1")
    folder = place_of(tmp_path, experiment).folder
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"), pytest.raises(ErcBenchError, match="Another process"):
        run(experiment, tmp_path)
    assert not place_of(tmp_path, experiment).record.exists()


def test_demo_needs_no_files() -> None:
    assert corpus_source("demo").load(None).name == "demo"


def test_every_finished_epoch_can_be_resumed_even_if_dev_did_not_improve(
    quick, demo, tmp_path: Path
) -> None:
    config = quick("epochs=6", "patience=0", "encoder_lr=1e-9", "lr=1e-9").config
    with pytest.raises(RuntimeError, match="power cut"):
        fitted(EACL, config, demo, tmp_path, PowerCut(3))
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    assert best_of(tmp_path).name == "best-epoch=0.ckpt"
    assert best_of(tmp_path).exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_can_be_resumed(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=40")
    process = subprocess.Popen(
        command(experiment, tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
        # If the tests run in the background, SIGINT is ignored, which the process would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Epoch 2/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "the same command resumes" in rest
    assert "Traceback" not in rest
    last = torch.load(place_of(tmp_path, experiment).folder / "last.ckpt", weights_only=True)
    assert last["epoch"] >= 0  # the line of an epoch comes just before its checkpoint
    assert not place_of(tmp_path, experiment).record.exists()


@pytest.mark.slow
def test_a_moved_folder_resumes_to_the_same_result(quick, tmp_path: Path, monkeypatch) -> None:
    """This holds even if the best epoch was before the move."""
    experiment = quick("epochs=4")
    whole = run(experiment, tmp_path / "whole").record
    cut_off_at_the_end(monkeypatch, experiment, tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    resumed = run(experiment, tmp_path / "after").record
    assert predictions(resumed) == predictions(whole)
    assert resumed.training.best_epoch == whole.training.best_epoch


def test_a_diverged_run_leaves_no_record(quick, tmp_path: Path) -> None:
    experiment = quick("encoder_lr=1e30", "lr=1e30", "gradient_clip=0", "stage2_epochs=0")
    with pytest.raises(ErcBenchError, match="diverged"):
        run(experiment, tmp_path)
    assert not place_of(tmp_path, experiment).record.exists()


def test_a_corpus_without_dev_is_refused(quick, demo, tmp_path: Path, monkeypatch) -> None:
    splits = {split: demo.dialogues(split)[:2] for split in ("train", "test")}
    corpus = Corpus.build("halved", demo.labels, splits)
    source = SimpleNamespace(load=lambda _: corpus)
    monkeypatch.setattr(runner, "corpus_source", lambda name: source)
    with pytest.raises(ErcBenchError, match="halved has no split dev"):
        run(quick(), tmp_path)


class Held(Callback):
    """Counts the parameters that have a gradient at the end of each batch."""

    def __init__(self) -> None:
        self.gradients: list[int] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.gradients.append(sum(p.grad is not None for p in pl_module.parameters()))


def test_gradients_are_freed_after_each_step(quick, demo, tmp_path: Path) -> None:
    held = Held()
    fitted(EACL, quick("epochs=1", "accumulate=2").config, demo, tmp_path, held)
    assert [number > 0 for number in held.gradients] == [True, False] * 3


class Products(TorchDispatchMode):
    """Collects the dtypes of the factors of batched matrix products, as attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.bmm.default:
            self.types |= {factor.dtype for factor in args}
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
def test_attention_multiplies_in_bfloat16_in_a_bfloat16_training(quick, tmp_path: Path) -> None:
    with Products() as products:
        run(quick("precision=bfloat16", "epochs=1", "stage2_epochs=0"), tmp_path)
    assert products.types == {torch.bfloat16}


@pytest.mark.parametrize(
    ("inside", "outside", "said"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (
            OSError(errno.ENOSPC, "No space left"),
            ErcBenchError,
            "written: No space left. Make room",
        ),
    ],
)
def test_the_cause_of_a_failed_checkpoint_write_is_reported(
    inside: BaseException, outside: type[BaseException], said: str, tmp_path: Path, monkeypatch
) -> None:
    """PyTorch reports every cause as the same error of its own."""

    class Stopped(io.BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            self.writes += 1
            if self.writes == 3:
                raise inside
            return super().write(data)

    monkeypatch.setattr(checkpoints, "whole_file", lambda *_: contextlib.nullcontext(Stopped()))
    with pytest.raises(outside, match=said):
        checkpoints.save_whole({"weights": torch.zeros(9999)}, tmp_path / "last.ckpt")
