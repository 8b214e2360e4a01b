"""Files that are written whole or not at all, their digests, and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs

from erc_bench.errors import FULL, ErcBenchError

UNWRITABLE = FULL | frozenset(
    {
        errno.EROFS,
        errno.EACCES,
        errno.EEXIST,
        errno.ENOTDIR,
    }
)
"""The ``errno`` values of a place that is full, not writable, or not a folder."""


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; rename it to ``path`` once it is written.

    Raises:
        OSError: the file can't be written; nothing is left behind.
    """
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it gets its name only once all of it is on the disk.

    Raises:
        ErcBenchError: it can't be written (no space, no permission); nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, text: str) -> None:
    """Write text to a file with :func:`whole_file`."""
    with whole_file(path, temporary_name(path)) as file:
        file.write(text.encode("utf-8"))


def temporary_name(path: Path, end: str = ".tmp") -> Path:
    """A hidden name beside a file that no other process uses, on any machine."""
    host = re.sub(r"[^\w-]", "_", platform.node())[:60]
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{secrets.token_hex(4)}{end}")


def filesystem_time(folder: Path) -> float:
    """The current time by the clock of a folder's filesystem, to compare with file times there.

    Raises:
        OSError: the folder can't be written to.
    """
    probe = temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> ErcBenchError:
    """The error for a place that can't be written to."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return ErcBenchError(
            f"{path} can't be written: a part of this path is a file, not a folder. "
            f"Choose another folder with {_chosen_by(path)}."
        )
    return ErcBenchError(
        f"{path} can't be written: {error.strerror or error}. Make room or check the permissions, "
        f"or choose another folder with {_chosen_by(path)}; the same command resumes an "
        "interrupted run."
    )


def _chosen_by(path: Path) -> str:
    """The variable or option that sets the folder of one of our files."""
    return "XDG_CACHE_HOME" if cache_folder() in path.absolute().parents else "--leaderboard-dir"


def sha256_of(*paths: Path) -> str:
    """SHA-256 over the contents of files, one after another."""
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


def last_line(file: Path) -> str:
    """The last line of a log that is not blank; empty if there is none."""
    with contextlib.suppress(OSError), file.open("rb") as log:
        log.seek(max(file.stat().st_size - 4096, 0))
        lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def cache_folder() -> Path:
    """The folder of downloads and of everything that can be made again."""
    return platformdirs.user_cache_path("erc-bench", appauthor=False)
