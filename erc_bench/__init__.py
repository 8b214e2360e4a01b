"""A benchmark suite for emotion recognition in conversation (ERC)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("erc-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
