"""The W&B log of a run, as wandb's own reader reads it; trouble with W&B harms no run."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fitting import PowerCut

from erc_bench import tracking
from erc_bench.cli import main
from erc_bench.errors import ErcBenchError
from erc_bench.execution.run import run
from erc_bench.records.schema import Predictions, Record
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.tracking import wandb_mode
from erc_bench.tracking.run import prediction_rows, variant
from erc_bench.training import train
from erc_bench.training.train import build_trainer

KEY = "0" * 40
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """wandb without account, settings or network; it is shut down after each test."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", UNREACHABLE)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture(scope="module")
def quick(tiny_encoder: str):
    """A few batches of a method on demo; further overrides and a seed can be given."""

    def experiment(*overrides: str, method: str = "eacl", seed: int = 1) -> Experiment:
        settings = [f"encoder={tiny_encoder}", "precision=float32", "epochs=2", *overrides]
        if method != "sacl-lstm":
            settings[2:2] = ["max_len=48", "max_batches=12", "batch_size=16"]
        return resolve(method, "demo", preset="smoke", seed=seed, overrides=settings)

    return experiment


class Logged:
    """An offline W&B run as ``wandb leet inspect`` reads it from its file."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.folder = folder
        self.entries = [json.loads(line) for line in done.stdout.splitlines()]
        (self.run,) = self.of("run")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [entry[kind] for entry in self.entries if entry["type"] == kind]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [entry["item"] for entry in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for entry in self.of("summary"):
            merged |= entry["update"]
        return merged

    @property
    def exit_code(self) -> int:
        (entry,) = self.of("exit")
        return entry["exit_code"]

    def curve(self, name: str, axis: str = "epoch") -> list[tuple[float, float]]:
        return [(row[axis], row[name]) for row in self.history if name in row]

    def table(self, key: str) -> list[list[Any]]:
        (path,) = (self.folder / "files" / "media" / "table").glob(f"{key}_*.table.json")
        return json.loads(path.read_text())["data"]


def logged(root: Path) -> list[Logged]:
    """The offline runs below a root, oldest first."""
    folders = (root / "wandb").glob("offline-run-*")
    return sorted(map(Logged, folders), key=lambda one: one.entries[2]["environment"]["started_at"])


@pytest.fixture(scope="module")
def finished_run(quick, tmp_path_factory: pytest.TempPathFactory):
    """A finished run that was logged: its store, its outcome and its W&B log."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE")
        patch.setenv("WANDB_DATA_DIR", str(root / "data"))
        outcome = run(quick(), root, wandb="offline")
    (one,) = logged(root)
    return root, outcome, one


def test_the_wandb_run_has_project_group_tags_and_settings(
    finished_run, quick, tiny_encoder: str
) -> None:
    one = finished_run[2]
    experiment = quick()
    assert one.run["project"] == "erc-bench"
    assert one.run["run_group"] == "demo/eacl"
    assert one.run["job_type"] == "train"
    assert one.run["display_name"] == experiment.name
    assert set(one.run["tags"]) == {"eacl", "demo", Path(tiny_encoder).name, "smoke"}
    config = one.run["config"]["update"]
    assert config["settings"] == json.loads(json.dumps(experiment.settings))
    assert (config["method"], config["dataset"], config["seed"]) == ("eacl", "demo", 1)
    assert (config["preset"], config["hash"]) == ("smoke", experiment.hash)
    assert one.exit_code == 0


def test_runs_have_the_same_variant_only_with_the_same_settings() -> None:
    def of(*overrides: str, preset: str = "small", seed: int = 1) -> str:
        return variant(resolve("eacl", "demo", preset=preset, seed=seed, overrides=overrides))

    plain = resolve("eacl", "demo", preset="small")
    assert of() == f"eacl ({plain.hash[:6]})"
    both = of("temperature=0.05", "epochs=77")
    assert both.startswith("eacl epochs=77 temperature=0.05 (")
    assert of("epochs=77", "temperature=0.050", seed=2) == both
    assert of("epochs=3", "temperature=0.05", "epochs=77") == both
    assert of(f"epochs={plain.config.epochs}") == of()
    assert "evaluation.oracle=true" in of("evaluation.oracle=true")
    assert len({both, of(), of("epochs=77"), of("epochs=78"), of(preset="base")}) == 5


def test_its_curves_are_those_of_the_record(finished_run) -> None:
    _, outcome, one = finished_run
    curves = outcome.record.training.curves
    names = set(curves[0]) - {"epoch"}
    assert {"train/loss", "train/contrastive", "train/ce", "dev/weighted_f1"} <= names
    for name in names:
        assert one.curve(name) == [(epoch["epoch"], epoch[name]) for epoch in curves]
    axes = {metric["glob_name"]: metric["step_metric"] for metric in one.of("metric")}
    assert axes["dev/*"] == axes["train/*"] == "epoch"
    assert axes["lr/*"] == axes["step/*"] == "optimizer_step"


def test_the_loss_is_logged_by_step_and_macro_f1_by_epoch(finished_run) -> None:
    _, outcome, one = finished_run
    losses = [loss for _, loss in one.curve("step/loss", "optimizer_step")]
    assert losses
    assert all(loss > 0 for loss in losses)
    curves = outcome.record.training.curves
    assert one.curve("dev/macro_f1") == [(e["epoch"], e["dev/macro_f1"]) for e in curves]


def test_its_summary_is_the_records_metrics(finished_run) -> None:
    _, outcome, one = finished_run
    for split, metrics in outcome.record.metrics.items():
        for name in ("weighted_f1", "macro_f1", "accuracy", "calibration_error"):
            assert one.summary[f"{split}/{name}"] == pytest.approx(getattr(metrics, name))
        for label, each in metrics.per_class.items():
            assert one.summary[f"{split}/f1/{label}"] == pytest.approx(each.f1)
    assert one.summary["training/best_epoch"] == outcome.record.training.best_epoch


def test_confusion_predictions_and_result_are_tables(finished_run) -> None:
    _, outcome, one = finished_run
    labels = outcome.record.labels
    test = outcome.record.predictions.test
    confusion = {(gold, predicted): n for gold, predicted, n in one.table("confusion_matrix_table")}
    wanted = outcome.record.metrics.test.confusion
    assert [[confusion[a, b] for b in labels] for a in labels] == wanted
    rows = one.table("predictions")
    assert [row[0] for row in rows] == test.ids
    assert [row[1] for row in rows] == [labels[gold] for gold in test.gold]
    assert [row[2] for row in rows] == [labels[predicted] for predicted in test.predicted]
    assert [row[3] for row in rows] == [max(each) for each in test.probabilities]
    assert [row[4] for row in rows] == [row[1] == row[2] for row in rows]
    ((name, seed, score),) = one.table("result")
    assert (name.split()[0], seed) == ("eacl", 1)
    assert score == outcome.record.metrics.test.weighted_f1


def test_rows_of_the_predictions_table_may_lack_answer_and_probability() -> None:
    answered = Predictions(ids=["a", "b"], gold=[0, 1], predicted=[0, 0])
    assert prediction_rows(answered, ["joy", "anger"]) == [
        ["a", "joy", "joy", None, True],
        ["b", "anger", "joy", None, False],
    ]
    silent = Predictions(
        ids=["a", "b"], gold=[0, 1], predicted=[-1, 1], probabilities=[None, [0.2, 0.8]]
    )
    assert prediction_rows(silent, ["joy", "anger"]) == [
        ["a", "joy", None, None, False],
        ["b", "anger", "anger", 0.8, True],
    ]


def test_the_record_is_an_artifact(finished_run) -> None:
    _, outcome, one = finished_run
    (artifact,) = [each for each in one.of("artifact") if each["type"] == "record"]
    (entry,) = artifact["manifest"]["contents"]
    assert entry["path"] == outcome.path.name
    digest = hashlib.md5(outcome.path.read_bytes()).digest()
    assert entry["digest"] == base64.b64encode(digest).decode()


def test_no_text_of_the_corpus_is_logged(finished_run, demo) -> None:
    root = finished_run[0]
    kept = [path for path in (root / "wandb").rglob("*") if path.is_file()]
    contents = b"".join(path.read_bytes() for path in kept)
    assert demo.dialogues("test")[0].utterances[0].id.encode() in contents
    said = [u.text for split in demo.contents for d in demo.dialogues(split) for u in d.utterances]
    rows = [text.split() for text in said]
    parts = {" ".join(row[i : i + 5]) for row in rows for i in range(len(row) - 4)}
    parts |= {text for text in said if len(text) > 12}
    assert [part for part in parts if part.encode() in contents] == []


def without_times(record: Record) -> list[Any]:
    return [record.config_hash, record.metrics, record.predictions, record.training.curves]


@pytest.mark.slow
def test_two_runs_in_one_process_are_two_wandb_runs_with_unchanged_results(
    quick, tmp_path: Path, capsys
) -> None:
    seeds = [quick(seed=1), quick(seed=2)]
    tracked = [run(each, tmp_path, wandb="offline").record for each in seeds]
    first, second = logged(tmp_path)
    assert first.run["run_id"] != second.run["run_id"]
    assert [each.run["display_name"] for each in (first, second)] == [each.name for each in seeds]
    assert [each.exit_code for each in (first, second)] == [0, 0]
    for record, experiment, one in zip(tracked, seeds, (first, second), strict=True):
        plain = run(experiment, tmp_path / "off", wandb="off").record
        assert without_times(record) == without_times(plain)
        assert one.summary["test/weighted_f1"] == pytest.approx(plain.metrics.test.weighted_f1)
    assert not (tmp_path / "off" / "wandb").exists()
    assert "wandb:" not in "".join(capsys.readouterr())


def test_a_skipped_run_makes_no_wandb_run(quick, tmp_path: Path) -> None:
    experiment = quick("epochs=1")
    run(experiment, tmp_path, wandb="off")
    assert run(experiment, tmp_path, wandb="offline").skipped
    assert not (tmp_path / "wandb").exists()


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch):
    """A function that lets the next run break off in its second epoch with a given error."""

    def cut(error: type[BaseException]) -> None:
        class Cut(PowerCut):
            def on_train_batch_end(self, trainer, *args: Any) -> None:
                if trainer.current_epoch == self.epoch:
                    raise error("power cut")

        def with_cut(method, data, folder, callbacks, logger):
            return build_trainer(method, data, folder, [*callbacks, Cut(1)], logger)

        monkeypatch.setattr(train, "build_trainer", with_cut)

    yield cut
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_is_logged_as_failed_and_the_resumed_one_as_a_whole(
    quick, tmp_path: Path, power_cut, monkeypatch: pytest.MonkeyPatch, error
) -> None:
    experiment = quick("epochs=3")
    with monkeypatch.context() as patch:
        power_cut(error)
        with pytest.raises(error):
            run(experiment, tmp_path, wandb="offline")
        patch.setattr(train, "build_trainer", build_trainer)
        outcome = run(experiment, tmp_path, wandb="offline")
    broken, resumed = logged(tmp_path)
    assert broken.exit_code != 0
    assert not [each for each in broken.of("artifact") if each["type"] == "record"]
    assert "resumed" not in broken.run["tags"]
    assert resumed.exit_code == 0
    assert "resumed" in resumed.run["tags"]
    assert resumed.run["run_group"] == broken.run["run_group"]
    for name in ("train/loss", "dev/weighted_f1"):
        curve = [(epoch["epoch"], epoch[name]) for epoch in outcome.record.training.curves]
        assert resumed.curve(name) == curve
        assert len(curve) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spcl", "sacl-lstm"])
def test_learning_rates_that_a_method_sets_itself(quick, tmp_path: Path, method: str) -> None:
    """They are logged, and the fine-tuning for utterance vectors adds nothing to the curves."""
    settings = ["warmup_steps=4"] if method == "spcl" else ["features.max_len=31"]
    outcome = run(quick(*settings, method=method), tmp_path, wandb="offline")
    (one,) = logged(tmp_path)
    assert [epoch for epoch, _ in one.curve("train/loss")] == [1, 2]
    config = outcome.record.config
    if method == "spcl":
        rates = one.curve("lr/rest", "optimizer_step")
        assert rates[0] == (0, 0)
        assert 0 < rates[1][1] < config["lr"]
        for (_, encoder), (_, rest) in zip(
            one.curve("lr/encoder", "optimizer_step"), rates, strict=True
        ):
            assert encoder * config["lr"] == pytest.approx(rest * config["encoder_lr"])
    else:
        assert {rate for _, rate in one.curve("lr/1", "optimizer_step")} == {config["lr"]}


# --- trouble ---


def test_a_wandb_folder_that_can_not_be_written_is_one_warning(
    quick, tmp_path: Path, capsys
) -> None:
    (tmp_path / "wandb").write_text("a file")
    experiment = quick("epochs=1")
    assert run(experiment, tmp_path, wandb="offline").path.exists()
    said = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line]
    assert len(said) == 1
    assert "no harm" in said[0]


@pytest.mark.slow
def test_a_server_that_is_not_there_leaves_an_offline_run(
    quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setitem(tracking.PATIENCE, "init_timeout", 1.0)
    experiment = quick("epochs=1")
    assert run(experiment, tmp_path, wandb="online").path.exists()
    (one,) = logged(tmp_path)
    assert one.exit_code == 0
    said = capsys.readouterr().err
    assert "can't be reached" in said
    assert f"wandb sync {one.folder}" in said


@pytest.mark.slow
def test_a_run_survives_the_death_of_the_wandb_service(
    quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from erc_bench.training.log import TrainingLog

    unharmed = TrainingLog.on_train_epoch_end

    def kill(self, trainer, module) -> None:
        unharmed(self, trainer, module)
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        if not children.exists():
            pytest.skip("child processes can't be found here")
        for child in map(int, children.read_text().split() if trainer.current_epoch == 0 else []):
            if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, signal.SIGKILL)
                killed.append(child)

    killed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "on_train_epoch_end", kill)
        outcome = run(quick("epochs=2"), tmp_path, wandb="offline")
    assert len(killed) == 1
    assert outcome.path.exists()
    assert capsys.readouterr().err.count("W&B failed") == 1
    run(quick(seed=2), tmp_path / "next", wandb="offline")
    (one,) = logged(tmp_path / "next")
    assert one.exit_code == 0


# --- online, offline or off ---


def test_offline_without_an_account_with_one_line_how_to_upload(tmp_path: Path, capsys) -> None:
    assert wandb_mode(None, tmp_path) == "offline"
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "wandb sync" in said
    assert str(tmp_path / "wandb") in said


def test_online_with_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode(None, tmp_path) == "online"
    assert capsys.readouterr().err == ""
    assert wandb_mode("offline", tmp_path) == "offline"
    assert wandb_mode("off", tmp_path) == "off"
    assert wandb_mode(None, tmp_path) == "online"


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("disabled", "off"), ("offline", "offline"), ("dryrun", "offline"), ("online", "online")],
)
def test_the_variable_is_the_default_and_the_option_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", variable)
    assert wandb_mode(None, tmp_path) == mode
    assert wandb_mode("online", tmp_path) == "online"


@pytest.mark.slow
def test_the_option_wins_over_the_variable_in_a_run_too(
    quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run(quick("epochs=1"), tmp_path, wandb="offline")
    (one,) = logged(tmp_path)
    assert one.exit_code == 0


def test_wandb_disabled_by_its_own_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "CONFIG").mkdir()
    (tmp_path / "CONFIG" / "settings").write_text("[default]\nmode = disabled\n")
    assert wandb_mode(None, tmp_path) == "off"


def test_online_without_an_account_and_unknown_modes_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ErcBenchError, match="wandb login"):
        wandb_mode("online", tmp_path)
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ErcBenchError, match="Did you mean 'offline'"):
        wandb_mode(None, tmp_path)


@pytest.mark.slow
def test_off_does_not_even_import_wandb(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    argv = ["run", "--method", "finetune", "--dataset", "demo", "--preset", "smoke"]
    argv += [f"encoder={tiny_encoder}", "max_len=32", "precision=float32", "max_batches=2"]
    script = (
        "import sys\nfrom erc_bench.cli import main\n"
        f"status = main({argv!r})\nprint('wandb' in sys.modules, status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr
    assert not (tmp_path / "leaderboard" / "wandb").exists()


# --- the report ---


def test_the_report_needs_its_package(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["wandb", "report", "--dataset", "meld"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "pip install 'erc-bench[report]'" in said


@pytest.mark.slow
def test_the_report_needs_an_account_and_a_network(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    assert main(["wandb", "report", "--dataset", "meld"]) == 2
    assert "wandb login" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["wandb", "report", "--dataset", "meld", "--entity", "nobody"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.splitlines()[-1].startswith("erc-bench: W&B did not take the report")
    assert "Traceback" not in said


def specification(chart: str | None) -> list[dict[str, Any]]:
    """The panel grids of the report on meld, as W&B would get them."""
    pytest.importorskip("wandb_workspaces", reason="the extra `report` is not installed")
    from erc_bench.tracking.report import report

    model = report("meld", "small", "erc-bench", "", chart)._to_model()
    blocks = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))["blocks"]
    return [block["metadata"] for block in blocks if block["type"] == "panel-grid"]


def panels(grid: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = grid["panelBankSectionConfig"]["panels"]
    return [(panel["viewType"], panel["config"]) for panel in found]


def test_the_report_shows_seeds_means_and_curves() -> None:
    seeds, curves = specification("somebody/seeds")
    (kind, points), (other, bars) = panels(seeds)
    assert (kind, points["panelDefId"]) == ("Vega2", "somebody/seeds")
    assert points["fieldSettings"]["score"] == "weighted_f1"
    assert '"result"' in json.dumps(points["userQuery"])
    assert (other, bars["metrics"]) == ("Bar Chart", ["test/weighted_f1"])
    lines = panels(curves)
    assert [config["metrics"] for _, config in lines] == [["dev/weighted_f1"], ["train/loss"]]
    for _, config in lines:
        assert config["xAxis"] == "epoch"
    for config in (bars, *(config for _, config in lines)):
        assert config["groupBy"] == "variant.value"
        assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")
    (runs,) = curves["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "variant.value"}]
    for grid in (seeds, curves):
        (runs,) = grid["runSets"]
        kept = {each["key"]["name"]: each["value"] for each in runs["filters"]["filters"]}
        assert kept == {"dataset": "meld", "preset": "small", "state": "finished"}


def test_without_a_chart_of_its_own_the_seeds_are_a_scatter_plot() -> None:
    (kind, points), _ = panels(specification(None)[0])
    assert kind == "Scatter Plot"
    assert (points["xAxis"], points["yAxis"]) == ("config:seed.value", "summary:test/weighted_f1")


def test_all_that_the_chart_and_the_panels_read_is_logged(finished_run) -> None:
    from erc_bench.tracking.report import SEEDS_CHART

    one = finished_run[2]
    (seeds, _), (_, *_) = map(panels, specification("somebody/seeds"))
    fields = seeds[1]["fieldSettings"]
    placeholders = {name for name in fields if f"${{field:{name}}}" in json.dumps(SEEDS_CHART)}
    assert placeholders == set(fields)
    (path,) = (one.folder / "files" / "media" / "table").glob("result_*.table.json")
    assert set(fields.values()) <= set(json.loads(path.read_text())["columns"])
    assert {"variant", "seed", "dataset", "preset"} <= set(one.run["config"]["update"])
    assert "test/weighted_f1" in one.summary
