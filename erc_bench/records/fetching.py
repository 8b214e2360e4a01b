"""Fetch runs from the Hugging Face hub, where ``hf://user/repo@revision`` is a run's name.

A repository holds one run, laid out as in a store (:mod:`erc_bench.records.place`). Its copy in the
hub's cache is a folder of records with one record. The record is fetched when the run is named, and
the weights when a model is asked for. Weights are a safetensors file with a fixed name; nothing is
unpickled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

SCHEME = "hf://"

WEIGHTS = "model.safetensors"
"""The name of the weights in a run's folder on the hub."""

ENCODER = "encoder"
"""The folder, in a run's folder on the hub, of the encoder that was fine-tuned for its vectors."""

ENCODER_ENDS = (".json", ".txt", ".safetensors", ".model")
"""Endings of the files of such an encoder; others are neither pushed nor fetched."""

RECORDS = ["records/*/*/*.json"]
"""Patterns of the files that are fetched to read a run's record."""

MODEL = [
    f"runs/*/*/*/{WEIGHTS}",
    *(f"runs/*/*/*/{ENCODER}/*{end}" for end in ENCODER_ENDS),
]
"""Patterns of the files that are fetched to load a run's model: its weights, and the encoder of its
utterance vectors."""


def is_on_hub(run: str) -> bool:
    """Whether a run's name is that of a repository on the hub."""
    return run.startswith(SCHEME)


def fetch_record(run: str) -> Path:
    """Fetch the record of ``hf://user/repo`` or ``hf://user/repo@revision`` and return its file.

    Raises:
        ErcBenchError: there is no such repository or revision; the hub can't be reached and its
            cache has no copy; or the repository does not hold one run.
    """
    repo, _, revision = run.removeprefix(SCHEME).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or run.endswith("@"):
        raise ErcBenchError(
            f"{run!r} names no run on the hub: write hf://user/repo, or hf://user/repo@revision."
        )
    folder = _fetched(repo, revision or "main", RECORDS)
    found = sorted(folder.glob(RECORDS[0]))
    if len(found) != 1:
        raise ErcBenchError(
            f"{repo} on the hub holds {len(found) or 'no'} records, so it is not a run of "
            "erc-bench: `erc-bench hub push` makes repositories with one record. Check the name."
        )
    return found[0]


def fetch_model(root: Path, weights: Path) -> None:
    """Fetch the files that the model of a fetched record needs.

    Args:
        root: the folder of the record's store; if it is not in the hub's cache, nothing is done.
        weights: where the weights will be.

    Raises:
        ErcBenchError: as in :func:`fetch_record`.
    """
    if not is_snapshot(root):
        return
    repo = root.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    if not weights.is_file():
        say(f"Fetching the model of {repo} …")
    _fetched(repo, root.name, MODEL)


def is_snapshot(root: Path) -> bool:
    """Whether a folder is the copy of a repository in the hub's cache."""
    return root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")


def check_weights(root: Path, file: str) -> None:
    """Refuse weights from the hub that are not the safetensors file :data:`WEIGHTS`.

    Raises:
        ErcBenchError: the record of a run on the hub names another file.
    """
    if is_snapshot(root) and file != WEIGHTS:
        raise ErcBenchError(
            f"The run in {root} names {file!r} as its weights. From the hub nothing is loaded but "
            f"{WEIGHTS}: another file might run code. Ask whoever made it to push it with "
            "`erc-bench hub push`."
        )


def _fetched(repo: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    from erc_bench.encoders.locating import download_bars

    try:
        with download_bars():
            return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's library also raises those of the libraries below it
        explain_hub(error, repo, revision)


def explain_hub(error: Exception, repo: str, revision: str = "") -> NoReturn:
    """Raise a one-paragraph explanation of an error of the hub's library.

    Args:
        error: the library's error.
        repo: the repository asked for.
        revision: the revision to fetch; empty for a push.

    Raises:
        ErcBenchError: always, except that an error of another kind is raised as it is.
    """
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    reach: tuple[type[Any], ...] = (
        *(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError),
        TimeoutError,
    )
    if isinstance(error, errors.GatedRepoError):
        reason = "is gated: ask for access on its page, and log in (`hf auth login`, or HF_TOKEN)."
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = (
            "is not there, or it is private and the token here may not read it. Check the name; "
            "for a private repository log in (`hf auth login`, or HF_TOKEN)."
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"has no revision {revision!r}. Its page lists branches, tags and commits."
    elif isinstance(error, errors.HFValidationError):
        reason = f"is no name of a repository ({_line(error)}). It is user/repo."
    elif status in (401, 403):
        reason = (
            f"may not be written to or read with the token here ({_line(error)}). Log in with a "
            "token that may (`hf auth login`, or HF_TOKEN), or name a repository of your own."
        )
    elif isinstance(error, reach) or type(error).__module__.startswith(("httpx", "requests")):
        copy = f", and the hub's cache has no copy of {revision!r}" if revision else ""
        reason = (
            f"can't be reached{copy} ({_line(error)}). Try again with a network; HF_ENDPOINT and "
            "HF_HUB_OFFLINE set where it is looked for."
        )
    elif status is not None:
        reason = f"is refused by the hub ({_line(error)}). Try again later."
    else:
        raise error
    raise ErcBenchError(f"{repo} on the Hugging Face hub {reason}") from error


def _line(error: Exception) -> str:
    """The first line of an error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
