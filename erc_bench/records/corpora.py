"""Remember where a user's own corpora lie, in the folder of the records.

``<root>/runs/<corpus>/corpus.txt`` holds the path of the corpus's ``corpus.yaml``. Like the run
folders, it stays on this machine. A user who has given a corpus by its folder once can give it by
its name from then on.
"""

from __future__ import annotations

from pathlib import Path

from erc_bench.corpus.conversation import Corpus
from erc_bench.corpus.own import SHEET
from erc_bench.corpus.source import CorpusSource
from erc_bench.errors import ErcBenchError
from erc_bench.files import write_atomically
from erc_bench.records.parsing import damaged
from erc_bench.records.schema import Record
from erc_bench.settings.registry import corpus_names, corpus_source, is_own_corpus


def _kept(root: Path, name: str) -> Path:
    return root / "runs" / name / "corpus.txt"


def remember(root: Path, source: CorpusSource) -> None:
    """Store the path of a user's own corpus; do nothing for a registered corpus."""
    kept = _kept(root, source.name)
    text = f"{source.loaded_by}\n"
    if source.loaded_by != source.name and not (
        kept.is_file() and kept.read_text(encoding="utf-8") == text
    ):
        write_atomically(kept, text)


def means_remembered(name: str, root: Path) -> bool:
    """Whether a name means a corpus that ``root`` remembers.

    It does not if it is a folder that holds a ``corpus.yaml``. ``./NAME`` always means a folder.
    """
    remembered = Path(name).name == name and _kept(root, name).is_file()
    return remembered and not (Path(name) / SHEET).is_file()


def names_folder(name: str, root: Path) -> bool:
    """Whether a name means a folder or file of a user's own corpus."""
    return is_own_corpus(name) and not means_remembered(name, root)


def find_corpus(name: str, root: Path) -> CorpusSource:
    """Return the source of a corpus: registered, given by its folder, or remembered in ``root``.

    Raises:
        ErcBenchError: there is no such corpus.
    """
    kept = _kept(root, name)
    if name in corpus_names() or names_folder(name, root) or not kept.is_file():
        others = [path.parent.name for path in root.glob("runs/*/corpus.txt")]
        return corpus_source(name, others)
    path = Path(kept.read_text(encoding="utf-8").strip())
    if not path.is_file():
        raise ErcBenchError(
            f"The corpus {name!r} was at {path}, which is not there any more. Name its folder "
            "with --dataset."
        )
    source = corpus_source(str(path))
    if source.name != name:
        raise ErcBenchError(
            f"{path} was the corpus {name!r} and now calls itself {source.name!r}. Name the folder "
            "of the right one with --dataset."
        )
    return source


def load_corpus_of(
    record: Record, path: Path, source: CorpusSource, data_dir: Path | None
) -> Corpus:
    """Load the corpus that a run was made on, and check that it is the same copy.

    Args:
        record: the run's record.
        path: the record's file.
        source: the record's corpus.
        data_dir: folder that is searched for the corpus before the usual places.

    Raises:
        ErcBenchError: the record does not say which copy it was made on, or the copy here is a
            different one.
    """
    digest = record.dataset_digest
    if not digest:
        raise damaged(path, "$.dataset_digest: it does not say which copy of the corpus it is of")
    if source.name != record.dataset:
        raise ErcBenchError(
            f"--dataset names {source.name}, but {path} is a run on {record.dataset}. Name the "
            "folder of that corpus."
        )
    corpus = source.load(data_dir)
    if corpus.digest != digest:
        raise ErcBenchError(
            f"The copy of {corpus.name} here is not the one of {path}: its digest is "
            f"{corpus.digest[:12]}…, but the record's is {digest[:12]}…, so an id may name another "
            "utterance. Name the other copy's folder with "
            f"{'--data-dir' if source.loaded_by == source.name else '--dataset'}."
        )
    return corpus
