"""The digest of the code of a run, so that no worker does a job with other code."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from erc_bench.settings.experiment import Experiment
from erc_bench.settings.registry import corpus_source, method_class, own_modules


def _digest_of(files: Iterable[Path]) -> str:
    """The digest of the contents of files. It does not depend on their folders."""
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _own_code() -> str:
    folders = {Path(__file__).parent.parent}
    for module in own_modules():
        spec = find_spec(module)
        if spec is not None and spec.origin:
            folders.add(Path(spec.origin).parent)
    files = {f.resolve() for folder in folders for f in folder.rglob("*.py")}
    return _digest_of(files)


OWN_CODE = _own_code()
"""The digest of the code that is imported now. Hours later other code may be checked out."""


@cache
def _brought(*names: str) -> str:
    modules = {sys.modules[name] for name in names}
    own = ("erc_bench.", "erc_bench")
    files = {m.__file__ for m in modules if m.__file__ and not m.__name__.startswith(own)}
    return _digest_of(Path(file) for file in files)


def code_digest(experiment: Experiment) -> str:
    """The digest of the code of a run: ours, and the modules that hold its method and corpus."""
    method, corpus = method_class(experiment.method), type(corpus_source(experiment.corpus))
    brought = _brought(method.__module__, corpus.__module__)
    return hashlib.sha256(f"{OWN_CODE} {brought}".encode()).hexdigest()
