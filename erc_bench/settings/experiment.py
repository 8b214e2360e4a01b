"""One typed configuration: method defaults < corpus < preset < variant < ``key=value``.

A method's settings are a dataclass that extends :class:`MethodConfig`. The method's YAML file first
describes the method (``title``, ``paper``, ``family``, ``context``, ``trains``, ``gpu_memory_gib``
by preset if it differs from ``presets.yaml``, and ``needs_gpu: true`` if all presets but a try-out
need a GPU). Then come ``defaults``, ``corpora`` (settings per corpus), ``presets``, ``variants``
(the method without one of its parts) and ``space``, the values that a search draws from
(:mod:`erc_bench.settings.space`). The result is an :class:`Experiment`: the resolved settings, and
the hash over them that identifies finished runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from erc_bench.corpus.conversation import Metric
from erc_bench.corpus.text_files import parse_yaml
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.method.config import MethodConfig, default_of, is_added_later, is_unhashed
from erc_bench.settings.presets import default_preset, presets
from erc_bench.settings.registry import experiment_file

S = TypeVar("S")

KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
"""The values that settings of a type take, in words."""


@dataclass(frozen=True)
class Tuned:
    """The search that chose the settings of an experiment."""

    trials: int
    """The number of trials, including those that failed."""
    sampler: str
    sampler_seed: int
    space: Mapping[str, Mapping[str, list[Any]]]
    """The values that the trials drew from; see :mod:`erc_bench.settings.space`."""
    chosen: int
    """The trial whose settings these are; trial 0 has the preset's settings."""
    digest: str
    """SHA-256 over the trials and their scores on dev."""


@dataclass(frozen=True)
class Experiment:
    """One run to be done: its method, corpus, settings and seed."""

    method: str
    dataset: str
    preset: str
    seed: int
    config: MethodConfig
    overrides: tuple[str, ...] = ()
    """Each setting once, with its value in one form: ``lr=1e-4`` is ``lr=0.0001``."""
    variant: str = ""
    """The name of the variant, which lacks a part of the method; empty for the whole method."""
    tuned: Tuned | None = None
    """The search that chose the settings; None if the settings were not searched for."""
    own_corpus: str = ""
    """The file of the user's own corpus; empty for a registered corpus."""

    @property
    def corpus(self) -> str:
        """The name under which the corpus is found: the user's own file, or a registered name."""
        return self.own_corpus or self.dataset

    @property
    def method_and_variant(self) -> str:
        """``eacl``, or ``eacl:no-angle`` for a variant."""
        return ":".join(part for part in (self.method, self.variant) if part)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings as plain data; what the record stores."""
        return asdict(self.config)

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits over the settings; the same settings have the same hash.

        Settings that were :func:`~erc_bench.method.config.added_later` count only if they differ
        from their default, so that a hash is for good. Settings that are
        :func:`~erc_bench.method.config.unhashed` never count.
        """
        text = json.dumps(_hashed(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The run's short name: method, dataset, settings, seed."""
        return f"{self.method}/{self.dataset}/{self.hash}/seed{self.seed}"

    def to_yaml(self) -> str:
        """The resolved configuration, as ``erc-bench config`` prints it."""
        import yaml

        names = ("method", "dataset", "preset", *["variant"] * bool(self.variant), "seed", "hash")
        head = {k: getattr(self, k) for k in names}
        return yaml.safe_dump(head | {"config": self.settings}, sort_keys=False)


def method_sheet(method: str) -> dict[str, Any]:
    """The content of a method's YAML file, from its title to its space.

    Callers must not change it.
    """
    path = experiment_file(method)
    return _sheet(path, path.read_text(encoding="utf-8"))


@cache
def _sheet(path: Path, text: str) -> dict[str, Any]:
    sheet, _ = parse_yaml(text, str(path))
    about = ("title", "paper", "family", "context", "trains", "gpu_memory_gib", "needs_gpu")
    known = (*about, "defaults", "corpora", "presets", "variants", "space")
    if "title" not in sheet:
        raise ErcBenchError(f"{path} must be a mapping with the keys {', '.join(known)}.")
    for key in sheet:
        if key not in known:
            raise ErcBenchError(f"{path}: unknown key {key!r}." + did_you_mean(key, known))
    return sheet


def resolve(
    method: str,
    dataset: str,
    *,
    preset: str | None = None,
    seed: int = 1,
    overrides: Iterable[str] = (),
    variant: str = "",
) -> Experiment:
    """Return the configuration of one run. Without ``preset`` it has the default preset.

    Raises:
        ErcBenchError: an unknown preset, variant or key (the message names the nearest), a value
            of the wrong type or out of range, an override that is not ``key=value`` or undoes the
            variant.
    """
    from omegaconf import OmegaConf

    from erc_bench.settings.registry import corpus_source, method_class

    sheet = method_sheet(method)
    own = sheet.get("presets") or {}
    preset = preset or default_preset()
    known = list(dict.fromkeys((*presets(), *own)))
    if preset not in known:
        raise ErcBenchError(f"There is no preset {preset!r}." + did_you_mean(preset, known))
    if preset not in own and preset != default_preset():
        raise ErcBenchError(
            f"The method {method!r} has no preset {preset!r}." + did_you_mean(preset, own)
        )
    source = corpus_source(dataset)
    dataset, metric = source.name, source.metric
    overrides = tuple(overrides)
    given = [(f"override {text!r} of {method}", _override(text)) for text in overrides]
    path = experiment_file(method)
    merged = OmegaConf.structured(method_class(method).Config)
    layers = _layers(method, preset, dataset)
    if variant:
        without = variants(method)
        if variant not in without:
            raise ErcBenchError(
                f"The method {method!r} has no variant {variant!r}."
                + did_you_mean(variant, without)
            )
        layers.append((f"{path}, variants.{variant}", without[variant].settings))
        for text in overrides:
            if text.partition("=")[0].strip() in without[variant].settings:
                raise ErcBenchError(
                    f"The override {text!r} would undo the variant {variant!r}, which sets that "
                    "too. Leave the override out for this variant."
                )
    for where, layer in layers:
        merged = _merge(merged, layer or {}, where)
    if merged.select_on == Metric().name:
        merged = _merge(merged, {"select_on": metric.name}, f"{dataset}, judged by {metric.title}")
    for where, layer in given:
        merged = _merge(merged, layer, where)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, MethodConfig)
    if config.select_on not in (metric.name, "loss"):
        raise ErcBenchError(
            f"select_on={config.select_on}: {dataset} is judged by {metric.title}, so select_on "
            f"takes {metric.name} or loss."
        )
    file = source.loaded_by if source.loaded_by != dataset else ""
    values = flat(asdict(config))
    named = dict.fromkeys(key for _, layer in given for key in flat(layer))
    overrides = tuple(f"{key}={_written(merged, key, values[key])}" for key in named)
    return Experiment(method, dataset, preset, seed, config, overrides, variant, None, file)


def _layers(
    method: str, preset: str, dataset: str = ""
) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Settings in a method's YAML file, each with its place there; the later ones win."""
    sheet, path = method_sheet(method), experiment_file(method)
    return [
        (f"{path}, defaults", sheet.get("defaults")),
        (f"{path}, corpora.{dataset}", (sheet.get("corpora") or {}).get(dataset)),
        (f"{path}, presets.{preset}", (sheet.get("presets") or {}).get(preset)),
    ]


def default_settings(method: str) -> dict[str, Any]:
    """Return the settings of a method with the default preset, before those of a corpus.

    Raises:
        ErcBenchError: there is no such method, or its YAML file is invalid.
    """
    from omegaconf import OmegaConf

    from erc_bench.settings.registry import method_class

    merged = OmegaConf.structured(method_class(method).Config)
    for where, layer in _layers(method, default_preset()):
        merged = _merge(merged, layer or {}, where)
    settings = OmegaConf.to_container(merged)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


@dataclass(frozen=True)
class Variant:
    """A method without one of its parts."""

    settings: Mapping[str, Any]
    """By their dotted names."""
    paired: bool
    """Whether a seed has the same initial weights and batches as with the whole method."""
    unused: tuple[str, ...] = ()
    """Settings of the whole method that the variant does not use, whatever their values."""


def variants(method: str) -> dict[str, Variant]:
    """The variants of a method by name, as its YAML file has them.

    Raises:
        ErcBenchError: one is not a mapping of settings.
    """
    found = {}
    for name, entry in (method_sheet(method).get("variants") or {}).items():
        if not isinstance(entry, Mapping) or not set(entry) - {"paired", "unused"}:
            raise ErcBenchError(
                f"{experiment_file(method)}, variants.{name}: it must be a mapping of settings, "
                "and may say `paired: true` and `unused: [SETTING]` beside them."
            )
        settings = {key: value for key, value in entry.items() if key not in ("paired", "unused")}
        unused = tuple(entry.get("unused") or ())
        found[str(name)] = Variant(settings, entry.get("paired") is True, unused)
    return found


def stored_config(method: str, settings: Mapping[str, Any], where: str) -> MethodConfig:
    """Return the settings in a record as a configuration. Absent ones have the method's default.

    Raises:
        ErcBenchError: the method no longer has such a setting, or a value is of the wrong type;
            the message begins with ``where``.
    """
    from omegaconf import OmegaConf

    from erc_bench.settings.registry import method_class

    merged = _merge(OmegaConf.structured(method_class(method).Config), settings, where)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, MethodConfig)
    return config


def with_overrides(settings: S, overrides: Iterable[str]) -> S:
    """Return a dataclass of settings with some of them overridden by ``key=value``.

    Raises:
        ErcBenchError: as :func:`resolve`.
    """
    from omegaconf import OmegaConf

    merged = OmegaConf.structured(settings)
    for text in overrides:
        merged = _merge(merged, _override(text), f"override {text!r}")
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def _hashed(config: Any) -> dict[str, Any]:
    """The settings that the hash is computed from, as plain data."""
    found: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if is_unhashed(each):
            continue
        if is_added_later(each) and value == default_of(each):
            continue
        found[each.name] = _hashed(value) if is_dataclass(value) else value
    return found


def flat(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Settings by their dotted names, each value as it would be written."""
    by_name: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            by_name |= flat(value, f"{within}{key}.")
        else:
            by_name[within + key] = value if isinstance(value, str) else json.dumps(value)
    return by_name


def _written(merged: Any, key: str, value: str) -> str:
    """The value of an override. It is in quotes if it would be read as another value without."""
    from omegaconf import OmegaConf

    held = OmegaConf.select(merged, key)
    if not isinstance(held, str):
        return value
    with contextlib.suppress(ErcBenchError):
        again = _merge(merged, _override(f"{key}={value}"), key)
        if OmegaConf.select(again, key) == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _override(text: str) -> Mapping[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ErcBenchError(f"The override {text!r} is not of the form key=value.")
    if text.endswith(("=", "=???")) or "${" in text:
        said = "refers to another value" if "${" in text else "has no value"
        raise ErcBenchError(f"The override {text!r} {said}. Write the value itself: `lr=1e-4`.")
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist([text]))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ErcBenchError(f"The override {text!r} can't be read: {reason}.") from error
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _merge(config: Any, layer: Mapping[str, Any], where: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        return OmegaConf.merge(config, layer)
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise ErcBenchError(
            f"{where}: there is no setting {key!r}." + did_you_mean(key, _keys(config))
        ) from error
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ErcBenchError(f"{where}{_misfit(config, layer, error)}.") from error


def _misfit(config: Any, layer: Mapping[str, Any], error: Exception) -> str:
    """The end of an error message: the setting that a layer does not fit, and what it takes."""
    from omegaconf import DictConfig, OmegaConf

    single = (k for k, value in layer.items() if not isinstance(value, Mapping))
    groups = (k for k in single if isinstance(OmegaConf.select(config, str(k)), DictConfig))
    name = getattr(error, "full_key", None) or next(groups, "")
    current = OmegaConf.select(config, name) if name else None
    if isinstance(current, DictConfig):
        names = ", ".join(_keys(current, f"{name}."))
        return f": {name!r} holds several settings, each to be set by its own name: {names}"
    if kind := KINDS.get(type(current)):
        return f": the setting {name!r} takes {kind}"
    at = f", setting {name!r}" if name else ""
    return f"{at}: {str(error).splitlines()[0].rstrip('.')}"


def _keys(config: Any, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig, OmegaConf

    keys: list[str] = []
    for key in config:
        value = OmegaConf.select(config, str(key))
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else [prefix + key]
    return keys
