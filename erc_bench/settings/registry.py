"""Finds methods, corpora and executors by their entry points, with a helpful "did you mean".

Any package can add methods and corpora by the same entry points as ours. ``erc_bench.methods``
names a class of :class:`erc_bench.method.contract.ErcMethod`, ``erc_bench.datamodules`` a class of
:class:`erc_bench.corpus.source.CorpusSource`. The settings of a method are in a YAML file with the
method's name, beside the method's module or in ``erc_bench.experiments``. Listing methods imports
none of them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.garbage import no_garbage_collection

if TYPE_CHECKING:
    from erc_bench.corpus.source import CorpusSource
    from erc_bench.method.contract import ErcMethod

METHODS = "erc_bench.methods"
CORPORA = "erc_bench.datamodules"
EXECUTORS = "erc_bench.executors"


@dataclass(frozen=True)
class _Plugin:
    """A method, corpus or executor that a package brings."""

    point: EntryPoint
    package: dict[str, str]
    """The package's name (``distribution``) and version. They are read at once, because with a
    relative search path they can't be read from another folder later."""


@cache
def _points(group: str) -> dict[str, _Plugin]:
    """The plug-ins that all packages bring to a group, by name.

    Raises:
        ErcBenchError: two packages bring plug-ins of the same name.
    """
    plugins: dict[str, _Plugin] = {}
    for point in entry_points(group=group):
        found = _Plugin(point, _package(point))
        other = plugins.setdefault(point.name, found)
        if (other.point.value, other.package) != (point.value, found.package):
            both = " and ".join(
                f"{p.point.value} of {' '.join(p.package.values())}" for p in (other, found)
            )
            raise ErcBenchError(
                f"Two packages bring {point.name!r} ({group}): {both}. Uninstall one of them, or "
                "have its author rename it."
            )
    return plugins


def _package(point: EntryPoint) -> dict[str, str]:
    # A damaged installation has neither.
    name, version = (point.dist.name, point.dist.version) if point.dist else (None, None)
    return {"distribution": name or "?", "version": version or "?"}


def plugin(method: str) -> dict[str, str]:
    """Name and version of the ``distribution`` that brings a method."""
    return _points(METHODS)[method].package


def _load(group: str, kind: str, name: str) -> Any:
    points = _points(group)
    if name not in points:
        raise ErcBenchError(f"There is no {kind} {name!r}." + did_you_mean(name, points))
    point = points[name].point
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ErcBenchError(
            f"The {kind} {name!r} is registered as {point.value}, which can't be loaded: "
            f"{error}. Reinstall the package that brings it."
        ) from error


def method_names() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_points(METHODS))


def method_name(kind: type) -> str:
    """The name of a method by its class; "" if it is not registered."""
    value = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, p in _points(METHODS).items() if p.point.value == value), "")


def method_class(name: str) -> type[ErcMethod]:
    """The class of a method by its name; an unknown name is an error that names the nearest."""
    # The first method imports PyTorch, transformers and Lightning. There is no model yet that would
    # be frozen with them.
    first = "lightning" not in sys.modules
    with no_garbage_collection(freeze=first):
        return _load(METHODS, "method", name)


def corpus_names() -> list[str]:
    """Names of all registered corpora, sorted."""
    return sorted(_points(CORPORA))


def corpus_source(name: str, others: Sequence[str] = ()) -> CorpusSource:
    """Return the source of a registered corpus by its name, or of the user's own by its folder or
    ``corpus.yaml``.

    ``others`` are names that the error offers beside the registered ones.

    Raises:
        ErcBenchError: the name is unknown (the nearest is named), or the folder has a fault.
    """
    if name in _points(CORPORA):
        return _load(CORPORA, "dataset", name)()
    if not is_own_corpus(name):
        raise ErcBenchError(
            f"There is no corpus {name!r}.{did_you_mean(name, [*_points(CORPORA), *others])} One "
            "of your own is named by its folder (`erc-bench data new` makes one)."
        )
    from erc_bench.corpus.own import OwnCorpus

    source = OwnCorpus(Path(name))
    refuse_taken(source.name, source.path)
    return source


def refuse_taken(name: str, where: Path) -> None:
    """Raise an error if the user's own corpus has the name of a registered one."""
    if name.lower() in _points(CORPORA):
        raise ErcBenchError(f"{where}: {name!r} is the name of another corpus. Give yours another.")


def is_own_corpus(name: str) -> bool:
    """Whether a name is a folder or file rather than a registered corpus."""
    path = Path(name)
    named = path.name != name or path.suffix in (".yaml", ".yml") or path.is_dir()
    return named and name not in _points(CORPORA)


def confusable_labels(corpus: str) -> tuple[tuple[str, str], ...]:
    """Pairs of labels that annotators and models confuse; empty for an unknown corpus."""
    return corpus_source(corpus).confusable if corpus in _points(CORPORA) else ()


def corpus_metric(corpus: str) -> Metric:
    """The metric of a corpus; the usual metric for an unknown corpus."""
    return corpus_source(corpus).metric if corpus in _points(CORPORA) else Metric()


def executor_names() -> list[str]:
    """Names of all registered executors, sorted."""
    return sorted(_points(EXECUTORS))


def executor_class(name: str) -> Any:
    """The class of an executor by its name; see :mod:`erc_bench.execution.executors`."""
    return _load(EXECUTORS, "executor", name)


def own_modules() -> list[str]:
    """Modules of the methods and corpora that come with the suite."""
    plugins = [plugin for group in (METHODS, CORPORA) for plugin in _points(group).values()]
    modules = {plugin.point.module for plugin in plugins}
    return sorted(module for module in modules if module.startswith("erc_bench."))


def experiment_file(name: str) -> Path:
    """The YAML file with a method's settings per corpus and preset, found without importing it."""
    points = _points(METHODS)
    if name not in points:
        raise ErcBenchError(f"There is no method {name!r}." + did_you_mean(name, points))
    module = importlib.util.find_spec(points[name].point.module)
    beside = Path(module.origin).parent if module and module.origin else Path()
    packaged = Path(str(resources.files("erc_bench.experiments")))
    for folder in (beside, packaged):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise ErcBenchError(
        f"The method {name!r} has no settings: there is no {name}.yaml beside its module in "
        f"{beside}. Write one with the keys title, defaults, corpora and presets."
    )
