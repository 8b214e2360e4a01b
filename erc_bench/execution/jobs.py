"""Jobs: the runs of a grid, with all that is needed to do them on another machine.

:mod:`erc_bench.execution.job_folder` keeps them as files.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.execution.resources import Devices, Resources
from erc_bench.records.place import Identity, Place
from erc_bench.settings.experiment import Experiment, Tuned, resolve


@dataclass(frozen=True)
class Job:
    """One run of a grid, with all that is needed to do it on another machine."""

    experiment: Experiment
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of :func:`erc_bench.execution.run.run`."""
    repeatable: ClassVar[bool] = True
    """Whether the user can repeat it with ``--force``."""

    def do(self, runs_at_once: int) -> None:
        """Do the run in this process, as one of so many at a time."""
        from erc_bench.execution.run import run

        options = {"expected": self.place, "runs_at_once": runs_at_once, **self.options}
        run(self.experiment, self.place.root, **options)

    def result(self) -> Result | None:
        """The result of the job; None if it is not over.

        Raises:
            RecordError: the file in the record's place is not a record.
        """
        no_test = bool(self.options.get("no_test"))
        found = self.place.summary() or (self.place.untested() if no_test else None)
        if found is None:
            return None
        metric = found.judged_by
        scores = {split: metrics.score(metric) for split, metrics in found.metrics.items()}
        if no_test:
            scores.pop("test", None)
        seconds = found.training.wall_seconds if found.training else None
        shown = ", ".join(f"{split} {score:.2f}" for split, score in scores.items())
        return Result(
            scores.get("test"), metric, f"{metric.title} {shown}", seconds, scores.get("dev")
        )

    @property
    def file(self) -> Path:
        """The file that the job leaves when it is over."""
        place = self.place
        return place.untested_file if self.options.get("no_test") else place.record

    def document(self) -> dict[str, Any]:
        """The job as plain data, for its worker."""
        place = self.place
        return {
            "experiment": experiment_document(self.experiment),
            "root": str(place.root),
            "run": place.run,
            "identity": asdict(place.identity),
            "options": {name: _encoded(value) for name, value in self.options.items()},
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Job:
        """Return the job that a :meth:`document` describes.

        Raises:
            ErcBenchError: its settings are different on this machine.
        """
        experiment = experiment_of(document["experiment"])
        place = Place(
            Path(document["root"]),
            experiment.method,
            experiment.dataset,
            document["run"],
            Identity(**document["identity"]),
        )
        options = {name: _decoded(value) for name, value in document["options"].items()}
        return Job(experiment, place, options)


@dataclass(frozen=True)
class Result:
    """The result of a job, as its grid shows it."""

    test: float | None
    """The score on test in percent; None if test is not scored, or not to be shown."""
    metric: Metric
    text: str
    seconds: float | None
    """How long the job took; None if that is unknown."""
    dev: float | None = None
    """The score on dev in percent."""


@dataclass(frozen=True)
class Ended:
    """A job that is over. Its run has a record, unless the fields say something else."""

    job: Job
    failure: str = ""
    """Why there is no record, in one paragraph."""
    taken: bool = False
    """Whether another process is working on the same run."""

    def document(self, run: str) -> dict[str, Any]:
        """How the job of a run ended, as plain data."""
        return {"failure": self.failure, "taken": self.taken, "run": run}


@dataclass(frozen=True)
class Attempt:
    """One attempt to do a job."""

    job: Job
    folder: Path
    """The folder of the grid, as an absolute path."""
    name: str
    """``<batch>-<number>``; the numbers begin with 0."""
    resources: Resources
    tries: int = 1
    """The number of this attempt at the job, counted from 1."""
    retries: int = 0
    """How often the engine itself may queue it again after its time limit."""

    @property
    def file(self) -> Path:
        """The file of the job, which the worker reads."""
        return self.folder / "sent" / f"{self.name}.json"

    @property
    def begun(self) -> Path:
        """The file that says which process does it."""
        return self.folder / "begun" / f"{self.name}.json"

    @property
    def ended(self) -> Path:
        """The file that says how it ended."""
        return self.folder / "ended" / f"{self.name}.json"

    @property
    def output(self) -> Path:
        """The file of the engine's own output."""
        return self.folder / "output" / f"{self.name}.txt"

    @property
    def command(self) -> list[str]:
        """The command that starts its worker."""
        return [sys.executable, "-m", "erc_bench.execution.worker", str(self.file)]


# --- as plain data ---


def experiment_document(experiment: Experiment) -> dict[str, Any]:
    """An experiment as plain data: what it is resolved from, and the settings that must result."""
    return {
        "method": experiment.method,
        "dataset": experiment.corpus,
        "preset": experiment.preset,
        "variant": experiment.variant,
        "seed": experiment.seed,
        "overrides": list(experiment.overrides),
        "settings": experiment.settings,
        "tuned": asdict(experiment.tuned) if experiment.tuned else None,
    }


def experiment_of(document: Mapping[str, Any]) -> Experiment:
    """Return the experiment that an :func:`experiment_document` describes.

    Raises:
        ErcBenchError: its settings are different on this machine.
    """
    experiment = resolve(
        document["method"],
        document["dataset"],
        preset=document["preset"],
        variant=document["variant"],
        seed=document["seed"],
        overrides=document["overrides"],
    )
    if json.loads(json.dumps(experiment.settings)) != document["settings"]:
        raise ErcBenchError(different_here(f"the settings of {document['method']}"))
    tuned = Tuned(**document["tuned"]) if document["tuned"] else None
    return replace(experiment, tuned=tuned)


def different_here(what: str) -> str:
    """Say that a job can't be done on this machine, because it has another ``what``."""
    return (
        f"{platform.node()} does not have {what} with which the grid was begun, so the run was "
        "not done. Install the same on all machines, do not change it while a grid is running, "
        "and give the command again."
    )


def _encoded(value: Any) -> Any:
    if isinstance(value, Devices):
        return {"devices": asdict(value)}
    return {"path": str(value)} if isinstance(value, Path) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"devices"}:
        return Devices(**value["devices"])
    return Path(value["path"]) if isinstance(value, dict) and set(value) == {"path"} else value
