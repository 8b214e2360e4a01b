"""``erc-bench predict``: the model of a finished run on dialogues that nobody has labelled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.errors import ErcBenchError
from erc_bench.inference.dialogue_files import dialogue
from erc_bench.method.datamodule import ErcDataModule
from erc_bench.progress import say
from erc_bench.records.schema import Record, damaged
from erc_bench.records.store import model_file, run_name
from erc_bench.settings.experiment import stored_config
from erc_bench.settings.registry import method_class
from erc_bench.training.checkpoints import load_weights
from erc_bench.training.trainer import build_trainer, predict, quiet_frameworks, set_up_backends


@dataclass(frozen=True)
class Answer:
    """What a model says of one turn."""

    dialogue: str
    turn: int
    """Counted from 1."""
    speaker: str
    text: str
    label: str
    """The most probable emotion."""
    probabilities: dict[str, float]
    """By emotion, rounded to 4 places as in a record."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Model:
    """The method of a finished run with its weights.

    Args:
        path: the record's file; the weights lie in the same store.
        record: what it holds.

    Raises:
        ErcBenchError: there are no weights, or they, the settings or the encoder do not fit.
    """

    def __init__(self, path: Path, record: Record) -> None:
        weights = model_file(path, record)
        if record.encoder is None:
            raise damaged(path, "$.encoder: it does not say which encoder the weights are for")
        name, self.dataset = record.method, record.dataset
        settings, digest = record.config, record.encoder.digest
        self.labels = LabelSet(tuple(record.labels))
        say(f"Loading the model of {run_name(path)} …")
        config = stored_config(name, settings, f"{path}, config")
        for setting in asdict(config).keys() - settings.keys():
            say(f"Note: the record is older than the setting {setting}; its default is taken.")
        set_up_backends()
        with quiet_frameworks():
            self.method = method_class(name)(config, self.labels)
            try:
                load_weights(self.method, weights)
            except (KeyError, RuntimeError) as error:
                raise ErcBenchError(
                    f"The weights {weights} do not fit the method {name!r} as it is now "
                    f"({str(error).splitlines()[0]}). Use the version of erc-bench that the record "
                    "names, or repeat the run with --force."
                ) from error
            encoder = self.method.encoder_identity()
            if encoder["digest"] != digest:
                raise ErcBenchError(
                    f"{encoder['name']!r} is another encoder than that of {path}: its weights have "
                    f"the SHA-256 {encoder['digest']}, the run's had {digest}. Put that one in its "
                    "place."
                )
            self.trainer = build_trainer(self.method, weights.parent, [])

    def answers(self, dialogues: Sequence[Dialogue]) -> list[Answer]:
        """An answer for every turn of the dialogues, in their order."""
        return self._answers([_asked(d, range(len(d))) for d in dialogues])

    def stream(self, turns: Iterable[Utterance]) -> Iterator[Answer]:
        """The answer for each turn of one dialogue as soon as it is there.

        What :meth:`answers` says of the whole dialogue, where the method reads past turns only.
        """
        so_far: list[Utterance] = []
        for turn in turns:
            so_far.append(turn)
            whole = dialogue("dialogue-1", so_far)
            yield from self._answers([_asked(whole, [len(whole) - 1])])

    def _answers(self, asked: Sequence[Dialogue]) -> list[Answer]:
        """Answers for the labelled turns."""
        with quiet_frameworks():
            corpus = Corpus.build(self.dataset, self.labels, {"test": asked})
            datamodule = ErcDataModule(corpus, self.method, kept=False)
            self.method.prepare(datamodule)
            _, probabilities = predict(self.trainer, self.method, datamodule, "test")
        turns = [(d, i) for d in asked for i in d.labelled]
        return [
            Answer(
                d.id,
                i + 1,
                d.utterances[i].speaker,
                d.utterances[i].text,
                self.labels.names[best],
                dict(zip(self.labels.names, (round(p, 4) for p in row), strict=True)),
            )
            for (d, i), best, row in zip(
                turns, probabilities.argmax(dim=1).tolist(), probabilities.tolist(), strict=True
            )
        ]


def _asked(given: Dialogue, places: Iterable[int]) -> Dialogue:
    """A dialogue with a label, whichever, on the turns that are asked for: only such are scored."""
    turns = list(given.utterances)
    for i in places:
        turns[i] = replace(turns[i], label=0)
    return Dialogue(given.id, tuple(turns))
