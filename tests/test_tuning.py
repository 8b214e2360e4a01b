"""Searches for settings: spaces, trials that see no label of test, and the chosen settings."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_executors import Fake, do, end, nobody

from erc_bench.cli import main
from erc_bench.corpus.conversation import Corpus, Utterance
from erc_bench.errors import ErcBenchError, SettingsError
from erc_bench.execution import run as running
from erc_bench.execution import tuning
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.job_folder import read_job, sent_job
from erc_bench.execution.jobs import Attempt
from erc_bench.execution.run import run
from erc_bench.execution.tuning import reuse_record, search
from erc_bench.records.schema import to_json
from erc_bench.records.store import read_record, record_files
from erc_bench.records.trials import read_trial, trial_files
from erc_bench.settings import registry, space
from erc_bench.settings.experiment import resolve
from erc_bench.settings.presets import presets
from erc_bench.settings.registry import method_names
from erc_bench.settings.space import FIRST_TRIAL_SEED, Study, draw, study

SPACE = {
    "lr": {"log": [1e-4, 1e-2]},
    "dropout": {"uniform": [0.1, 0.3]},
    "balance": {"choice": ["fixed", "uncertainty"]},
    "causal": {"choice": [False, True]},
}


# --- spaces


def test_the_searches_of_several_methods_take_turns(tiny_encoder: str, tmp_path: Path) -> None:
    begun = []

    def begin(attempt: Attempt) -> None:
        begun.append((attempt.job.place.number, attempt.job.experiment.method))
        end(attempt, "it is only looked at.")

    methods, given = ("finetune", "emoberta"), [f"encoder={tiny_encoder}"]
    studies = [study(resolve(m, "demo", preset="smoke", overrides=given)) for m in methods]
    search(studies, 3, tmp_path, executor=Fake(begin))
    assert begun == [(number, method) for number in range(3) for method in methods]


def test_a_trial_depends_on_space_seed_and_number_alone() -> None:
    drawn = [draw(SPACE, 0, number) for number in range(50)]
    assert [draw(SPACE, 0, number) for number in reversed(range(50))] == drawn[::-1]
    assert draw(dict(reversed(SPACE.items())), 0, 7) == drawn[7]
    assert len(set(drawn)) == 50
    assert draw(SPACE, 1, 7) != drawn[7]


def test_values_lie_in_their_ranges_on_their_scales() -> None:
    by_name: dict[str, list[str]] = {name: [] for name in SPACE}
    for number in range(1, 401):
        for text in draw(SPACE, 3, number):
            key, _, value = text.partition("=")
            by_name[key].append(value)
    rates = [float(value) for value in by_name["lr"]]
    assert 1e-4 <= min(rates) < 1.2e-4
    assert 0.8e-2 < max(rates) <= 1e-2
    below = sum(rate < 1e-3 for rate in rates)  # half of them, if it is uniform in the logarithm
    assert abs(below - 200) < 4 * math.sqrt(400 / 4)
    shares = [float(value) for value in by_name["dropout"]]
    assert 0.1 <= min(shares) < max(shares) <= 0.3
    assert abs(sum(shares) / 400 - 0.2) < 4 * 0.2 / math.sqrt(12 * 400)
    assert set(by_name["balance"]) == {"fixed", "uncertainty"}
    assert set(by_name["causal"]) == {"false", "true"}


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_every_method_accepts_the_values_of_its_space(method: str) -> None:
    for preset in presets():
        base = resolve(method, "meld", preset=preset)
        found = study(base)
        assert found.trial(0).hash == base.hash
        assert found.trial(0).overrides == ()
        trials = [found.trial(number) for number in range(1, 6)]
        # Two draws from a few choices may be equal, two draws from a range are not.
        least = 6 if any("choice" not in how for how in found.space.values()) else 4
        assert len({trial.hash for trial in trials} | {base.hash}) >= least
        assert [trial.seed for trial in trials] == [FIRST_TRIAL_SEED + k for k in range(1, 6)]


def test_a_fixed_setting_is_not_drawn() -> None:
    base = resolve("finetune", "meld", overrides=["lr=0.001", "max_len=64"])
    fixed = study(base)
    assert "lr" not in fixed.space
    assert "encoder_lr" in fixed.space
    assert all(fixed.trial(number).config.lr == 0.001 for number in range(4))
    assert fixed.hash != study(resolve("finetune", "meld")).hash


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"lrr": {"log": [1, 2]}}, ["space, lrr", "Did you mean 'lr'?"]),
        ({"lr": [1, 2]}, ["space, lr", "is not a range"]),
        ({"lr": {"log": [1, 2, 3]}}, ["two numbers"]),
        ({"lr": {"log": [2, 1]}}, ["the lower first"]),
        ({"lr": {"log": [0, 1]}}, ["above 0"]),
        ({"lr": {"uniform": ["a", "b"]}}, ["are not numbers"]),
        ({"lr": {"choice": [1]}}, ["is not a range"]),
        ({"lr": {"lin": [1, 2]}}, ["is not a range", "`log: [lowest, highest]`"]),
        ({"lr": {"choice": ["a", "b"], "relative": True}}, ["are not numbers"]),
        ({}, ["can't be tuned", "finetune.yaml"]),
        (None, ["can't be tuned"]),
        ([1], ["can't be tuned"]),
    ],
)
def test_a_wrong_space_is_named(entry: Any, words: list[str], monkeypatch) -> None:
    base = resolve("finetune", "meld")
    monkeypatch.setattr(space, "method_sheet", lambda method: {"title": "", "space": entry})
    with pytest.raises(ErcBenchError) as caught:
        study(base)
    for word in words:
        assert word in str(caught.value)


def test_a_value_that_the_method_refuses_is_named(monkeypatch) -> None:
    base = resolve("finetune", "meld")
    wrong = Study(base, {"dropout": {"uniform": [1.5, 2.5]}})
    with pytest.raises(ErcBenchError, match=r"finetune.yaml, space: trial 1 draws dropout=.*share"):
        wrong.trial(1)


def test_a_fixed_setting_that_excludes_a_drawn_one_is_named() -> None:
    searched = study(resolve("eacl", "meld", overrides=["anchors_from=last"]))
    said = r"does not take together with anchors_from=last\. .*select_adapted.* Fix the setting"
    number = next(n for n in range(1, 20) if "select_adapted=true" in searched.drawn(n))
    with pytest.raises(ErcBenchError, match=said):
        searched.trial(number)


def test_a_part_that_is_turned_off_stays_off() -> None:
    assert "si_weight" in study(resolve("speaker-mtl", "meld")).space
    assert "si_weight" not in study(resolve("speaker-mtl", "mosei-sentiment")).space


def test_searches_on_two_corpora_or_for_two_methods_have_different_hashes() -> None:
    bases = [resolve(m, c) for m in ("finetune", "emoberta") for c in ("meld", "emorynlp")]
    assert bases[0].hash == bases[1].hash
    assert len({study(base).hash for base in bases}) == 4


def test_a_search_refuses_to_score_test() -> None:
    with pytest.raises(ErcBenchError, match="never looks at test"):
        study(resolve("finetune", "meld", overrides=["evaluation.oracle=true"]))


# --- searches


QUICK = ("precision=float32", "max_batches=2", "epochs=1")


@pytest.fixture
def small(small_demo: Corpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Makes the demo corpus a few dialogues."""
    kind = type(registry.corpus_source("demo"))
    monkeypatch.setattr(kind, "load", lambda self, data_dir=None: small_demo)
    return small_demo


@pytest.fixture
def searched_for(encoder_for, small: Corpus):
    """A function that makes the study of a method with a tiny encoder."""

    def made(method: str = "finetune", *overrides: str) -> Study:
        settings = [f"encoder={encoder_for(method)}", *QUICK, *overrides]
        return study(resolve(method, "demo", preset="smoke", overrides=settings))

    return made


class Sealed(Utterance):
    """A turn whose label may be removed, but not read."""

    @property
    def label(self) -> None:  # type: ignore[override]
        assert "_without_label" in self.__dict__, "a label of test was read"

    @label.setter
    def label(self, value: int | None) -> None:
        assert value is None
        self.__dict__["_without_label"] = True

    @classmethod
    def of(cls, turn: Utterance) -> Sealed:
        sealed = cls.__new__(cls)
        sealed.__dict__.update({k: v for k, v in turn.__dict__.items() if k != "label"})
        return sealed


def sealed(corpus: Corpus) -> Corpus:
    """A corpus in which reading a label of test fails."""
    test = tuple(
        replace(dialogue, utterances=tuple(map(Sealed.of, dialogue.utterances)))
        for dialogue in corpus.contents["test"]
    )
    return replace(corpus, contents={**corpus.contents, "test": test})


METHODS = [
    "finetune",
    *(pytest.param(m, marks=pytest.mark.slow) for m in method_names() if m != "finetune"),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_reads_no_label_of_test(
    method: str, searched_for, small: Corpus, tmp_path: Path, monkeypatch
) -> None:
    search_for = searched_for(method)
    for module in (tuning, running):
        monkeypatch.setattr(module, "load_corpus", lambda *_: sealed(small))
    (found,), complaints = search([search_for], 1, tmp_path, executor=Fake())
    assert complaints == []
    (trial,) = found.trials
    labelled = sum(len(d.labelled) for d in small.contents["dev"])
    assert (trial.outcome, trial.dev.utterances) == ("finished", labelled)
    assert "test" not in str(to_json(trial).keys() | to_json(trial.training).keys())
    with pytest.raises(AssertionError, match="a label of test was read"):
        run(search_for.base, tmp_path)


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, empty at first, in which the search of ``whole`` is done once for all tests."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(searched_for, done_once: Path, tmp_path: Path):
    """A complete search of three trials, in a folder that the test may change."""
    search([searched_for()], 3, done_once, executor=Fake())
    shutil.copytree(done_once, tmp_path, dirs_exist_ok=True)
    found, complaints = search([searched_for()], 3, tmp_path, executor=nobody())
    assert complaints == []
    return found[0], tmp_path


def test_trials_are_stored_and_not_done_again(whole, searched_for) -> None:
    found, root = whole
    stored = [read_trial(path) for path in trial_files(root)]
    assert stored == found.trials
    assert [trial.number for trial in stored] == [0, 1, 2]
    assert (stored[0].drawn, len(stored[1].drawn)) == ([], len(found.study.space))
    assert stored[1].config == found.study.trial(1).settings
    assert list(root.glob("runs/**/*.ckpt")) == []
    assert list(record_files(root)) == []
    (again,), _ = search([searched_for()], 3, root, executor=nobody())
    assert again.trials == found.trials
    (more,), _ = search([searched_for()], 4, root, executor=Fake())
    assert more.trials[:3] == found.trials


def test_the_best_on_dev_is_chosen_and_its_runs_are_marked(whole) -> None:
    found, root = whole
    best = found.best
    assert best.score == max(trial.dev.weighted_f1 for trial in found.trials)
    chosen = [found.chosen(seed) for seed in (1, 2)]
    assert {experiment.hash for experiment in chosen} == {best.config_hash}
    run_grid(chosen, root, executor=Fake())
    records = [read_record(path) for path in record_files(root)]
    assert [record.seed for record in records] == [1, 2]
    for record in records:
        tuned = record.tuned
        assert (tuned.trials, tuned.sampler, tuned.chosen) == (3, "random", best.number)
        assert tuned.space == found.study.space
        assert len(tuned.digest) == 64
        assert record.config_hash == best.config_hash
    # The same settings without a search are another run.
    plain = replace(chosen[0], tuned=None)
    outcome = run(plain, root)
    assert not outcome.skipped
    assert outcome.record.tuned is None
    assert len(list(record_files(root))) == 3


def test_a_chosen_run_reuses_the_record_of_the_same_settings(whole, tmp_path: Path) -> None:
    found, root = whole
    chosen = found.chosen(1)
    plain = run(replace(chosen, tuned=None), root)
    beside = root / "runs" / "demo" / "finetune" / plain.path.stem
    for name in ("answers.jsonl", "log.txt", "best-epoch=1.ckpt"):
        (beside / name).write_text("text", encoding="utf-8")
    for _ in range(2):
        (job,), _ = plan([chosen], root, {})
        reuse_record(job)
        assert len(list(record_files(root))) == 2
    assert "-tuned-" in job.place.name
    outcome = run(chosen, root)
    assert outcome.skipped
    assert outcome.record.tuned.trials == 3
    assert outcome.record.predictions == plain.record.predictions
    folder = beside.parent / outcome.path.stem
    assert (folder / outcome.record.model.file).is_file()
    assert (folder / "answers.jsonl").read_text(encoding="utf-8") == "text"
    assert not [*folder.glob("log.txt"), *folder.glob("best*")]
    for name in ("answers.jsonl", "log.txt", "best-epoch=1.ckpt"):
        (beside / name).unlink()


@pytest.mark.slow
def test_trials_that_fail_or_diverge_count(searched_for, tmp_path: Path, monkeypatch) -> None:
    """They are stored with their reason; ``retry`` does the failed ones again."""
    right = tuning.train
    broken = {
        1: tuning.DivergedError("no numbers"),
        2: RuntimeError("odd"),
        3: SettingsError("too long"),
    }

    def train(method, data, folder, **options):
        if error := broken.get(data.seed - FIRST_TRIAL_SEED):
            raise error
        return right(method, data, folder, **options)

    monkeypatch.setattr(tuning, "train", train)
    (found,), complaints = search([searched_for()], 4, tmp_path, executor=Fake())
    assert complaints == []
    outcomes = [trial.outcome for trial in found.trials]
    assert outcomes == ["finished", "diverged", "failed", "failed"]
    assert [trial.score for trial in found.trials][1:] == [0.0, 0.0, 0.0]
    assert "RuntimeError: odd" in found.trials[2].reason
    assert found.trials[3].reason == "too long"
    assert found.best.number == 0
    assert found.chosen(1).tuned.trials == 4
    search([searched_for()], 4, tmp_path, executor=nobody())
    broken.clear()
    (again,), _ = search([searched_for()], 4, tmp_path, executor=Fake(), retry=True)
    outcomes = [trial.outcome for trial in again.trials]
    assert outcomes == ["finished", "diverged", "finished", "finished"]


def test_a_search_with_missing_trials_chooses_nothing(searched_for, tmp_path: Path) -> None:
    def half(attempt: Attempt) -> None:
        if len(killed.started) > 1:
            end(attempt, "its process was killed.")
        else:
            do(attempt)

    killed = Fake(half)
    (found,), complaints = search([searched_for()], 3, tmp_path, executor=killed)
    assert (len(found.trials), found.missing) == (1, [1, 2])
    assert "was killed" in complaints[0]
    with pytest.raises(ErcBenchError, match="chose no trial"):
        found.chosen(1)


def test_a_trial_without_enough_gpu_memory_does_not_promise_to_go_on(
    searched_for, tmp_path: Path, monkeypatch
) -> None:
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. GPU 0 has more to say.")

    monkeypatch.setattr("erc_bench.execution.tuning.train", full)
    (found,), _ = search([searched_for()], 1, tmp_path, executor=Fake())
    (trial,) = found.trials
    assert trial.outcome == "failed"
    assert "too little memory" in trial.reason
    assert "last epoch" not in trial.reason  # it is over; --retry-failed repeats it


def test_a_retry_that_does_not_end_leaves_its_trial_missing(
    searched_for, tmp_path: Path, monkeypatch
) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("odd")

    with monkeypatch.context() as patched:
        patched.setattr("erc_bench.execution.tuning.train", broken)
        (found,), _ = search([searched_for()], 1, tmp_path, executor=Fake())
    assert [trial.outcome for trial in found.trials] == ["failed"]
    killed = Fake(lambda attempt: end(attempt, "its process was killed."))
    (found,), complaints = search([searched_for()], 1, tmp_path, executor=killed, retry=True)
    assert (found.trials, found.missing) == ([], [0])
    assert "was killed" in complaints[0]
    (found,), _ = search([searched_for()], 1, tmp_path, executor=nobody())
    assert [trial.outcome for trial in found.trials] == ["failed"]


def test_a_trial_is_read_by_its_worker_as_it_was_sent(searched_for, tmp_path: Path) -> None:
    sent = []

    def begin(attempt: Attempt) -> None:
        sent.append((attempt.job, sent_job(read_job(attempt.file)).job))
        end(attempt, "it is only looked at.")

    search([searched_for()], 2, tmp_path, executor=Fake(begin))
    assert len(sent) == 2
    for job, read in sent:
        assert type(read) is type(job)
        assert (read.place, read.place.name) == (job.place, job.place.name)
        assert (read.experiment, read.study, read.options) == (
            job.experiment,
            job.study,
            job.options,
        )


@pytest.mark.slow
def test_an_interrupted_trial_goes_on(searched_for, tmp_path: Path, monkeypatch) -> None:
    from fitting import PowerCut

    from erc_bench.training import train as training

    build = training.build_trainer
    with monkeypatch.context() as patched:
        patched.setattr(
            training,
            "build_trainer",
            lambda m, d, f, c, *o: build(m, d, f, [*c, PowerCut(1)], *o),
        )
        patched.setattr(tuning.traceback, "print_exc", lambda: None)

        def cut(attempt: Attempt) -> None:
            with pytest.raises(KeyboardInterrupt):
                attempt.job.do(1)
            end(attempt, "it was stopped.")

        patched.setattr(PowerCut, "on_train_batch_end", _ctrl_c)
        search([searched_for("finetune", "epochs=2")], 1, tmp_path, executor=Fake(cut))
    assert len(list(tmp_path.glob("runs/**/last.ckpt"))) == 1
    (found,), _ = search([searched_for("finetune", "epochs=2")], 1, tmp_path, executor=Fake())
    (trial,) = found.trials
    assert [epoch["epoch"] for epoch in trial.training.curves] == [1, 2]
    other, _ = search([searched_for("finetune", "epochs=2")], 1, tmp_path / "b", executor=Fake())
    assert other[0].trials[0].dev == trial.dev


def _ctrl_c(self, trainer, pl_module, outputs, batch, batch_idx):
    if trainer.current_epoch == self.epoch:
        raise KeyboardInterrupt


def test_a_damaged_trial_is_reported(whole, searched_for) -> None:
    _, root = whole
    path = next(trial_files(root))
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
    (again,), complaints = search([searched_for()], 3, root, executor=Fake())
    assert again.missing == [0]
    (complaint,) = complaints
    for word in (str(path), "damaged", "Delete it"):
        assert word in complaint


# --- the command line


@pytest.mark.slow
def test_the_command_prints_trials_and_what_was_chosen(
    tiny_encoder: str, small: Corpus, tmp_path: Path, capsys, monkeypatch
) -> None:
    from erc_bench.execution import grid

    monkeypatch.setattr(grid, "Local", Fake)
    monkeypatch.chdir(tmp_path)
    words = ["tune", "--method", "finetune", "--dataset", "demo", "--preset", "smoke"]
    words += ["--trials", "2", "--wandb", "off", f"encoder={tiny_encoder}", *QUICK]
    assert main(words) == 0
    out = capsys.readouterr().out
    for word in ("as in the preset", "encoder_lr=", "← best", "best of 2 is trial", "--seeds 5"):
        assert word in out
    assert main([*words, "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "over 2 seeds" in out
    assert main(out.rpartition("erc-bench ")[2].split()) == 0
    assert "tuned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials 0 is too few"),
        (["--seeds", "0"], "--seeds 0 is too few"),
        (["--sampler-seed", "-1"], "--sampler-seed -1"),
        (["nonsense=1"], "no setting 'nonsense'"),
        (["evaluation.oracle=true"], "never looks at test"),
        (["--trails", "3"], "--trails"),
    ],
)
def test_a_wrong_command_is_one_paragraph(words, said, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--method", "finetune", "--dataset", "demo", "--quiet", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
