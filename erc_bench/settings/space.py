"""Search spaces: the values that ``erc-bench tune`` draws the settings of its trials from.

A method's YAML file holds its space under ``space``: settings by their dotted names, each with one
range::

    space:
      encoder_lr: {log: [0.25, 4.0], relative: true}  # times the preset's value
      dropout: {uniform: [0.0, 0.4]}
      stage2_epochs: {choice: [10, 30, 100]}

``log`` is uniform in the logarithm. With ``relative: true`` the numbers are multiples of the value
that the preset has, so that one space fits encoders of every size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from erc_bench.errors import ErcBenchError, did_you_mean, listed
from erc_bench.settings.experiment import Experiment, flat, method_sheet, resolve
from erc_bench.settings.registry import experiment_file

RANDOM = "random"
"""The sampler: every trial is drawn independently, from the whole space."""

SCALES = ("log", "uniform", "choice")

DIGITS = 3
"""Significant digits of a number that is drawn."""

FIRST_TRIAL_SEED = 1_000_000
"""Trial k is trained with this seed plus k, which is not the seed of any later run."""

Space = Mapping[str, Mapping[str, list[Any]]]
"""Settings by their dotted names, each with its scale and values. No value is relative.

An example: ``{"lr": {"log": [1e-5, 1e-3]}}``."""


@dataclass(frozen=True)
class Study:
    """A search: one method on one corpus, and the space that its trials are drawn from."""

    base: Experiment
    """Trial 0: the preset's settings, with those that the user fixed."""
    space: Space
    sampler_seed: int = 0
    sampler: str = RANDOM

    @property
    def hash(self) -> str:
        """12 hexadecimal digits over all that the trials depend on, except their number."""
        base = self.base
        parts = [base.method, base.dataset, base.hash, self.space, self.sampler, self.sampler_seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def drawn(self, number: int) -> tuple[str, ...]:
        """The settings that a trial has drawn, as overrides; none for trial 0."""
        return draw(self.space, self.sampler_seed, number) if number else ()

    def trial(self, number: int) -> Experiment:
        """The experiment of a trial.

        Raises:
            ErcBenchError: the method does not take a value that the space holds.
        """
        base, drawn = self.base, self.drawn(number)
        try:
            return resolve(
                base.method,
                base.corpus,
                preset=base.preset,
                variant=base.variant,
                seed=FIRST_TRIAL_SEED + number,
                overrides=(*base.overrides, *drawn),
            )
        except ErcBenchError as error:
            fixed = f" together with {', '.join(base.overrides)}" if base.overrides else ""
            remedy = " Fix the setting that it names as well, by key=value." if fixed else ""
            raise ErcBenchError(
                f"{experiment_file(base.method)}, space: trial {number} draws "
                f"{', '.join(drawn)}, which {base.method} does not take{fixed}. {error}{remedy}"
            ) from error


def study(base: Experiment, sampler_seed: int = 0) -> Study:
    """Return the search around some settings. Settings that they override are fixed, not drawn.

    Raises:
        ErcBenchError: the method has no space or a faulty one, all of the space is fixed, or the
            settings ask for test.
    """
    if base.config.evaluation.oracle:
        raise ErcBenchError(
            "A search never looks at test: leave evaluation.oracle=true out. For the oracle gap of "
            "the chosen settings, use `erc-bench run` with them."
        )
    found = space_of(base)
    fixed = {text.partition("=")[0] for text in base.overrides}
    space = {key: values for key, values in found.items() if key not in fixed}
    if not space:
        raise ErcBenchError(
            f"Nothing of {base.method} is left to tune: its space has {listed(found)}, and all of "
            "it is fixed by key=value."
        )
    return Study(base, space, sampler_seed)


def space_of(experiment: Experiment) -> Space:
    """The space of a method around its settings, as its YAML file has it.

    A setting with a logarithmic range is not drawn if it is 0: the part of the method that it
    weights is turned off for this corpus.

    Raises:
        ErcBenchError: the method has no space, the space names a setting that the method does not
            have, or a range is invalid.
    """
    path = experiment_file(experiment.method)
    sheet = method_sheet(experiment.method).get("space")
    if not isinstance(sheet, Mapping) or not sheet:
        raise ErcBenchError(
            f"{experiment.method} can't be tuned: {path} says nothing under `space`, which holds "
            "the settings to draw, each with its range: `lr: {log: [1.0e-5, 1.0e-3]}`."
        )
    values = flat(experiment.settings)
    space = {}
    for key, entry in sheet.items():
        where = f"{path}, space, {key}"
        if key not in values:
            raise ErcBenchError(f"{where}: there is no such setting." + did_you_mean(key, values))
        scale = _range(entry, values[key], where)
        if "log" in scale and values[key] in ("0", "0.0"):
            continue  # a part that the settings turn off stays off
        space[key] = scale
    return space


def _range(entry: Any, value: str, where: str) -> dict[str, list[Any]]:
    """Check a range and return its scale and values; relative ones are multiplied by ``value``."""
    given = dict(entry) if isinstance(entry, Mapping) else {}
    relative = given.pop("relative", False)
    scale, held = next(iter(given.items()), ("", None))
    if len(given) != 1 or scale not in SCALES or not isinstance(held, list) or len(held) < 2:
        raise ErcBenchError(
            f"{where}: {entry!r} is not a range. Write `log: [lowest, highest]`, `uniform: "
            "[lowest, highest]` or `choice: [one, another, …]`, with `relative: true` if the "
            "numbers are multiples of the preset's value."
        )
    numbers = all(type(v) in (int, float) and math.isfinite(v) for v in held)
    if (scale != "choice" or relative) and not numbers:
        raise ErcBenchError(f"{where}: {held!r} are not numbers.")
    if relative:
        held = [_rounded(float(value) * v) for v in held]
        if value.isdigit():  # a whole number; 0 often means something else
            held = list(dict.fromkeys(max(min(1, int(value)), round(v)) for v in held))
    if scale != "choice" and (len(held) != 2 or not held[0] < held[1]):
        raise ErcBenchError(f"{where}: {scale} takes two numbers, the lower first, not {held!r}.")
    if scale == "log" and held[0] <= 0:
        raise ErcBenchError(f"{where}: log takes numbers above 0, not {held!r}.")
    return {scale: held}


def draw(space: Space, seed: int, number: int) -> tuple[str, ...]:
    """The settings of trial ``number``, as overrides in the order of their names.

    They depend only on the arguments, so a trial does not depend on those that were drawn before.
    """
    rng = np.random.default_rng((seed, number))
    drawn = []
    for key, entry in sorted(space.items()):
        ((scale, held),) = entry.items()
        if scale == "choice":
            value = held[int(rng.integers(len(held)))]
        elif scale == "log":
            value = _rounded(math.exp(rng.uniform(math.log(held[0]), math.log(held[1]))))
        else:
            value = _rounded(rng.uniform(held[0], held[1]))
        drawn.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return tuple(drawn)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
