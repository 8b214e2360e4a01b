"""The form of a record: what a finished run says of itself, typed and checked when it is read.

A record is one JSON object. :func:`parse_record` turns the bytes of a file into a :class:`Record`,
or raises a :class:`RecordError` that names file and field: whoever holds a :class:`Record` that was
read may rely on its types and on what :func:`faults` checks. :func:`to_json` gives the JSON object
back. Names that this version does not know, such as a method's own metrics, are kept in ``extra``,
so that a record that is read and written again loses nothing.

N is the number of labelled utterances of a split, in corpus order; C the number of labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER

SCHEMA = 3
"""Version of the form; it grows when a reader must tell forms apart.

1. No dialogue numbers and no facts of the utterances beside the predictions.
2. With them.
3. A prediction may be :data:`NO_ANSWER`, with null in the place of its row of probabilities.
"""

REQUIRED = (
    "schema",
    "method",
    "dataset",
    "config_hash",
    "seed",
    "labels",
    "metrics",
    "predictions",
)

REMEDY = (
    "If it is a run's, repeat that with --force, which replaces it; predictions made elsewhere are "
    "scored again with --force."
)

_MOST = 2**53  # up to here a float holds every whole number

USUAL_METRIC = str(Metric())

Number = (
    Annotated[int, Meta(ge=-_MOST, le=_MOST)] | Annotated[float, Meta(ge=-float(_MOST), le=_MOST)]
)
"""A finite number; a whole one stays whole."""

Count = Annotated[int, Meta(ge=0, le=_MOST)]

Label = Annotated[int, Meta(ge=0, le=2**31)]
"""A class, its place in ``labels``."""

LabelOrNone = Annotated[int, Meta(ge=-1, le=2**31)]
"""A class, or −1 where there is none."""


class RecordError(ErcBenchError):
    """A file in the place of a record that is none, or a damaged one."""


class Part(Struct, frozen=True, kw_only=True, eq=False):
    """A JSON object in a record. Two are equal if they are the same JSON."""

    # No key of a file has these names in practice; if one has, it is an unknown key like any other.
    extra: dict[str, Any] = field(name="(extra)", default_factory=dict)
    """What stands beside the fields under names that the schema does not know."""
    keys: tuple[str, ...] | None = field(name="(keys)", default=None)
    """The names in the file it was read from, in their order; None for one that was made here."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and to_json(self) == to_json(other)


P = TypeVar("P", bound=Part)


class Splits(Part, Generic[P], frozen=True, kw_only=True):
    """Something of dev and of test. A record stands on test; predictions made elsewhere may lack
    dev."""

    dev: P | None = None
    test: P

    @classmethod
    def of(cls, parts: Mapping[str, P]) -> Splits[P]:
        """Of parts by the names of their splits."""
        return cls(dev=parts.get("dev"), test=parts["test"])

    def items(self) -> Iterator[tuple[str, P]]:
        """The splits that there are, by name."""
        if self.dev is not None:
            yield "dev", self.dev
        yield "test", self.test


class OnDev(Part, Generic[P], frozen=True, kw_only=True):
    """Something of dev alone."""

    dev: P

    def items(self) -> Iterator[tuple[str, P]]:
        """The one split that there is."""
        yield "dev", self.dev


class ClassMetrics(Part, frozen=True, kw_only=True):
    """The scores of one class, in percent but for the support."""

    precision: Number
    recall: Number
    f1: Number
    support: Count
    """Utterances whose gold label it is."""


class Metrics(Part, frozen=True, kw_only=True):
    """The scores on one split, in percent where they are shares.

    ``extra`` holds what a method reports of its own, ``speaker_accuracy`` for example.
    """

    weighted_f1: Number
    accuracy: Number
    macro_f1: Number
    micro_f1: Number | None = None
    """Over the labels without the one that the corpus's metric leaves out; None where it leaves
    out none."""
    per_class: dict[str, ClassMetrics]
    """By the name of the label."""
    confusion: list[list[Count]]
    """(C, C), rows gold, columns predicted."""
    utterances: Count
    """N, those without an answer among them."""
    calibration_error: Number | None = None
    """Expected calibration error over 15 bins; None without probabilities."""
    no_answer: Number | None = None
    """Share of utterances without an answer, in percent; None where it was not counted."""

    def score(self, metric: Metric) -> float:
        """The figure of a corpus."""
        return float(getattr(self, metric.name))


class Facts(Part, frozen=True, kw_only=True):
    """What slicing needs to know of the utterances, each ``(N,)``; see
    :class:`erc_bench.evaluation.slices.UtteranceFacts`."""

    position: list[Count]
    words: list[Count]
    speaker_train: list[Count]
    previous_label: list[LabelOrNone]
    seen_in_train: list[Annotated[int, Meta(ge=0, le=1)]]

    def columns(self) -> dict[str, list[int]]:
        """The facts by name."""
        return {
            "position": self.position,
            "words": self.words,
            "speaker_train": self.speaker_train,
            "previous_label": self.previous_label,
            "seen_in_train": self.seen_in_train,
        }


class GoldLabels(Part, frozen=True, kw_only=True):
    """The labelled utterances of a split: what all runs on it have in common."""

    ids: list[str]
    """(N,) ids of the utterances."""
    gold: list[Label]
    """(N,) classes."""
    dialogue: list[Count] | None = None
    """(N,) the number of each utterance's dialogue; None in records of schema 1."""
    facts: Facts | None = None
    """None in records of schema 1."""


class Predictions(GoldLabels, frozen=True, kw_only=True):
    """What was predicted of each labelled utterance of a split."""

    predicted: list[LabelOrNone]
    """(N,) classes, or :data:`NO_ANSWER`."""
    probabilities: list[list[Number] | None] | None = None
    """(N, C) with four decimals, null where there is no answer; None where a method gives none."""


class Environment(Part, frozen=True, kw_only=True):
    """Where a training ran. What was not the same all the time, in a run that was resumed, is the
    text ``a → b``."""

    device: str | None = None
    devices: int | str | None = None
    """How many of them trained together; None in records from before it was counted."""
    threads: int | str | None = None
    runs_at_once: int | str | None = None
    """Runs of one command at a time; None in records from before it was counted."""
    precision: str | None = None
    bfloat16_speedup: Number | str | None = None
    """How many times as fast as float32 the processor was measured to be in bfloat16; None where
    that did not decide the precision, and in records from before it was kept."""
    git_commit: str | None = None
    """With ``-dirty`` where the code was changed; None outside git."""
    python: str | None = None
    versions: dict[str, str | None] = {}
    """Of the packages that a result depends on, by their names."""


class FineTuning(Environment, frozen=True, kw_only=True):
    """Where the encoder of a method's utterance vectors was fine-tuned, and for how long."""

    seconds: Number | None = None


class Prompting(Part, frozen=True, kw_only=True):
    """How a language model was prompted, and what it took (protocol, point 13)."""

    backend: str
    """``local``, or the address of a server."""
    revision: str = ""
    """Of a server's model, as far as it is known."""
    served: dict[str, Count] = {}
    """How many answers came from what the server calls its model."""
    prompts: list[dict[str, str]]
    """``name`` and ``sha256`` of each; the first one's answers are the record's predictions."""
    names: str = "real"
    """Whether the speakers' names were ``masked``."""
    decoding: dict[str, Any] = {}
    examples: list[str] = []
    """Ids of the utterances that were shown with their labels, if all turns were shown the same."""
    nearest: dict[str, Any] = {}
    """Otherwise how many were ``shown`` to each turn, and ``name`` and ``digest`` of the encoder by
    whose vectors the nearest were found."""
    examples_from: str = "train"
    window: Count | None = None
    """Past turns at most."""
    paraphrases: dict[str, list[dict[str, Any]]] = {}
    """By split what each prompt scores, in percent."""
    spread: dict[str, dict[str, Number]] = {}
    """By split mean, standard deviation (n−1) and range of the prompts' weighted-F1."""
    masked: dict[str, dict[str, Number]] | None = None
    """By split what the first prompt scores when names are masked; None where it was not asked."""
    per_1000: dict[str, Number] = {}
    """Tokens and seconds of 1,000 utterances with the first prompt."""
    answers: Count = 0
    """Of all prompts; of their tokens and cost it is the sum that follows."""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cost: Number | None = None
    """In the currency of the prices that were given."""


class Encoder(Part, frozen=True, kw_only=True):
    """What turns text into vectors. ``extra`` may hold more by which a method tells two apart."""

    name: str = ""
    digest: str = ""
    """SHA-256 of its weights."""
    vectors: str | None = None
    """SHA-256 of the utterance vectors that were read instead of text."""
    fine_tuning: FineTuning | None = None
    prompting: Prompting | None = None
    """None where the model is not a prompted one."""


class Training(Part, frozen=True, kw_only=True):
    """What a training took. ``epochs`` and what follows from them are None where nothing was
    trained."""

    epochs: Count | None = None
    best_epoch: Count | None = None
    """The selected one, counted from 1."""
    fit_seconds: Number | None = None
    utterances_per_second: Number | None = None
    curves: list[dict[str, Number | None]] = []
    """Of each epoch its number, from 1, and the figures that were logged; None = not finite."""
    parameters: Count | None = None
    peak_memory_mib: Number | None = None
    """Allocated on the GPU, else resident in the process."""
    wall_seconds: Number | None = None
    """Of the whole run, loading and scoring included."""


class ModelFile(Part, frozen=True, kw_only=True):
    """The weights that belong to a record."""

    file: str
    """Its name in the run's folder."""
    sha256: str


class Plugin(Part, frozen=True, kw_only=True):
    """The package that brought the method."""

    distribution: str
    version: str


class Search(Part, frozen=True, kw_only=True):
    """The search that chose the settings of a tuned run; every trial was scored on dev alone."""

    trials: Count
    """How many it had, those that failed among them."""
    sampler: str
    sampler_seed: Count
    space: dict[str, dict[str, list[Any]]]
    """What the trials drew from, by the settings' dotted names: ``log``, ``uniform`` or
    ``choice``."""
    chosen: Count
    """The number of the trial whose settings these are; 0 is the preset."""
    digest: str
    """SHA-256 over the trials and their scores on dev."""


class Described(Part, frozen=True, kw_only=True):
    """What a run says of itself beside its figures."""

    schema: int = SCHEMA
    external: bool = False
    """Whether the predictions were made elsewhere."""
    method: str
    dataset: str
    dataset_digest: str = ""
    """SHA-256 over the corpus; empty where it is not known."""
    dataset_official: bool | None = None
    """Whether that was the official release; None where it is not known."""
    further_corpora: dict[str, str] | None = None
    """Digests of the corpora that a method read beside it, by their names."""
    labels: list[str]
    """The C classes, in the order of their numbers."""
    metric: str = USUAL_METRIC
    """What the corpus is judged by, as :class:`erc_bench.corpus.conversation.Metric` writes it."""
    preset: str = ""
    overrides: list[str] = []
    """``key=value``, as they were given."""
    variant: str | None = None
    """The part that the method is without; None for all of it."""
    tuned: Search | None = None
    """None where nobody searched for the settings."""
    seed: int
    config: dict[str, Any] = {}
    """Every setting."""
    config_hash: str
    context: str = "unknown"
    """``past`` or ``full``, as far as it is known."""
    selection: str = "unknown"
    """What the weights were selected by, as far as it is known: ``dev weighted_f1``."""
    trains: bool = True
    """False: a method that has nothing to train, such as a prompted model."""
    encoder: Encoder | None = None
    plugin: Plugin | None = None
    model: ModelFile | None = None
    training: Training | None = None
    environment: Environment | None = None
    attempt: str | None = None
    """Tells the attempts at one run apart."""
    created: str = ""
    """Date and time in UTC, ISO 8601."""

    @property
    def judged_by(self) -> Metric:
        """What the corpus is judged by."""
        return Metric.of(self.metric, self.labels)


class Record(Described, frozen=True, kw_only=True):
    """What a finished run leaves, or what is known of predictions made elsewhere."""

    metrics: Splits[Metrics]
    oracle_gap: Number | None = None
    """Best figure on test over the epochs minus that of the selected one, where it was asked
    for."""
    predictions: Splits[Predictions]


class Summary(Described, frozen=True, kw_only=True):
    """A record without its predictions, which are nine tenths of its file. It is not written."""

    metrics: Splits[Metrics]


class Untested(Described, frozen=True, kw_only=True):
    """What a run leaves that was asked not to score test: a record, but for test."""

    test: str = "not scored"
    metrics: OnDev[Metrics]
    predictions: OnDev[Predictions]


class Unscored(Part, frozen=True, kw_only=True):
    """What a record's metrics are computed from."""

    labels: list[str]
    metric: str = USUAL_METRIC
    predictions: Splits[Predictions]


# --- from JSON and back

K = TypeVar("K", bound=Part)
R = TypeVar("R", Record, Unscored, Untested)
F = TypeVar("F", Record, Unscored, Untested, Summary)


def parse_record(contents: bytes, path: Path) -> Record:
    """A record from the contents of its file.

    Args:
        contents: the bytes.
        path: what errors call it.

    Raises:
        RecordError: it is not JSON, not a record, of a newer schema, or something in it does not
            fit; the field is named.
    """
    return _parse(contents, Record, path)


def parse_unscored(contents: bytes, path: Path) -> Unscored:
    """A record whose metrics may be wrong in any way; else as :func:`parse_record`."""
    return _parse(contents, Unscored, path)


def parse_untested(contents: bytes, path: Path) -> Untested:
    """What a run left that has not scored test; else as :func:`parse_record`."""
    return _parse(contents, Untested, path)


def parse_summary(contents: bytes, path: Path) -> Summary:
    """A record whose predictions are not looked at; else as :func:`parse_record`."""
    _top(contents, path)
    return _without_faults(_decoded(contents, Summary, path), path)


def _parse(contents: bytes, kind: type[R], path: Path) -> R:
    own = _top(contents, path)
    record = _decoded(contents, kind, path)
    _remember(record, own, path)
    return _without_faults(record, path)


def _without_faults(record: F, path: Path) -> F:
    for fault in faults(record):
        raise damaged(path, fault)
    return record


def _top(contents: bytes, path: Path) -> dict[str, msgspec.Raw]:
    """The values of a record by their names, unread; its schema is one that is known here."""
    kind = dict[str, msgspec.Raw] if contents.lstrip()[:1] == b"{" else Any
    top = _decoded(contents, kind, path)
    missing = [key for key in REQUIRED if not isinstance(top, dict) or key not in top]
    if missing:
        raise RecordError(f"{path} is not a record: it lacks {', '.join(missing)}.")
    schema = _decoded(top["schema"], Any, path)
    if type(schema) is not int or schema < 1:
        raise RecordError(f"{path} is not a record: its schema is {schema!r}.")
    if schema > SCHEMA:
        raise RecordError(
            f"{path} has schema {schema}; this version reads up to {SCHEMA}. Upgrade erc-bench."
        )
    return top


def _decoded(contents: bytes | msgspec.Raw, kind: Any, path: Path, place: str = "$") -> Any:
    """JSON at a place of a file as a type. Nothing of ours runs in here, so that every error is
    the file's."""
    try:
        return _decoder(kind).decode(contents)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        where = place + where.strip("`").removeprefix("$")
        if what.startswith("Object missing required field"):
            where, what = f"{where}.{what.split('`')[1]}", "it is not there"
        raise damaged(path, f"{where}: {what}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a readable record: {_unreadable(bytes(contents), error)}"
        ) from error


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _unreadable(contents: bytes, error: Exception) -> str:
    if contents[:2] in (b"\xff\xfe", b"\xfe\xff") or contents[1:2] == b"\0":
        return "it is UTF-16 text, and a record is UTF-8. Save it as that."
    if contents[:3] == b"\xef\xbb\xbf":
        return "it begins with a byte-order mark. Save it as UTF-8 without one."
    return f"{error if contents.strip() else 'it is empty'}. {REMEDY}"


def damaged(path: Path, fault: str) -> RecordError:
    """The error for a record with a fault: the field, and what is wrong with it."""
    return RecordError(f"{path} is a damaged record: {fault}. {REMEDY}")


def _remember(part: Part, own: Mapping[str, msgspec.Raw], path: Path, place: str = "$") -> None:
    """Note in a part and all that it holds what its JSON has beside their fields."""
    fields = _fields(type(part))
    extra = {
        name: _decoded(raw, Any, path, f"{place}.{name}")
        for name, raw in own.items()
        if name not in fields
    }
    msgspec.structs.force_setattr(part, "extra", extra)
    msgspec.structs.force_setattr(part, "keys", tuple(own))
    for name in own.keys() & fields.keys():
        value, where = getattr(part, name), f"{place}.{name}"
        if isinstance(value, Part):
            _remember(value, _raw(own[name], path), path, where)
        elif name == "per_class":
            of_class = _raw(own[name], path)
            for label, each in value.items():
                _remember(each, _raw(of_class[label], path), path, f"{where}.{label}")


def _raw(contents: bytes | msgspec.Raw, path: Path) -> dict[str, msgspec.Raw]:
    """The values of a JSON object by their names, unread."""
    return _decoded(contents, dict[str, msgspec.Raw], path)


def typed(values: Mapping[str, Any], kind: type[K]) -> K:
    """A part of a record from plain data; names that it does not know are in its ``extra``.

    Raises:
        ValueError: the data do not fit, or hold NaN.
    """
    contents = json.dumps(values, allow_nan=False).encode()
    part = msgspec.json.decode(contents, type=kind)
    name = Path(kind.__name__)
    _remember(part, _raw(contents, name), name)
    return part


def to_json(part: Part) -> dict[str, Any]:
    """The JSON object of a record or of a part of it.

    Of one that was read, all that it had, in its order, and what was added since; of one that was
    made, all fields but those that are None.
    """
    fields = _fields(type(part))
    names = part.keys
    if names is None:
        names = tuple(name for name in fields if getattr(part, name) is not None)
    else:
        names += tuple(n for n, default in fields.items() if getattr(part, n) != default)
    own = {name: _plain(getattr(part, name)) for name in names if name in fields}
    found = own | part.extra
    return {name: found[name] for name in (*names, *part.extra) if name in found}


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return to_json(value)
    if isinstance(value, dict) and any(isinstance(each, Part) for each in value.values()):
        return {name: to_json(each) for name, each in value.items()}
    return value


@cache
def _fields(kind: type[Part]) -> dict[str, Any]:
    """The names of the fields that a file can hold, and what they are where it does not."""
    bookkeeping = {each.name for each in msgspec.structs.fields(Part)}
    return {
        each.name: each.default
        if each.default_factory is msgspec.NODEFAULT
        else each.default_factory()
        for each in msgspec.structs.fields(kind)
        if each.name not in bookkeeping
    }


# --- what types alone do not tell


def faults(record: Record | Unscored | Untested | Summary) -> Iterator[str]:
    """What does not fit together in a record: the field, and what is wrong with it."""
    labels = record.labels
    yield from label_faults(labels)
    yield from metric_faults(record.metric, labels)
    predicted = [] if isinstance(record, Summary) else [*record.predictions.items()]
    for split, predictions in predicted:
        where = f"$.predictions.{split}"
        yield from gold_faults(predictions, len(labels), where)
        yield from prediction_faults(
            predictions.predicted, len(predictions.gold), len(labels), where
        )
        if predictions.probabilities is not None:
            yield from _probability_faults(predictions, len(labels), where)
    if not isinstance(record, Unscored):
        yield from _metric_faults(record, [split for split, _ in predicted])


def label_faults(labels: Sequence[str]) -> Iterator[str]:
    """What is wrong with a label set."""
    if len(labels) < 2 or len(set(labels)) < len(labels):
        yield f"$.labels: {', '.join(map(repr, labels)) or 'none'} are not two or more different"


def metric_faults(metric: str, labels: Sequence[str]) -> Iterator[str]:
    """What is wrong with what a corpus is judged by."""
    try:
        Metric.of(metric, labels)
    except ErcBenchError as error:
        yield f"$.metric: {str(error).removesuffix('.')}"


def gold_faults(gold: GoldLabels, classes: int, where: str) -> Iterator[str]:
    """What does not fit together in what all runs on a split have in common."""
    n = len(gold.gold)
    if not n:
        yield f"{where}.gold: it holds no utterance"
    yield from _length_fault(gold.ids, n, f"{where}.ids")
    if len(set(gold.ids)) < len(gold.ids):
        yield f"{where}.ids: {len(gold.ids) - len(set(gold.ids))} of {n} stand there again"
    yield from _class_faults(gold.gold, classes, f"{where}.gold")
    if gold.dialogue is not None:
        yield from _length_fault(gold.dialogue, n, f"{where}.dialogue")
    if gold.facts is not None:
        for name, column in gold.facts.columns().items():
            yield from _length_fault(column, n, f"{where}.facts.{name}")
        yield from _class_faults(
            gold.facts.previous_label, classes, f"{where}.facts.previous_label"
        )


def prediction_faults(
    predicted: Sequence[int], utterances: int, classes: int, where: str
) -> Iterator[str]:
    """What does not fit in predicted classes ``(N,)``."""
    yield from _length_fault(predicted, utterances, f"{where}.predicted")
    yield from _class_faults(predicted, classes, f"{where}.predicted")


def _probability_faults(predictions: Predictions, classes: int, where: str) -> Iterator[str]:
    rows = predictions.probabilities
    assert rows is not None
    yield from _length_fault(rows, len(predictions.gold), f"{where}.probabilities")
    for i, (row, label) in enumerate(zip(rows, predictions.predicted, strict=False)):
        if (row is None) != (label == NO_ANSWER):
            yield (
                f"{where}.probabilities[{i}]: "
                + ("null, but there is an answer" if row is None else "there is no answer to it")
            )
        elif row is not None and len(row) != classes:
            yield f"{where}.probabilities[{i}]: {len(row)} numbers for {classes} labels"


def _metric_faults(record: Record | Untested | Summary, predicted: Sequence[str]) -> Iterator[str]:
    classes = len(record.labels)
    for split in predicted:
        if split not in dict(record.metrics.items()):
            yield f"$.metrics.{split}: not there, though {split} was predicted"
    for split, metrics in record.metrics.items():
        where = f"$.metrics.{split}"
        missing = [name for name in record.labels if name not in metrics.per_class]
        if missing:
            yield f"{where}.per_class: it lacks {', '.join(map(repr, missing))}"
        if getattr(metrics, record.judged_by.name) is None:
            yield f"{where}.{record.judged_by.name}: not there, though the corpus is judged by it"
        if {len(metrics.confusion), *map(len, metrics.confusion)} != {classes}:
            yield f"{where}.confusion: not {classes} rows of {classes} counts"


def _length_fault(column: Sequence[Any], n: int, where: str) -> Iterator[str]:
    if len(column) != n:
        yield f"{where}: {len(column)} values for {n} gold labels"


def _class_faults(column: Sequence[int], classes: int, where: str) -> Iterator[str]:
    highest = max(column, default=0)
    if highest >= classes:
        yield (
            f"{where}[{column.index(highest)}]: {highest} is something else than classes "
            f"0…{classes - 1}"
        )
