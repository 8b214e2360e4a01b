"""A benchmark suite for emotion recognition in conversation (ERC).

``load_corpus``, ``load_run``, ``run``, ``predict``, ``encode`` and ``load_leaderboard`` are for
notebooks and scripts; see :mod:`erc_bench.api`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erc_bench.api import encode, load_corpus, load_leaderboard, load_run, predict, run

__all__ = [
    "__version__",
    "encode",
    "load_corpus",
    "load_leaderboard",
    "load_run",
    "predict",
    "run",
]

try:
    __version__ = version("erc-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """A function of :mod:`erc_bench.api`, imported on first use."""
    if name in __all__:
        from erc_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
