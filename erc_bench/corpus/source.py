"""Finding, downloading and checking the files of a corpus.

A file is looked for under the folder given with ``--data-dir``, then under the one named by
``ERC_BENCH_DATA``, then in the cache (``~/.cache/erc-bench``; ``XDG_CACHE_HOME`` is honoured), and
is then downloaded into the cache where the licence allows.

What a checksum decides:

- A download is moved into place only after its checksum holds, so a file in the cache whose
  checksum fails was damaged: an error.
- A file in a user's own folder may be another copy of the same release (MELD's older copies differ
  in one character). One that parses and gives the release's counts loads, with a
  :class:`CorpusWarning`; the digest in a run's record tells whether the contents are the same.
  One that does not is an error that says what is off and that the checksum is not the official one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import platformdirs

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet
from erc_bench.errors import ErcBenchError

ATTEMPTS = 3
TIMEOUT = 30  # seconds without an answer


class CorpusWarning(UserWarning):
    """A corpus is usable, but is not known to be the official release."""


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus.

    ``path`` is relative to the data folder. ``checksum`` is ``"sha256:…"`` or ``"git-blob:…"``, the
    SHA-1 that git gives the file. ``url`` is None where the licence forbids a download.
    ``alternatives`` hold the same dialogues, at another path or in another form.
    """

    path: str
    checksum: str
    url: str | None = None
    alternatives: tuple[CorpusFile, ...] = ()


@dataclass(frozen=True)
class FileStatus:
    """What is known of a file: where it is, whether it is intact, and how else to get it."""

    name: str
    path: Path | None
    intact: bool
    cached: bool
    source: str
    """Where to get it: a URL, or whom to ask."""

    @property
    def state(self) -> str:
        """``"present"``, ``"missing"`` or ``"checksum fails"``."""
        if self.path is None:
            return "missing"
        return "present" if self.intact else "checksum fails"


def cache_folder() -> Path:
    """Where downloads are kept."""
    return platformdirs.user_cache_path("erc-bench", appauthor=False)


def search_folders(data_dir: Path | None) -> list[Path]:
    """The data folders in the order they are searched; one that is named must exist."""
    folders = []
    named = {"--data-dir": data_dir, "ERC_BENCH_DATA": os.environ.get("ERC_BENCH_DATA")}
    for origin, folder in named.items():
        if folder:
            if not Path(folder).is_dir():
                raise ErcBenchError(
                    f"{origin} names {folder}, which is not a folder; correct it or leave it out."
                )
            folders.append(Path(folder))
    return [*folders, cache_folder()]


def checksum_of(path: Path, kind: str) -> str:
    """The checksum of a file, as ``"sha256:…"`` or ``"git-blob:…"``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ErcBenchError(f"{path} can not be read: {error.strerror}.") from error
    if kind == "sha256":
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    return f"git-blob:{hashlib.sha1(b'blob %d' % len(data) + bytes(1) + data).hexdigest()}"


def checksum_holds(path: Path, checksum: str) -> bool:
    """Whether a file has this checksum."""
    return checksum_of(path, checksum.partition(":")[0]) == checksum


def find(file: CorpusFile, data_dir: Path | None) -> FileStatus:
    """The first copy of a file, or of an alternative of it, in the folders searched."""
    source = file.url or "licensed"
    for folder in search_folders(data_dir):
        for version in (file, *file.alternatives):
            path = folder / version.path
            if path.is_file():
                intact = checksum_holds(path, version.checksum)
                return FileStatus(file.path, path, intact, folder == cache_folder(), source)
    return FileStatus(file.path, None, False, False, source)


def download(url: str, target: Path, checksum: str) -> Path:
    """Fetch a file under a temporary name and move it into place once its checksum holds.

    Raises:
        ErcBenchError: no answer after a few attempts, or not the file expected.
    """
    import pooch
    import requests

    from erc_bench.progress import console, say

    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        say(f"Downloading {url}")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                shown = console.is_terminal and not console.quiet
                fetch = pooch.HTTPDownloader(progressbar=shown, timeout=TIMEOUT)
                fetch(url, str(part), None)
                break
            except requests.RequestException as error:
                refused = error.response is not None and error.response.status_code < 500
                if refused or attempt == ATTEMPTS:
                    raise ErcBenchError(
                        f"{target} is missing and could not be downloaded from {url} "
                        f"({_reason(error)}). Fetch it on a machine with a network and put it "
                        "there, or under a folder given with --data-dir; "
                        "--dataset demo needs no files and no network."
                    ) from error
                time.sleep(attempt / 2)
        if not checksum_holds(part, checksum):
            raise ErcBenchError(
                f"{url} is not the file expected: its checksum is not {checksum}. Nothing was "
                "kept; try again, and if it stays so the file has changed at its source."
            )
        os.replace(part, target)
    except OSError as error:
        raise ErcBenchError(
            f"{target} can not be written: {error.strerror or error}. Make room or set "
            "XDG_CACHE_HOME to a folder that can be written to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return target


def _reason(error: Exception) -> str:
    """The last cause of a failed request, without the layers it went through."""
    while error.__context__ is not None:
        error = error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {error}"


class CorpusSource(ABC):
    """A corpus as its files: what it is, where it comes from, and how it is read.

    A corpus is one subclass, joined by an entry point of the group ``erc_bench.datamodules``. It
    fills in the attributes and :meth:`parse`.
    """

    name: ClassVar[str]
    labels: ClassVar[LabelSet]  # empty where there are no emotions, as in a corpus of speakers
    description: ClassVar[str]  # what the dialogues are, in one line
    classes: ClassVar[str]  # who named the classes
    licence: ClassVar[str]
    homepage: ClassVar[str]
    citation: ClassVar[str]
    release: ClassVar[str]  # which of the releases in use this is
    files: ClassVar[Mapping[str, CorpusFile]] = {}  # split → file
    counts: ClassVar[Mapping[str, tuple[int, int]]] = {}  # split → dialogues, labelled utterances

    @abstractmethod
    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        """Read the files into the dialogues of each split; errors name file and line."""

    def load(self, data_dir: Path | None = None) -> Corpus:
        """The corpus, from its files (downloaded if need be), checked against its counts."""
        found = self._available(data_dir)
        changed = [status for status in found.values() if not status.intact]
        for status in changed:
            if status.cached:
                raise ErcBenchError(
                    f"{self.name}: the checksum of {status.path} fails, so the file was damaged "
                    f"after it was downloaded. Delete it and run `erc-bench data prepare "
                    f"{self.name}`."
                )
        names = ", ".join(str(status.path) for status in changed)
        try:
            splits = self.parse({key: status.path for key, status in found.items() if status.path})
            self.check(splits)
        except ErcBenchError as error:
            advice = "Replace the file with the official one"
            if self.files:
                advice += f" (`erc-bench data doctor` says where to get {self.name})"
            doubt = f" The checksum of {names} is not the official one." if changed else ""
            raise ErcBenchError(f"{error}{doubt} {advice}.") from error
        if changed:
            warnings.warn(
                f"{self.name}: the checksum of {names} is not the official one; the counts are, so "
                "it is used. The record's dataset digest says whether the contents are the same.",
                CorpusWarning,
                stacklevel=2,
            )
        return Corpus.build(self.name, self.labels, splits)

    def prepare(self, data_dir: Path | None = None) -> dict[str, Path]:
        """Find every file or download it; the paths, one per split."""
        found = self._available(data_dir)
        return {key: status.path for key, status in found.items() if status.path}

    def status(self, data_dir: Path | None = None) -> list[FileStatus]:
        """What is there and what is not; downloads nothing."""
        return list(self.locate(data_dir).values())

    def locate(self, data_dir: Path | None) -> dict[str, FileStatus]:
        """The files by the key under which :meth:`parse` expects them."""
        return {split: find(file, data_dir) for split, file in self.files.items()}

    def check(self, splits: Mapping[str, list[Dialogue]]) -> None:
        """Compare with the release's counts; an error says which figure is off."""
        for split, expected in self.counts.items():
            actual = count(splits[split])
            named = zip(("dialogues", "labelled utterances"), actual, expected, strict=True)
            for what, have, want in named:
                if have != want:
                    raise ErcBenchError(
                        f"{self.name}, {split}: {have} {what}, the release has {want}."
                    )

    def notes(self, corpus: Corpus, data_dir: Path | None = None) -> list[str]:
        """What a user of this corpus should know and ``data stats`` can count, a line each."""
        return []

    def _available(self, data_dir: Path | None) -> dict[str, FileStatus]:
        """:meth:`locate`, with what is missing downloaded."""
        found = self.locate(data_dir)
        for key, status in found.items():
            if status.path is None:
                found[key] = self._fetch(self.files.get(key), status)
        return found

    def _fetch(self, file: CorpusFile | None, status: FileStatus) -> FileStatus:
        if file is None or file.url is None:
            raise ErcBenchError(
                f"{self.name}: {status.name} is missing. The corpus is licensed and never "
                f"downloaded: {status.source}, then name the folder in which that lies with "
                "--data-dir or ERC_BENCH_DATA. --dataset demo needs no files."
            )
        path = download(file.url, cache_folder() / file.path, file.checksum)
        return FileStatus(file.path, path, True, True, file.url)


def count(dialogues: list[Dialogue]) -> tuple[int, int]:
    """Dialogues and labelled utterances."""
    return len(dialogues), sum(len(dialogue.labelled) for dialogue in dialogues)
