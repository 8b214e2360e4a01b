"""Random search: trials that see only train and dev, then fresh seeds of the best settings.

A trial is a job of a grid, as a run is. It is skipped if it is over, resumed if it was interrupted,
and held by one process at a time. It leaves a :class:`erc_bench.records.trials.Trial`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import torch

from erc_bench.corpus.conversation import Corpus, without_test_labels
from erc_bench.errors import ErcBenchError, SettingsError, explain
from erc_bench.execution.grid import do_jobs, plan
from erc_bench.execution.jobs import Job, Result, experiment_document, experiment_of
from erc_bench.execution.recording import encoder_part, scored, training_part
from erc_bench.execution.run import (
    build,
    identify,
    load_corpus,
    out_of_gpu_memory,
    writing_below,
)
from erc_bench.files import cannot_write, temporary_name
from erc_bench.progress import Stopwatch, say
from erc_bench.records.corpora import remember
from erc_bench.records.parsing import RecordError, typed
from erc_bench.records.schema import Search
from erc_bench.records.store import write_record
from erc_bench.records.trials import Trial, TrialPlace, best_of, digest, write_trial
from erc_bench.settings.experiment import Experiment, Tuned
from erc_bench.settings.registry import corpus_source
from erc_bench.settings.space import FIRST_TRIAL_SEED, Study
from erc_bench.training.frameworks import quiet_frameworks
from erc_bench.training.scoring import DivergedError
from erc_bench.training.train import train

FAILED = "failed"


@dataclass(frozen=True)
class Searched:
    """A search, and those of its trials that are over."""

    study: Study
    trials: list[Trial]
    """In order of their numbers, including those that failed."""
    missing: list[int]
    """Numbers of the trials that are not over."""

    @property
    def best(self) -> Trial | None:
        """The trial whose settings are chosen; None if no trial finished."""
        return best_of(self.trials)

    def chosen(self, seed: int) -> Experiment:
        """A run with the settings of the best trial, marked as tuned.

        Raises:
            ErcBenchError: trials are missing, or none finished.
        """
        base, best = self.study.base, self.best
        if self.missing or best is None:
            raise ErcBenchError(f"The search for {base.method} on {base.dataset} chose no trial.")
        tuned = Tuned(
            trials=len(self.trials),
            sampler=self.study.sampler,
            sampler_seed=self.study.sampler_seed,
            space=self.study.space,
            chosen=best.number,
            digest=digest(self.trials),
        )
        return replace(self.study.trial(best.number), seed=seed, tuned=tuned)


def search(
    studies: Sequence[Study],
    trials: int,
    root: Path,
    *,
    data_dir: Path | None = None,
    restart: bool = False,
    retry: bool = False,
    **on_grid: Any,
) -> tuple[list[Searched], list[str]]:
    """Do the trials of several searches that are not over yet.

    Trials are begun in turn: the first trials of all searches, then all second trials, and so on.

    Args:
        studies: one for each method and corpus.
        trials: how many trials each has, including trial 0.
        root: folder of the trials and checkpoints.
        data_dir: where to look for corpora before the usual places.
        restart: start interrupted trials from the beginning.
        retry: repeat trials that failed. Those that diverged are not repeated.
        on_grid: further arguments of :func:`erc_bench.execution.grid.do_jobs`.

    Returns:
        The searches, and a paragraph for each kind of trouble that left trials without a result.

    Raises:
        ErcBenchError: a space does not fit its method, or nothing can be written below ``root``.
    """
    study_of = {(study.base.method, study.base.dataset): study for study in studies}
    experiments = [study.trial(number) for number in range(trials) for study in studies]
    planned, impossible = plan(experiments, root, {"data_dir": data_dir, "restart": restart})
    jobs = [
        _trial_job(job, study_of[job.experiment.method, job.experiment.dataset], retry)
        for job in planned
    ]
    report = do_jobs(jobs, root, impossible=impossible, **on_grid)
    over: dict[tuple[str, int], Trial] = {}
    failed = {ended.job.place.name for ended in report.failures}
    for job in jobs:
        if job.place.name in failed:  # a retry that did not end leaves the old trial behind
            continue
        with contextlib.suppress(RecordError):  # the report has it
            if trial := job.place.trial():
                over[job.study.hash, job.place.number] = trial
    found = []
    for study in studies:
        ended = {number: over.get((study.hash, number)) for number in range(trials)}
        missing = [number for number, trial in ended.items() if trial is None]
        found.append(Searched(study, [t for t in ended.values() if t is not None], missing))
    return found, report.complaints()


# --- one trial


@dataclass(frozen=True, kw_only=True)
class TrialJob(Job):
    """One trial of a search."""

    place: TrialPlace
    study: Study
    repeatable: ClassVar[bool] = False

    def do(self, runs_at_once: int) -> None:
        """Train it and score dev."""
        do_trial(self, runs_at_once)

    def document(self) -> dict[str, Any]:
        """The trial as plain data, for its worker."""
        study = self.study
        searched = {
            "experiment": experiment_document(study.base),
            "space": study.space,
            "sampler_seed": study.sampler_seed,
            "sampler": study.sampler,
        }
        return {**super().document(), "study": searched, "number": self.place.number}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> TrialJob:
        """Return the trial that a :meth:`document` describes."""
        run, searched = Job.of(document), document["study"]
        study = Study(
            experiment_of(searched["experiment"]),
            searched["space"],
            searched["sampler_seed"],
            searched["sampler"],
        )
        at = run.place
        place = TrialPlace.of_trial(
            at.root, at.method, at.dataset, study.hash, document["number"], at.identity
        )
        return TrialJob(run.experiment, options=run.options, place=place, study=study)

    def result(self) -> Result | None:
        """Its score on dev, or how it failed."""
        trial = self.place.trial()
        if trial is None:
            return None
        scored = f"{trial.judged_by.title} on dev {trial.score:.2f}"
        text = trial.outcome if trial.dev is None else scored
        seconds = trial.training.wall_seconds if trial.training else None
        return Result(None, trial.judged_by, text, seconds, trial.score)


def _trial_job(job: Job, study: Study, retry: bool) -> TrialJob:
    """Return the job of a trial, made from the job of a run with the trial's settings."""
    experiment, run = job.experiment, job.place
    number = experiment.seed - FIRST_TRIAL_SEED
    place = TrialPlace.of_trial(
        run.root, experiment.method, experiment.dataset, study.hash, number, run.identity
    )
    again = False
    if retry:
        with contextlib.suppress(RecordError):
            trial = place.trial()
            again = trial is not None and trial.outcome == FAILED
    options = {**job.options, "force": again}
    return TrialJob(experiment, options=options, place=place, study=study)


def do_trial(job: TrialJob, runs_at_once: int = 1) -> None:
    """Train with a trial's settings, score dev, and write the trial's file.

    The labels of test are removed from the corpus before anything else is done with it. If the
    training diverges or fails, the file says so. If an error is raised, no file is written.

    Raises:
        RunTakenError: another process is working on the same trial.
        ErcBenchError: anything else that a user can fix.
    """
    clock = Stopwatch()
    experiment, place = job.experiment, job.place
    data_dir, again = job.options.get("data_dir"), job.options.get("force")
    with quiet_frameworks():
        corpus = load_corpus(experiment.corpus, data_dir)
    if identify(experiment, {experiment.corpus: corpus.digest}, data_dir) != place.identity:
        raise ErcBenchError(
            f"The corpus or the encoder of {place.name} are not those with which the search was "
            "begun. Give the command again."
        )
    with place.locked() as held:
        if again or place.trial() is None:
            with writing_below(place.root, place.folder), quiet_frameworks():
                hidden = without_test_labels(corpus)
                fields = _train_and_score(job, hidden, runs_at_once, clock)
                fields["metric"] = str(corpus.metric)
                held.check()
                write_trial(place.record, _trial(job, fields, clock.seconds))
                remember(place.root, corpus_source(experiment.corpus))
        place.tidy_up()


def _train_and_score(
    job: TrialJob, corpus: Corpus, runs_at_once: int, clock: Stopwatch
) -> dict[str, Any]:
    """Train and score a trial; returns the result as fields of a :class:`Trial`."""
    experiment, options = job.experiment, job.options
    restart = bool(options.get("restart"))
    try:
        method, data = build(experiment, corpus, options.get("data_dir"))
        trained = train(method, data, job.place.folder, restart=restart, runs_at_once=runs_at_once)
        dev, _ = scored(trained, "dev", trained.predict("dev"))
    except DivergedError as error:
        return {"outcome": "diverged", "reason": str(error)}
    except SettingsError as error:
        return {"outcome": FAILED, "reason": str(error)}
    except (ErcBenchError, OSError):
        raise
    except torch.OutOfMemoryError as error:
        return {"outcome": FAILED, "reason": out_of_gpu_memory(experiment, error)}
    except Exception as error:  # drawn settings may break a method in any way
        traceback.print_exc()
        return {"outcome": FAILED, "reason": explain(error, "its log shows where")}
    seconds = clock.seconds + trained.log.earlier_seconds
    return {
        "outcome": "finished",
        "dev": dev,
        "training": training_part(experiment, trained, seconds),
        "environment": trained.log.environment,
        "encoder": encoder_part(job.place.identity, trained),
    }


def _trial(job: TrialJob, fields: dict[str, Any], seconds: float) -> Trial:
    """Return a trial as its file holds it.

    If the training did not finish, only its duration is known.
    """
    experiment, study, identity = job.experiment, job.study, job.place.identity
    document = {
        "study": study.hash,
        "number": job.place.number,
        "method": experiment.method,
        "dataset": experiment.dataset,
        "dataset_digest": identity.corpus_digest,
        "further_corpora": dict(identity.further_corpora) or None,
        "preset": experiment.preset,
        "fixed": list(study.base.overrides),
        "drawn": list(study.drawn(job.place.number)),
        "config": experiment.settings,
        "config_hash": experiment.hash,
        "seed": experiment.seed,
        "sampler": study.sampler,
        "sampler_seed": study.sampler_seed,
        "space": study.space,
        "selection": f"dev {experiment.config.select_on}",
        "encoder": encoder_part(identity),
        "training": {"wall_seconds": round(seconds, 1)},
        **fields,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return typed(document, Trial)


# --- the runs of the best one


def reuse_record(job: Job) -> None:
    """Copy the record and the files of a tuned run from the same run under another mark, if any.

    The same settings, seed, corpus and encoder may have a record already: from a run that was not
    tuned, if the preset's own settings were the best, or from a search with fewer trials.
    """
    place, experiment = job.place, job.experiment
    assert experiment.tuned is not None
    with contextlib.suppress(RecordError):
        if place.finished() is not None:
            return
    settings = f"{experiment.hash}-{place.identity.hash}"
    for path in sorted(place.record.parent.glob(f"{settings}*-seed{experiment.seed}.json")):
        other = replace(place, run=path.stem)
        record = None
        with contextlib.suppress(RecordError):
            record = other.finished()
        if record is None or record.model is None:
            continue
        model = other.folder / record.model.file
        try:
            with place.locked(), writing_below(place.root, place.folder):
                for file in other.folder.glob("*"):  # none if only the record is here
                    if file == model or _is_run_file(file):
                        _link(file, place.folder / file.name)
                tuned = typed(asdict(experiment.tuned), Search)
                marked = msgspec.structs.replace(
                    record,
                    tuned=tuned,
                    variant=None,
                    preset=experiment.preset,
                    overrides=list(experiment.overrides),
                )
                write_record(place.record, marked)
        except OSError as error:
            raise cannot_write(place.folder, error) from error
        say(f"{place.name}: copied from {path.name}, which is the same run.")
        return


def _is_run_file(file: Path) -> bool:
    """Whether a method left this file beside its model."""
    about_the_process = file.name.partition(".")[0] in ("", "log", "lock", "lease", "owner")
    return file.is_file() and file.suffix != ".ckpt" and not about_the_process


def _link(file: Path, link: Path) -> None:
    """Link a file under another name, or copy it if the disk can't link it."""
    temporary = temporary_name(link)
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
    temporary.replace(link)
