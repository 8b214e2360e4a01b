"""Apply the model of a finished run to new dialogues, for answers or for states."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from erc_bench.corpus.conversation import Corpus, Dialogue, LabelSet, Utterance
from erc_bench.encoders.fast import enabled
from erc_bench.encoders.fast.backends import set_up_backends
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.inference.dialogue_files import dialogue
from erc_bench.method.config import is_added_later
from erc_bench.method.contract import ErcMethod
from erc_bench.method.data import ErcDataModule
from erc_bench.progress import say
from erc_bench.records.fetching import ENCODER, is_snapshot
from erc_bench.records.parsing import damaged
from erc_bench.records.place import check_model, model_file
from erc_bench.records.schema import Record
from erc_bench.records.store import run_name
from erc_bench.settings.experiment import stored_config
from erc_bench.settings.registry import method_class
from erc_bench.training.checkpoints import load_checkpoint
from erc_bench.training.frameworks import interruptible, quiet_frameworks
from erc_bench.training.scoring import predict
from erc_bench.training.train import build_trainer, prepare
from erc_bench.vectors import VectorMethod


@dataclass(frozen=True)
class Answer:
    """A model's answer for one turn."""

    dialogue: str
    turn: int
    """Counted from 1."""
    speaker: str
    text: str
    label: str
    """The most probable emotion; "" if the method gives no answer."""
    probabilities: dict[str, float]
    """By emotion, rounded to 4 places as in a record; empty if the method gives none."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Model:
    """The method of a finished run with its weights.

    Args:
        path: the record's file; the weights lie in the same store.
        record: the record.

    Raises:
        ErcBenchError: there are no weights; or the weights, the settings or the encoder do not fit.
    """

    def __init__(self, path: Path, record: Record) -> None:
        weights = model_file(path, record)
        self.method_name = record.method
        self.dataset, self.labels = record.dataset, LabelSet(tuple(record.labels))
        say(f"Loading the model of {run_name(path)} …")
        check_model(path, record, weights)
        config = stored_config(record.method, record.config, f"{path}, config")
        later = {each.name for each in fields(config) if is_added_later(each)}
        for setting in asdict(config).keys() - record.config.keys() - later:
            say(f"Note: the record is older than the setting {setting}; its default is used.")
        kind = method_class(record.method)
        if is_snapshot(path.absolute().parents[3]) and not kind.trains:
            raise ErcBenchError(
                f"{run_name(path)} on the hub is of {record.method!r}, which trains nothing: there "
                "are no weights to load, and its settings may name a server to which the dialogues "
                "would be sent. Run it with your own settings, by `erc-bench run`."
            )
        if record.encoder is None:
            raise damaged(path, "$.encoder: it does not say which")
        encoder, recorded = kind.encoder_identity(config), record.encoder
        if encoder["digest"] != recorded.digest:
            raise ErcBenchError(
                f"{encoder['name']!r} is another encoder than that of {path}: its weights have the "
                f"SHA-256 {encoder['digest']}, but the run's had {recorded.digest}. Put the run's "
                "encoder in its place."
            )
        set_up_backends()
        with quiet_frameworks():
            self.method = kind(config, self.labels)
            load_checkpoint(self.method, weights)
            came_along = weights.parent / ENCODER
            if isinstance(self.method, VectorMethod) and came_along.is_dir():
                self.method.fine_tuned_encoder = came_along
            self.trainer = build_trainer(self.method)

    def answers(self, dialogues: Sequence[Dialogue]) -> list[Answer]:
        """An answer for every turn of the dialogues, in their order."""
        return self._answers([_asked(d, range(len(d))) for d in dialogues])

    def stream(self, turns: Iterable[Utterance]) -> Iterator[Answer]:
        """Yield the answer for each turn of one dialogue as soon as the turn is there.

        If the method reads only past turns, the answers are those that :meth:`answers` gives for
        the whole dialogue.
        """
        so_far: list[Utterance] = []
        for turn in turns:
            so_far.append(turn)
            whole = dialogue("dialogue-1", so_far)
            yield from self._answers([_asked(whole, [len(whole) - 1])])

    def states(self, dialogues: Sequence[Dialogue]) -> Tensor:
        """The state that the method classifies, for every turn of the dialogues ``(N, d)``.

        The states are in the dialogues' order, in float32 on the CPU.

        Raises:
            ErcBenchError: the method classifies no such state.
        """
        check_states(type(self.method), self.method_name)
        asked = [_asked(d, range(len(d))) for d in dialogues]
        with quiet_frameworks():
            data = self._prepared(asked)
            with enabled(self.method.config.speedups), interruptible():
                batches = self.trainer.predict(self.method, data.evaluation_loader("test"))
        assert batches is not None
        rows = torch.cat([batch["rows"] for batch in batches])  # type: ignore[call-overload]
        return torch.cat([batch["states"] for batch in batches])[rows.argsort()]  # type: ignore[call-overload]

    def _prepared(self, asked: Sequence[Dialogue]) -> ErcDataModule:
        """Batches of dialogues, and the method prepared for them."""
        corpus = Corpus.build(self.dataset, self.labels, {"test": asked})
        data = ErcDataModule(corpus, self.method)
        prepare(self.method, data)
        return data

    def _answers(self, asked: Sequence[Dialogue]) -> list[Answer]:
        """Answers for the labelled turns."""
        with quiet_frameworks():
            data = self._prepared(asked)
            with enabled(self.method.config.speedups):
                predicted = predict(self.trainer, self.method, data, "test", few=True)
        turns = [(d, i) for d in asked for i in d.labelled]
        found = zip(
            turns, predicted.classes.tolist(), predicted.probabilities.tolist(), strict=True
        )
        return [
            Answer(
                d.id,
                i + 1,
                d.utterances[i].speaker,
                d.utterances[i].text,
                self.labels.names[best] if best != NO_ANSWER else "",
                {}
                if best == NO_ANSWER or not self.method.gives_probabilities
                else dict(zip(self.labels.names, (round(p, 4) for p in row), strict=True)),
            )
            for (d, i), best, row in found
        ]


def check_states(kind: type[ErcMethod], name: str) -> None:
    """Check that a method defines the state of an utterance that it classifies.

    Raises:
        ErcBenchError: it does not.
    """
    if kind.states is ErcMethod.states:
        raise ErcBenchError(
            f"The method {name!r} classifies no state of an utterance that could be its vector. "
            "Use a run of a method that does, or the vectors of an encoder: `erc-bench encode "
            "ENCODER …`."
        )


def _asked(given: Dialogue, positions: Iterable[int]) -> Dialogue:
    """A dialogue with a dummy label on the turns that are asked for: only those are scored."""
    turns = list(given.utterances)
    for i in positions:
        turns[i] = replace(turns[i], label=0)
    return Dialogue(given.id, tuple(turns))
