"""The schema of a record: the types of everything in it.

A record is one JSON object. :mod:`erc_bench.records.parsing` turns the bytes of a file into a
:class:`Record` after the checks of :mod:`erc_bench.records.faults`, and :func:`to_json` returns the
JSON object. Names that this version does not know, such as a method's own metrics, are kept in
``extra``, so that a record that is read and written again loses nothing.

N is the number of labelled utterances of a split, in corpus order; C is the number of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from erc_bench.corpus.conversation import Metric

SCHEMA = 3
"""Version of the schema; it increases when a reader must tell two versions apart.

1. There are no dialogue numbers and no facts of the utterances beside the predictions.
2. There are both.
3. A prediction may be :data:`erc_bench.evaluation.NO_ANSWER`, with null in place of its row of
   probabilities.
"""

_MOST = 2**53  # up to here a float holds every whole number

USUAL_METRIC = str(Metric())

Number = (
    Annotated[int, Meta(ge=-_MOST, le=_MOST)] | Annotated[float, Meta(ge=-float(_MOST), le=_MOST)]
)
"""A finite number; a whole one stays whole."""

Count = Annotated[int, Meta(ge=0, le=_MOST)]

Label = Annotated[int, Meta(ge=0, le=2**31)]
"""A class, as its index in ``labels``."""

LabelOrNone = Annotated[int, Meta(ge=-1, le=2**31)]
"""A class, or −1 if there is none."""


class Part(Struct, frozen=True, kw_only=True, eq=False):
    """A JSON object in a record. Two are equal if they are the same JSON."""

    # No file has these keys in practice; if one has, they count as unknown keys like any other.
    extra: dict[str, Any] = field(name="(extra)", default_factory=dict)
    """Values under names that the schema does not know."""
    keys: tuple[str, ...] | None = field(name="(keys)", default=None)
    """The names in the file, in its order; None if the part was not read from a file."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and to_json(self) == to_json(other)


P = TypeVar("P", bound=Part)


class Splits(Part, Generic[P], frozen=True, kw_only=True):
    """A part for dev and one for test. Test is always there; predictions made elsewhere may lack
    dev."""

    dev: P | None = None
    test: P

    @classmethod
    def of(cls, parts: Mapping[str, P]) -> Splits[P]:
        """Make it from parts by the names of their splits."""
        return cls(dev=parts.get("dev"), test=parts["test"])

    def items(self) -> Iterator[tuple[str, P]]:
        """The parts with the names of their splits; dev is left out if it is absent."""
        if self.dev is not None:
            yield "dev", self.dev
        yield "test", self.test


class OnDev(Part, Generic[P], frozen=True, kw_only=True):
    """A part for dev only."""

    dev: P

    def items(self) -> Iterator[tuple[str, P]]:
        """The one part, with the name of its split."""
        yield "dev", self.dev


class ClassMetrics(Part, frozen=True, kw_only=True):
    """The scores of one class in percent, and its support."""

    precision: Number
    recall: Number
    f1: Number
    support: Count
    """The number of utterances with this gold label."""


class Metrics(Part, frozen=True, kw_only=True):
    """The scores on one split; shares are in percent.

    ``extra`` holds a method's own figures, for example ``speaker_accuracy``.
    """

    weighted_f1: Number
    accuracy: Number
    macro_f1: Number
    micro_f1: Number | None = None
    """Over all labels except the one that the corpus's metric leaves out; None if it leaves out
    none."""
    per_class: dict[str, ClassMetrics]
    """By label."""
    confusion: list[list[Count]]
    """(C, C), rows gold, columns predicted."""
    utterances: Count
    """N, including those without an answer."""
    calibration_error: Number | None = None
    """Expected calibration error over 15 bins; None without probabilities."""
    no_answer: Number | None = None
    """Share of utterances without an answer, in percent; None if all have one."""

    def score(self, metric: Metric) -> float:
        """The score by a corpus's metric."""
        return float(getattr(self, metric.name))


class Facts(Part, frozen=True, kw_only=True):
    """The facts of the utterances that slicing needs, each ``(N,)``; see
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
    """The labelled utterances of a split, which are the same for all runs on it."""

    ids: list[str]
    """(N,) ids of the utterances."""
    gold: list[Label]
    """(N,) classes."""
    dialogue: list[Count] | None = None
    """(N,) the number of each utterance's dialogue; None in records of schema 1."""
    facts: Facts | None = None
    """None in records of schema 1."""


class Predictions(GoldLabels, frozen=True, kw_only=True):
    """The predictions for the labelled utterances of a split."""

    predicted: list[LabelOrNone]
    """(N,) classes, or :data:`erc_bench.evaluation.NO_ANSWER`."""
    probabilities: list[list[Number] | None] | None = None
    """(N, C) with four decimals; a row without an answer is null. None if the method gives none."""


class Environment(Part, frozen=True, kw_only=True):
    """Where a training ran. A value that changed when the run was resumed is the text ``a → b``."""

    device: str | None = None
    devices: int | str | None = None
    """Number of devices that trained together; None in records older than this field."""
    threads: int | str | None = None
    runs_at_once: int | str | None = None
    """Number of runs of one command at the same time; None in records older than this field."""
    precision: str | None = None
    bfloat16_speedup: Number | str | None = None
    """Measured speed of the processor in bfloat16 relative to float32; None if it did not decide
    the precision, and in records older than this field."""
    git_commit: str | None = None
    """With ``-dirty`` if the code was changed; None outside git."""
    python: str | None = None
    versions: dict[str, str | None] = {}
    """Versions, by name, of the packages that a result depends on."""


class FineTuning(Environment, frozen=True, kw_only=True):
    """Where the encoder of a method's utterance vectors was fine-tuned, and for how long."""

    seconds: Number | None = None


class Prompting(Part, frozen=True, kw_only=True):
    """How a language model was prompted, and at what cost, as docs/protocol.md asks for."""

    backend: str
    """``local``, or the address of a server."""
    revision: str = ""
    """The revision of a server's model; empty if it is not known."""
    served: dict[str, Count] = {}
    """Number of answers by the name that the server gives its model."""
    prompts: list[dict[str, str]]
    """``name`` and ``sha256`` of each; the first prompt's answers are the record's predictions."""
    names: str = "real"
    """``masked`` if the speakers' names were masked, else ``real``."""
    decoding: dict[str, Any] = {}
    examples: list[str] = []
    """Ids of the labelled utterances shown as examples, if all turns were shown the same ones."""
    nearest: dict[str, Any] = {}
    """If each turn has its own examples: how many were ``shown``, and ``name`` and ``digest`` of
    the encoder whose vectors were used to find the nearest ones."""
    examples_from: str = "train"
    window: Count | None = None
    """Maximum number of past turns."""
    paraphrases: dict[str, list[dict[str, Any]]] = {}
    """By split, the scores of each prompt in percent."""
    spread: dict[str, dict[str, Number]] = {}
    """By split, mean, standard deviation (n−1) and range of the prompts' scores by the corpus's
    metric."""
    masked: dict[str, dict[str, Number]] | None = None
    """By split, the scores of the first prompt with masked names; None if it was not asked."""
    per_1000: dict[str, Number] = {}
    """Tokens and seconds for 1,000 utterances with the first prompt."""
    answers: Count = 0
    """Number of answers to all prompts; the tokens and the cost below are their sums."""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cost: Number | None = None
    """In the currency of the given prices."""


class Encoder(Part, frozen=True, kw_only=True):
    """What turns text into vectors. ``extra`` may hold more values that tell two encoders apart."""

    name: str = ""
    digest: str = ""
    """SHA-256 of its weights."""
    vectors: str | None = None
    """SHA-256 of the utterance vectors that were read instead of text."""
    fine_tuning: FineTuning | None = None
    prompting: Prompting | None = None
    """None if the model is not a prompted one."""


class Training(Part, frozen=True, kw_only=True):
    """The epochs, time and memory of a training. ``epochs`` and the values that depend on it are
    None if nothing was trained."""

    epochs: Count | None = None
    best_epoch: Count | None = None
    """The selected epoch, counted from 1."""
    fit_seconds: Number | None = None
    utterances_per_second: Number | None = None
    curves: list[dict[str, Number | None]] = []
    """For each epoch its number, from 1, and the figures that were logged; None = not finite."""
    parameters: Count | None = None
    peak_memory_mib: Number | None = None
    """Peak memory allocated on the GPU, or resident in the process if there is no GPU."""
    wall_seconds: Number | None = None
    """Time of the whole run, including loading and scoring."""


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
    """The search that chose the settings of a tuned run; its trials were scored only on dev."""

    trials: Count
    """Number of trials, including those that failed."""
    sampler: str
    sampler_seed: Count
    space: dict[str, dict[str, list[Any]]]
    """The values that trials draw from, by the settings' dotted names: ``log``, ``uniform`` or
    ``choice``."""
    chosen: Count
    """The number of the trial whose settings the run has; 0 is the preset."""
    digest: str
    """SHA-256 over the trials and their scores on dev."""


class Described(Part, frozen=True, kw_only=True):
    """The description of a run, without its figures."""

    schema: int = SCHEMA
    external: bool = False
    """Whether the predictions were made elsewhere."""
    method: str
    dataset: str
    dataset_digest: str = ""
    """SHA-256 over the corpus; empty if it is not known."""
    dataset_official: bool | None = None
    """Whether the corpus was the official release; None if it is not known."""
    further_corpora: dict[str, str] | None = None
    """Digests, by name, of other corpora that the method read."""
    labels: list[str]
    """The C classes, in the order of their numbers."""
    metric: str = USUAL_METRIC
    """The corpus's metric, as :class:`erc_bench.corpus.conversation.Metric` writes it."""
    preset: str = ""
    overrides: list[str] = []
    """``key=value``, as given by the user."""
    variant: str | None = None
    """The part that the method lacks; None for the whole method."""
    tuned: Search | None = None
    """None if the settings were not searched for."""
    seed: int
    config: dict[str, Any] = {}
    """Every setting."""
    config_hash: str
    context: str = "unknown"
    """``past``, ``full`` or ``unknown``."""
    selection: str = "unknown"
    """What the weights were selected by, for example ``dev weighted_f1``, or ``unknown``."""
    trains: bool = True
    """False for a method that has nothing to train, such as a prompted model."""
    encoder: Encoder | None = None
    plugin: Plugin | None = None
    model: ModelFile | None = None
    training: Training | None = None
    environment: Environment | None = None
    created: str = ""
    """Date and time in UTC, ISO 8601."""

    @property
    def judged_by(self) -> Metric:
        """The corpus's metric."""
        return Metric.of(self.metric, self.labels)


class Record(Described, frozen=True, kw_only=True):
    """The record of a finished run, or of predictions made elsewhere."""

    metrics: Splits[Metrics]
    oracle_gap: Number | None = None
    """Best score on test of any epoch minus that of the selected epoch; None if not asked for."""
    predictions: Splits[Predictions]


class Summary(Described, frozen=True, kw_only=True):
    """A record without its predictions, which are nine tenths of its file. It is not written."""

    metrics: Splits[Metrics]


class Untested(Described, frozen=True, kw_only=True):
    """The untested record of a run that was asked not to score test: a record without test."""

    test: str = "not scored"
    metrics: OnDev[Metrics]
    predictions: OnDev[Predictions]


class Unscored(Part, frozen=True, kw_only=True):
    """The parts of a record that its metrics are computed from."""

    labels: list[str]
    metric: str = USUAL_METRIC
    predictions: Splits[Predictions]


def to_json(part: Part) -> dict[str, Any]:
    """The JSON object of a record or of a part of it.

    For a part that was read from a file, it holds all values of the file, in the file's order, and
    those that were added since. For any other part, it holds all fields that are not None.
    """
    fields = fields_of(type(part))
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
def fields_of(kind: type[Part]) -> dict[str, Any]:
    """The names of the fields that a file can hold, with their defaults."""
    bookkeeping = {each.name for each in msgspec.structs.fields(Part)}
    return {
        each.name: each.default
        if each.default_factory is msgspec.NODEFAULT
        else each.default_factory()
        for each in msgspec.structs.fields(kind)
        if each.name not in bookkeeping
    }
