"""The published rows: reading and checking ``published.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from erc_bench.corpus.conversation import FIGURES, Metric
from erc_bench.corpus.text_files import parse_yaml, read_text
from erc_bench.errors import ErcBenchError, did_you_mean
from erc_bench.settings.registry import corpus_metric

PAPER_KEYS = ("method", "implemented_as", "by", "paper", "results")
CHOICES = {
    "context": ("past", "full"),
    "modality": ("text", "multimodal"),
    "selection": ("dev", "test"),
}
KINDS = {
    "str": (str, "text"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "dict[str, float]": (dict, "a mapping"),
    "None": (type(None), "left out"),
}
"""Types of the fields below by their annotation, with their name in an error message."""


@dataclass(frozen=True)
class PublishedRow:
    """The results of one paper on one corpus, in percent; None if unknown."""

    key: str
    """Citation key."""
    method: str
    corpus: str
    weighted_f1: float | None = None
    micro_f1: float | None = None
    """Without the label that the corpus's metric leaves out, if there is one."""
    macro_f1: float | None = None
    implemented_as: str | None = None
    """The method of this suite that implements it."""
    by: str = ""
    paper: str = ""
    """arXiv or ACL Anthology id, ``arXiv:…`` or ``ACL:…``."""
    accuracy: float | None = None
    per_class: dict[str, float] = field(default_factory=dict)
    seeds: int | None = None
    encoder: str | None = None
    context: str | None = None
    modality: str | None = None
    selection: str | None = None
    release: bool | None = None
    """Whether it was measured on this release of the corpus; None if nobody has checked."""
    note: str = ""

    @property
    def metric(self) -> Metric:
        """The metric of its corpus; weighted-F1 for a user's own corpus."""
        return corpus_metric(self.corpus)

    @property
    def score(self) -> float:
        """The score in percent."""
        value = getattr(self, self.metric.name)
        assert value is not None  # checked when the file is read
        return float(value)

    @property
    def measured_on(self) -> str:
        """The release it was measured on: ``this one``, ``another`` or ``not checked``."""
        if self.release is None:
            return "not checked"
        return "this one" if self.release else "another"

    @property
    def link(self) -> str:
        """Address of the paper; empty if unknown."""
        source, _, number = self.paper.partition(":")
        site = {"arXiv": "https://arxiv.org/abs/", "ACL": "https://aclanthology.org/"}
        return site[source] + number if source in site else ""


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus on the leaderboard."""

    title: str
    benchmark: bool = True
    """False if results on it have no meaning, as on a made-up corpus."""


@dataclass(frozen=True)
class Published:
    """The content of ``published.yaml``: the corpora in order, and the rows by corpus."""

    corpora: dict[str, CorpusEntry]
    rows: dict[str, list[PublishedRow]]

    def title(self, method: str) -> str:
        """Return the name of a method in its paper; without one, its name in this suite."""
        return next((r.method for r in self.all() if r.implemented_as == method), method)

    def corpus_title(self, dataset: str) -> str:
        """Return the title of a corpus on the leaderboard; without one, its name."""
        entry = self.corpora.get(dataset)
        return entry.title if entry else dataset

    def all(self) -> list[PublishedRow]:
        """Return all rows, corpus by corpus."""
        return [row for rows in self.rows.values() for row in rows]


def read_published(root: Path) -> Published:
    """Read ``<root>/published.yaml``, or the one that comes with erc-bench.

    Raises:
        ErcBenchError: the file is not YAML, or has an unknown key or a wrong value.
    """
    path = root / "published.yaml"
    if not path.is_file():
        path = Path(str(resources.files("erc_bench.published"))) / "published.yaml"
    sheet, _ = parse_yaml(read_text(path), str(path))
    if not all(isinstance(v, dict) for v in sheet.values()):
        raise ErcBenchError(f"{path} must be a mapping with the keys corpora and papers.")
    _known(sheet, ("corpora", "papers"), str(path))
    corpora = {}
    for name, entry in sheet.get("corpora", {}).items():
        _known(entry, ("title", "benchmark"), f"{path}, corpora.{name}")
        _fitting(entry, CorpusEntry, f"{path}, corpora.{name}")
        corpora[name] = CorpusEntry(entry.get("title", name), entry.get("benchmark", True))
    rows: dict[str, list[PublishedRow]] = {}
    for key, paper in sheet.get("papers", {}).items():
        for row in _rows(key, paper, f"{path}, papers.{key}"):
            rows.setdefault(row.corpus, []).append(row)
    for same in rows.values():
        same.sort(key=lambda row: (-row.score, row.method, row.key))
    return Published(corpora, rows)


def _rows(key: str, paper: Any, where: str) -> list[PublishedRow]:
    of_row = [f.name for f in fields(PublishedRow) if f.name not in ("key", "corpus", *PAPER_KEYS)]
    shared = [name for name in of_row if name not in (*FIGURES, "per_class")]
    _known(paper, (*PAPER_KEYS, *shared), where)
    if "method" not in paper or not isinstance(paper.get("results"), dict):
        raise ErcBenchError(f"{where} needs a method and results by corpus.")
    common = {k: v for k, v in paper.items() if k != "results"}
    rows = []
    for corpus, result in paper["results"].items():
        place = f"{where}.results.{corpus}"
        _known(result, of_row, place)
        values = {**common, **result}
        _fitting({"key": key, "corpus": corpus, **values}, PublishedRow, place)
        judged_by = corpus_metric(corpus).name
        scores = {judged_by: values.get(judged_by), **values.get("per_class", {})}
        scores |= {n: values[n] for n in FIGURES if values.get(n) is not None}
        for name, score in scores.items():
            if not _is_a(score, float) or not 0 <= score <= 100:
                raise ErcBenchError(f"{place}: {name} must be a percentage, not {score!r}.")
        for name, choices in CHOICES.items():
            if values.get(name) not in (None, *choices):
                raise ErcBenchError(
                    f"{place}: {name} must be {' or '.join(choices)}, not {values[name]!r}."
                )
        seeds = values.get("seeds")
        if seeds is not None and seeds < 1:
            raise ErcBenchError(f"{place}: seeds must be a whole number, not {seeds!r}.")
        rows.append(PublishedRow(key=key, corpus=corpus, **values))
    return rows


def _known(mapping: Any, keys: tuple[str, ...] | list[str], where: str) -> None:
    if not isinstance(mapping, Mapping):
        raise ErcBenchError(f"{where} must be a mapping, not {mapping!r}.")
    for key in mapping:
        if key not in keys:
            raise ErcBenchError(f"{where}: unknown key {key!r}." + did_you_mean(str(key), keys))


def _fitting(values: Mapping[str, Any], kind: type, where: str) -> None:
    """Check values by the annotations of a dataclass's fields."""
    for each in fields(kind):
        kinds = [KINDS[name] for name in str(each.type).split(" | ")]
        if each.name in values and not any(_is_a(values[each.name], k) for k, _ in kinds):
            wanted = " or ".join(words for _, words in kinds)
            raise ErcBenchError(
                f"{where}: {each.name} must be {wanted}, not {values[each.name]!r}."
            )


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value of YAML has a type. An int is a float, too; a bool is not."""
    return type(value) is kind or (kind is float and type(value) is int)
