"""Finding, downloading and checking the files of a corpus.

A file is looked for under the folder given with ``--data-dir``, then under the one named by
``ERC_BENCH_DATA``, then in the cache (``~/.cache/erc-bench``; ``XDG_CACHE_HOME`` is honoured). If
it is in none of them, it is downloaded into the cache if the licence allows. In a user's own
folder, a file is also found in another place (:func:`near_by`), under its own name in upper or
lower case, if there is only one such file.

What a checksum decides:

- A download is moved into place only after its checksum holds. So a file in the cache whose
  checksum fails was damaged, which is an error.
- A file in a user's own folder may be another copy of the same release (MELD's older copies differ
  in one character). It loads with a :class:`CorpusWarning` that says how it differs, if its
  contents are those of the official files, or if it has the release's counts and ids.
  :attr:`Corpus.official` says whether the contents are the release's. Any other file is an error
  that says what is wrong and that the checksum is not the official one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Metric
from erc_bench.corpus.release import Release, text_damage
from erc_bench.errors import ErcBenchError
from erc_bench.files import cache_folder, temporary_name

ATTEMPTS = 3
TIMEOUT = 30  # seconds without an answer


class CorpusWarning(UserWarning):
    """Issued when a corpus is usable, but not known to be the official release."""


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus.

    ``path`` is relative to the data folder. ``checksum`` is ``"sha256:…"`` or ``"git-blob:…"``, the
    SHA-1 that git gives the file, or empty if none is known. ``url`` is None if the licence
    forbids a download. ``alternatives`` hold the same dialogues, at another path or in another
    form.
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
    problem: str = ""
    """Why it counts as missing although a similar file is there, and what to do."""

    @property
    def state(self) -> str:
        """``"present"``, ``"missing"`` or ``"checksum fails"``."""
        if self.path is None:
            return "missing"
        return "present" if self.intact else "checksum fails"


def search_folders(data_dir: Path | None) -> list[Path]:
    """The data folders in the order they are searched; those that a user names must exist."""
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
        raise ErcBenchError(f"{path} can't be read: {error.strerror}.") from error
    if kind == "sha256":
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    return f"git-blob:{hashlib.sha1(b'blob %d' % len(data) + bytes(1) + data).hexdigest()}"


def checksum_holds(path: Path, checksum: str) -> bool:
    """Whether a file has this checksum; true if no checksum is known."""
    return not checksum or checksum_of(path, checksum.partition(":")[0]) == checksum


def find(file: CorpusFile, data_dir: Path | None) -> FileStatus:
    """The first copy of a file, or of an alternative of it, in the folders searched."""
    source = file.url or "licensed"
    versions = (file, *file.alternatives)
    for folder in search_folders(data_dir):
        cached = folder == cache_folder()
        found = [(folder / v.path, v) for v in versions if (folder / v.path).is_file()][:1]
        if not found and not cached:
            found = _astray(folder, versions)
        if len(found) > 1:
            problem = (
                f"{file.path} is not in {folder}, and there are several files like it: "
                f"{', '.join(str(path) for path, _ in found[:4])}. Put the right one at "
                f"{folder / file.path}"
            )
            return FileStatus(file.path, None, False, False, source, problem)
        for path, version in found:
            intact = checksum_holds(path, version.checksum)
            return FileStatus(file.path, path, intact, cached, source)
    own = [folder for folder in search_folders(data_dir) if folder != cache_folder()]
    problem = next(filter(None, (_unreadable(folder, file) for folder in own)), "")
    return FileStatus(file.path, None, False, False, source, problem)


def _unreadable(folder: Path, file: CorpusFile) -> str:
    """Why a corpus file near a data folder can't be read as it is, and what to do; else empty."""
    wanted = Path(file.path)
    copy = re.compile(
        rf"(?:copy of )?{re.escape(wanted.stem)}(?: ?\(\d+\)| copy)?{re.escape(wanted.suffix)}"
        r"(?:\.(?:gz|zip|bz2|xz|part|crdownload))?",
        re.IGNORECASE,
    )
    for place in near_by(folder, wanted.parts[0]):
        for path in _entries(place):
            if copy.fullmatch(path.name) is None:
                continue
            if path.is_symlink() and not path.exists():
                return f"{path} is a link to {os.readlink(path)}, which is not there. Mend it"
            if path.suffix.lower() in (".part", ".crdownload"):
                return f"{path} is a download that did not end. Fetch it again"
            if path.suffix.lower() != wanted.suffix:
                return f"{path} is still packed. Unpack it to {folder / file.path}"
            if path.is_file() and path.name.lower() != wanted.name.lower():
                return f"{path} is not where it belongs. Move it to {folder / file.path}"
    return ""


def _astray(folder: Path, versions: tuple[CorpusFile, ...]) -> list[tuple[Path, CorpusFile]]:
    """The copies of a file, or of an alternative, near its place: one, or several that differ.

    They are searched for by path in upper or lower case, by path in a data folder that is the
    corpus's own, then by name in any folder near by. There an alternative must have the right
    checksum, since its name may be a common one (``train_data.json``).
    """
    for version in versions:
        parts = Path(version.path).parts
        for steps in (parts, parts[1:]):
            path = _in_any_case(folder, steps)
            if path is not None:
                return [(path, version)]
    found: dict[str, tuple[Path, CorpusFile]] = {}
    corpus = Path(versions[0].path).parts[0]
    for place in near_by(folder, corpus):
        for version in versions:
            path = _in_any_case(place, (Path(version.path).name,))
            if path is not None:
                held = checksum_holds(path, version.checksum)
                if held:
                    return [(path, version)]
                if version is versions[0]:
                    found.setdefault(checksum_of(path, "sha256"), (path, version))
    return list(found.values())


def _in_any_case(folder: Path, steps: tuple[str, ...]) -> Path | None:
    """The file at a path below a folder, in any case; None if there is none, or several."""
    places = [folder]
    for step in steps:
        places = [p for place in places for p in _entries(place) if p.name.lower() == step.lower()]
    files = [place for place in places if place.is_file()]
    return files[0] if len(files) == 1 else None


def near_by(folder: Path, corpus: str) -> Iterator[Path]:
    """Yield the folders that may hold the files of a corpus if these are not in their place.

    They are the data folder and those up to three levels below it, the folder above it, and the
    folders beside it whose names begin with the corpus's, with the folders in them.
    """
    yield folder
    level, left = [folder], MOST_ENTRIES
    for _ in range(LEVELS):
        level = [child for each in level for child in _entries(each) if child.is_dir()][:left]
        left -= len(level)
        yield from level
    above = folder.resolve().parent
    if above != folder.resolve():
        yield above
        beside = (p for p in _entries(above) if p.name.lower().startswith(corpus) and p.is_dir())
        for place in beside:
            if place != folder.resolve():
                yield from (place, *(child for child in _entries(place) if child.is_dir()))


LEVELS = 3
"""How many levels below a data folder are searched: ``MELD-master/data/MELD`` has three."""
MOST_ENTRIES = 2000
"""A folder with more entries is not searched, since it is not a data folder. Nor are more folders
than this."""


def _entries(folder: Path) -> list[Path]:
    """The sorted entries of a folder, without hidden ones; none if it is unreadable or too big."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    names = [] if len(names) > MOST_ENTRIES else names
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def download(url: str, target: Path, checksum: str) -> Path:
    """Fetch a file under a temporary name and move it into place once its checksum holds.

    Raises:
        ErcBenchError: there is no answer after a few attempts, or it is not the file expected.
    """
    import pooch
    import requests

    from erc_bench.progress import console, say

    part = temporary_name(target, ".part")
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
            f"{target} can't be written: {error.strerror or error}. Make room or set "
            "XDG_CACHE_HOME to a folder that can be written to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return target


def _reason(error: Exception) -> str:
    """The first cause of a failed request, without the errors that were raised from it."""
    while error.__context__ is not None:
        error = error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {error}"


class CorpusSource(ABC):
    """The source of a corpus: what it is, where its files come from, and how they are read.

    Each corpus is one subclass, registered by an entry point of the group
    ``erc_bench.datamodules``. It sets the attributes and writes :meth:`parse`.
    """

    name: str
    labels: LabelSet  # empty if there are no emotions, as in a corpus of speakers
    description: str  # what the dialogues are, in one line
    classes: str  # who named the classes
    licence: str
    homepage: str
    citation: str
    release: str  # which of the releases in use this is
    obtained: ClassVar[str] = ""  # how a user gets the files, if they are never downloaded
    files: ClassVar[Mapping[str, CorpusFile]] = {}  # split → file
    counts: ClassVar[Mapping[str, tuple[int, int]]] = {}  # split → dialogues, labelled utterances
    metric: Metric = Metric()  # the figure it is judged by, for every method
    official: ClassVar[Release | None] = None  # what tells the release from another copy
    confusable: ClassVar[tuple[tuple[str, str], ...]] = ()  # pairs of labels often confused
    related: ClassVar[tuple[str, ...]] = ()  # names of corpora that may hold the same utterances

    @property
    def loaded_by(self) -> str:
        """What loads it again: its name, or the file of a user's own corpus."""
        return self.name

    @abstractmethod
    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        """Read the files into the dialogues of each split; errors name file and line."""

    def load(self, data_dir: Path | None = None) -> Corpus:
        """Load the corpus from its files, downloaded if need be, and check its counts."""
        found = self._available(data_dir)
        changed = [status for status in found.values() if not status.intact]
        for status in changed:
            if status.cached:
                raise ErcBenchError(
                    f"{self.name}: the checksum of {status.path} fails, so the file was damaged "
                    f"after it was downloaded. Delete it and run `erc-bench data prepare "
                    f"{self.name}`."
                )
        try:
            splits = self.parse({key: status.path for key, status in found.items() if status.path})
            self.check(splits)
            corpus = Corpus.build(self.name, self.labels, splits, metric=self.metric)
            doubts = self.doubts(corpus, changed)
        except ErcBenchError as error:
            advice = "Replace the file with the official one"
            if self.files:
                advice += f" (`erc-bench data doctor` says where to get {self.name})"
            doubt = (
                f" The checksum of {_paths(changed)} is not the official one." if changed else ""
            )
            raise ErcBenchError(f"{error}{doubt} {advice}.") from error
        differs = (
            f"the corpus is not the official release: {'; '.join(doubts)}. It is used anyway. "
            "Records made with it have another digest"
        )
        if changed:
            same = "; what is read from it is the same as from the official one"
            caution(
                f"{self.name}: the checksum of {_paths(changed)} is not the official one"
                f"{f', and {differs}' if doubts else same}."
            )
        elif doubts:
            caution(f"{self.name}: {differs}.")
        return replace(corpus, official=not doubts)

    def doubts(self, corpus: Corpus, changed: Sequence[FileStatus]) -> list[str]:
        """Why this copy is not known to be the official release, one phrase each; empty if it is.

        Args:
            corpus: what the files hold.
            changed: the files whose checksum is not the official one.

        Raises:
            ErcBenchError: its labels are not the release's, or its ids would name other utterances.
        """
        if self.official is not None:
            return self.official.doubts(corpus)
        splits = corpus.contents.values()
        found = text_damage(u.text for split in splits for d in split for u in d.utterances)
        if changed:
            found.append("the counts are right, and nothing else is known of it")
        return found

    def prepare(self, data_dir: Path | None = None) -> dict[str, Path]:
        """Find every file or download it; return the paths, one per split."""
        found = self._available(data_dir)
        return {key: status.path for key, status in found.items() if status.path}

    def status(self, data_dir: Path | None = None) -> list[FileStatus]:
        """The status of every file; nothing is downloaded."""
        return list(self.locate(data_dir).values())

    def locate(self, data_dir: Path | None) -> dict[str, FileStatus]:
        """The status of every file, by the key under which :meth:`parse` expects it."""
        found = {split: find(file, data_dir) for split, file in self.files.items()}
        if not self.obtained:
            return found
        return {split: replace(status, source=self.obtained) for split, status in found.items()}

    def check(self, splits: Mapping[str, list[Dialogue]]) -> None:
        """Compare with the release's counts; the error says which figure is wrong."""
        for split, expected in self.counts.items():
            if split not in splits:
                raise ErcBenchError(f"{self.name}: there is no {split}, which the release has.")
            actual = count(splits[split])
            named = zip(("dialogues", "labelled utterances"), actual, expected, strict=True)
            for what, have, want in named:
                if have != want:
                    raise ErcBenchError(
                        f"{self.name}, {split}: {have} {what}, the release has {want}."
                    )

    def notes(self, corpus: Corpus, data_dir: Path | None = None) -> list[str]:
        """Facts that ``data stats`` counts for users of this corpus, one line each."""
        return []

    def _available(self, data_dir: Path | None) -> dict[str, FileStatus]:
        """:meth:`locate`, with missing files downloaded."""
        found = self.locate(data_dir)
        for key, status in found.items():
            if status.problem:
                raise ErcBenchError(f"{self.name}: {status.problem}.")
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


def _paths(statuses: Sequence[FileStatus]) -> str:
    return ", ".join(str(status.path) for status in statuses)


def caution(message: str) -> None:
    """Warn that a copy of a corpus is not as it should be, and say what was done about it."""
    warnings.warn(message, CorpusWarning, stacklevel=2)


def count(dialogues: Sequence[Dialogue]) -> tuple[int, int]:
    """The numbers of dialogues and of labelled utterances."""
    return len(dialogues), sum(len(dialogue.labelled) for dialogue in dialogues)
