"""A prompted language model: nothing is trained.

A model on this machine gives the likelihood of every label after the prompt. A server with OpenAI's
interface writes text; if it names no label, it counts as no answer. The answers to the first prompt
are the predictions. A run also asks the other prompts, and the first one with masked speaker names,
and the record says how far apart their scores are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor

from erc_bench.corpus.conversation import Dialogue
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation import NO_ANSWER
from erc_bench.method import (
    Batch,
    Columns,
    ErcDataModule,
    ErcMethod,
    Example,
    LabelSet,
    MethodConfig,
    Reader,
)
from erc_bench.method.config import added_later, at_least, unhashed
from erc_bench.progress import Stopwatch, track
from erc_bench.training.environment import device_name
from erc_bench.training.precision import choose_precision
from erc_bench.vectors import FeatureConfig, utterance_vectors, vectors_identity

from .answers import Answer, AnswerFile, Patience, Server, checked_url, key_of, named_label
from .language_models import (
    ChatText,
    Message,
    Turn,
    checked_digests,
    find_prompt,
    fitting,
    label_likelihoods,
    left_padded,
    load_model,
    model_identity,
    model_tokenizer,
    tokenizer_identity,
    window,
)
from .prompt_report import Answered, Asked, answer_lines, cost, parts, scores_of, spread

LEAST_PROMPTS = 3
"""The least number of prompts that a run asks, as docs/protocol.md says."""

EXAMPLE_TURNS = 4
"""The largest number of past turns that an example shows."""

FROZEN = FeatureConfig(epochs=0)
"""Settings of the vectors that find the nearest examples: the encoder is not fine-tuned."""

NEAREST_TURNS = 256
"""Turns whose nearest examples are found at a time; only the memory depends on it."""

SURE = 20.0
"""The logit of the label that a written answer names; the others have 0."""


@dataclass
class PromptLMConfig(MethodConfig):
    """Settings of a prompted language model."""

    encoder: str = "Qwen/Qwen2.5-7B-Instruct"  # hub id or folder; for a server, its model's name
    epochs: int = 1  # nothing is trained
    base_url: str = ""  # http://HOST:PORT/v1 of a server; "" = a model on this machine
    revision: str = ""  # version of a server's model, if it is known
    # files, or names of the suite's prompts; the answers to the first one are the predictions
    prompts: list[str] = field(default_factory=lambda: ["plain", "question", "annotator"])
    prompt_digests: list[str] = field(default_factory=list)  # SHA-256 of each; set automatically
    names: Literal["real", "masked"] = "real"  # masked: Speaker 1, Speaker 2
    also_masked: bool = True  # a run asks the first prompt once more, with masked names
    examples: int = 0  # how many are shown: turns of train with labels, drawn by the seed
    # an encoder; each turn is shown the examples nearest to it; "" = all are shown the same ones
    nearest: str = added_later("")
    window: int = 12  # past turns at most
    max_len: int = 2048  # tokens of a prompt at most; not for a server
    temperature: float = 0.0  # for a server only; 0 = the most probable token
    max_tokens: int = 16  # tokens of a server's answer at most
    request: dict[str, Any] = field(default_factory=dict)  # further request fields; null = left out
    key_from: str = unhashed("OPENAI_API_KEY")  # environment variable with the server's key
    at_once: int = unhashed(8)  # requests at a time
    timeout: float = unhashed(60.0)  # seconds that a request may take
    retries: int = unhashed(6)  # how often a request that failed is sent again
    wait: float = unhashed(1.0)  # seconds before the first retry; each later wait is doubled
    keep: bool = unhashed(True)  # keep answers on disk, so that nothing is asked twice
    price_in: float = unhashed(0.0)  # price of a million tokens of prompts; 0 = not known
    price_out: float = unhashed(0.0)  # price of a million tokens of answers

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "examples", "window", "temperature", "retries", "wait")
        at_least(self, 0, "price_in", "price_out")
        at_least(self, 1, "max_tokens", "at_once", "timeout")
        at_least(self, 16, "max_len")
        if self.nearest and not self.examples:
            raise ErcBenchError(
                f"The setting nearest={self.nearest} chooses examples, but examples=0 shows none. "
                "Set examples=5, say."
            )
        if self.base_url:
            self.base_url = checked_url(self.base_url)
        elif self.temperature:
            raise ErcBenchError(
                f"The setting temperature={self.temperature} is a server's: a model on this "
                "machine gives the likelihood of every label and draws nothing. Leave it out, or "
                "name a server by base_url."
            )
        if len(set(self.prompts)) < LEAST_PROMPTS or len(set(self.prompts)) < len(self.prompts):
            raise ErcBenchError(
                f"The setting prompts={self.prompts} must name {LEAST_PROMPTS} or more prompts, "
                "each only once. Another prompt can change a model's score by many points, so a "
                "row has to say how far apart the scores of its prompts are."
            )
        self.prompt_digests = checked_digests(self.prompts, self.prompt_digests, "prompt_digests")
        if len(set(self.prompt_digests)) < len(self.prompts):
            raise ErcBenchError(
                f"Of the prompts {', '.join(self.prompts)} two have the same contents, so they are "
                "no paraphrases. Give each another wording."
            )


@dataclass(frozen=True)
class Question:
    """A question about one turn."""

    way: Asked
    turns: Sequence[Turn]
    """The past turns, then the turn itself."""
    shown: tuple[int, ...]
    """The numbers of the examples that are shown before it."""


class TargetReader(Reader):
    """The turns that are asked about; their prompts are written when the model is asked."""

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """One for each labelled turn."""
        return [{"targets": [i]} for i in dialogue.labelled]

    def collate(self, columns: Columns) -> Batch:
        """Nothing: the rows of a batch are enough."""
        return {}


class PromptLM(ErcMethod):
    """A language model that is asked about each turn."""

    Config = PromptLMConfig
    context = "past"
    trains = False
    several_devices = False  # each device would ask the server
    config: PromptLMConfig

    def __init__(self, config: PromptLMConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        self.reader = TargetReader()
        self.prompts = [find_prompt(name) for name in config.prompts]
        self.answers = [prompt.answers(labels.names) for prompt in self.prompts]
        self.gives_probabilities = not config.base_url
        self.told: dict[str, Any] = {}
        self.lines: list[str] = []
        self.logits: dict[int, Tensor] = {}
        self.examples: list[dict[str, Any]] = []  # turns of train; saved with the model
        self.example_vectors = torch.zeros(0, 0)  # of length 1; empty without `nearest`
        if config.base_url:
            return
        self.tokenizer = model_tokenizer(config.encoder)
        self.chat = ChatText(self.tokenizer)
        on_gpu = torch.cuda.is_available()
        chosen = choose_precision(config.precision).chosen if on_gpu else "float32"
        dtype = getattr(torch, chosen)
        self.model = load_model(config.encoder, config.max_len, dtype=dtype).eval()
        self.model.requires_grad_(False)

    @classmethod
    def encoder_identity(cls, config: MethodConfig) -> dict[str, str]:
        """Name and digest of the model.

        The digest is that of the weights on this machine; of a server it covers address, model and
        revision. With ``nearest`` it also covers the encoder that chooses the examples.
        """
        assert isinstance(config, PromptLMConfig)
        known = [config.base_url, config.encoder, config.revision]
        if not config.base_url:
            identity = model_identity(config.encoder)
            if not config.nearest:
                return identity
            known = [identity["digest"]]
        if config.nearest:
            known.append(vectors_identity(config.nearest, FROZEN)["digest"])
        return {"name": config.encoder, "digest": key_of(known)}

    # --- asking

    def prepare(self, data: ErcDataModule) -> None:
        """Ask about every labelled turn of dev and test, or of the dialogues to predict."""
        in_a_run = "train" in data.splits
        config = self.config
        vectors = self._vectors(data) if config.nearest else None
        if in_a_run:
            self._choose_examples(data, vectors)
        masked = config.names == "masked"
        asked = [Asked(0, masked)]
        if in_a_run:
            asked += [Asked(number, masked) for number in range(1, len(self.prompts))]
            asked += [Asked(0, True)] if config.also_masked and not masked else []
        splits = [split for split in data.splits if split != "train" and len(data.rows(split))]
        turns = [
            (dialogue, i)
            for split in splits
            for dialogue in data.corpus.dialogues(split)
            for i in dialogue.labelled
        ]
        rows = torch.cat([data.rows(split) for split in splits])
        shown = self._shown(rows, vectors)
        questions = [
            Question(way, window(dialogue.utterances, i, config.window, masked=way.masked), of_turn)
            for way in asked
            for (dialogue, i), of_turn in zip(turns, shown, strict=True)
        ]
        answers = (self._of_server if config.base_url else self._of_model)(questions, data.seed)
        by_way = [answers[n : n + len(turns)] for n in range(0, len(answers), len(turns))]
        logits = torch.tensor([self._logits(answer, asked[0]) for answer in by_way[0]])
        self.logits = dict(zip(rows.tolist(), logits, strict=True))
        if in_a_run:
            self._note(data, splits, asked, by_way, shown)

    def _choose_examples(self, data: ErcDataModule, vectors: Tensor | None) -> None:
        """Choose the examples: with ``nearest`` all of train, else as many as the settings say."""
        if vectors is None:
            self.examples = self._drawn_examples(data)
            return
        every = [
            self._example(dialogue, i)
            for dialogue in data.corpus.dialogues("train")
            for i in dialogue.labelled
        ]
        # A text that occurs several times with the same label is kept once.
        first = {(e["real"][-1][1], e["label"]): n for n, e in reversed([*enumerate(every)])}
        numbers = sorted(first.values())
        self.examples = [every[n] for n in numbers]
        self.example_vectors = vectors[data.rows("train")][numbers]

    def _vectors(self, data: ErcDataModule) -> Tensor:
        """A vector of length 1 for each turn of the corpus ``(rows, d)``."""
        vectors = utterance_vectors(data.corpus, self.config.nearest, FROZEN).vectors
        return torch.nn.functional.normalize(vectors, dim=1)

    def _shown(self, rows: Tensor, vectors: Tensor | None) -> list[tuple[int, ...]]:
        """The numbers of the examples that each turn of ``rows`` is shown; the nearest is last."""
        count = len(self.examples)
        if vectors is None:
            return [tuple(range(count))] * len(rows)
        most = min(self.config.examples, count)
        found: list[tuple[int, ...]] = []
        for part in vectors[rows].split(NEAREST_TURNS):
            nearness = part @ self.example_vectors.T
            order = nearness.sort(dim=1, descending=True, stable=True).indices[:, :most]
            found += map(tuple, order.flip(1).tolist())
        return found

    def _drawn_examples(self, data: ErcDataModule) -> list[dict[str, Any]]:
        """Draw examples by the seed: one turn of each label, then a second of each, and so on."""
        rng = np.random.default_rng(data.seed)
        of_label: dict[int, list[tuple[Dialogue, int]]] = {}
        for dialogue in data.corpus.dialogues("train"):
            for i in dialogue.labelled:
                of_label.setdefault(dialogue.utterances[i].label or 0, []).append((dialogue, i))
        drawn: list[dict[str, Any]] = []
        queues = [[of_label[c][n] for n in rng.permutation(len(of_label[c]))] for c in of_label]
        while len(drawn) < self.config.examples and any(queues):
            for queue in (queues[n] for n in rng.permutation(len(queues))):
                if queue and len(drawn) < self.config.examples:
                    drawn.append(self._example(*queue.pop()))
        return drawn

    def _example(self, dialogue: Dialogue, i: int) -> dict[str, Any]:
        past = min(self.config.window, EXAMPLE_TURNS)
        turns = {
            how: [
                [turn.name, turn.text]
                for turn in window(dialogue.utterances, i, past, masked=how == "masked")
            ]
            for how in ("real", "masked")
        }
        utterance = dialogue.utterances[i]
        return {"id": utterance.id, "label": utterance.label, **turns}

    def _before(
        self, questions: Sequence[Question]
    ) -> dict[tuple[Asked, tuple[int, ...]], list[Message]]:
        """The messages before each question: the instruction and the examples."""
        every = dict.fromkeys((question.way, question.shown) for question in questions)
        return {
            (way, shown): self._instructions(way, [self.examples[n] for n in shown])
            for way, shown in every
        }

    def _instructions(self, way: Asked, examples: Sequence[Mapping[str, Any]]) -> list[Message]:
        prompt, names = self.prompts[way.prompt], self.labels.names
        messages = prompt.system(names)
        for example in examples:
            turns = [Turn(*turn) for turn in example["masked" if way.masked else "real"]]
            answer = self.answers[way.prompt][example["label"]]
            messages += [
                prompt.user(turns, names),
                {"role": "assistant", "content": answer},
            ]
        return messages

    def _of_server(self, questions: Sequence[Question], seed: int) -> list[Answer]:
        config = self.config
        decoding: dict[str, Any] = {
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            **({"seed": seed} if config.temperature else {}),
            **config.request,
        }
        decoding = {name: value for name, value in decoding.items() if value is not None}
        before = self._before(questions)
        bodies = {}
        keys = []
        for question in questions:
            asked = self.prompts[question.way.prompt].user(question.turns, self.labels.names)
            messages = [*before[question.way, question.shown], asked]
            body = {"model": config.encoder, "messages": messages, **decoding}
            keys.append(key_of(config.base_url, config.revision, body))
            bodies[keys[-1]] = body
        patience = Patience(config.at_once, config.timeout, config.retries, config.wait)
        server = Server(config.base_url, config.key_from, patience)
        kept = AnswerFile([config.base_url, config.encoder, config.revision])
        return self._known_or_new(keys, kept, bodies, server.ask)

    def _of_model(self, questions: Sequence[Question], seed: int) -> list[Answer]:
        config = self.config
        before = self._before(questions)
        answers = {
            way: [self.chat.answer_ids(answer) for answer in self.answers[way.prompt]]
            for way in dict.fromkeys(question.way for question in questions)
        }
        dtype = next(self.model.parameters()).dtype
        place = [device_name(), str(dtype), torch.__version__, transformers.__version__]
        source = [model_identity(config.encoder)["digest"], tokenizer_identity(config.encoder)]
        prompts: dict[str, tuple[Asked, list[int]]] = {}
        keys = []
        for question in track(questions, "Writing the prompts"):
            way = question.way

            def messages(turns: Sequence[Turn], question: Question = question) -> Any:
                prompt = self.prompts[question.way.prompt]
                shown = before[question.way, question.shown]
                return [*shown, prompt.user(turns, self.labels.names)]

            ids = fitting(messages, question.turns, self.chat, config.max_len)
            keys.append(key_of(place, ids, answers[way]))
            prompts[keys[-1]] = way, ids

        def ask(wanted: Sequence[tuple[Asked, list[int]]], arrived: Any) -> None:
            self._likelihoods(wanted, answers, arrived)

        return self._known_or_new(keys, AnswerFile(["likelihood", *source]), prompts, ask)

    def _known_or_new(
        self, keys: Sequence[str], kept: AnswerFile, questions: Mapping[str, Any], ask: Any
    ) -> list[Answer]:
        """The answer for each key: from the file, or else asked for and saved at once."""
        found = {key: kept.get(key) if self.config.keep else None for key in questions}
        missing = [key for key, answer in found.items() if answer is None]

        def arrived(number: int, answer: Answer) -> None:
            found[missing[number]] = answer
            if self.config.keep:
                kept.add(missing[number], answer)

        if missing:
            ask([questions[key] for key in missing], arrived)
        answers = [found[key] for key in keys]
        assert all(answer is not None for answer in answers)
        return answers  # type: ignore[return-value]

    @torch.inference_mode()
    def _likelihoods(
        self,
        prompts: Sequence[tuple[Asked, list[int]]],
        answers: Mapping[Asked, list[list[int]]],
        arrived: Any,
    ) -> None:
        """Compute label likelihoods, in batches of prompts of similar length, the longest first."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(device)
        size = self.config.evaluation.batch_size
        batches = []
        for way in answers:
            own = [n for n, (of, _) in enumerate(prompts) if of == way]
            own.sort(key=lambda n: -len(prompts[n][1]))
            batches += [(way, own[n : n + size]) for n in range(0, len(own), size)]
        for way, numbers in track(batches, "Asking the model"):
            clock = Stopwatch()
            ids, mask = left_padded([prompts[n][1] for n in numbers])
            found = label_likelihoods(self.model, ids.to(device), mask.to(device), answers[way])
            rows = found.tolist()
            seconds = round(clock.seconds / len(numbers), 6)
            for n, row in zip(numbers, rows, strict=True):
                best = _most_likely(row)
                text = "" if best == NO_ANSWER else self.labels.names[best]
                arrived(n, Answer(text, "", len(prompts[n][1]), 0, seconds, "", row))

    # --- answers

    def _class(self, answer: Answer, way: Asked) -> int:
        """The class that an answer names; −1 if it names none.

        An answer may name a label in the words of its prompt, or by the label itself.
        """
        if answer.likelihoods is not None:
            return _most_likely(answer.likelihoods)
        named = named_label(answer.text, self.answers[way.prompt])
        return named_label(answer.text, self.labels.names) if named == NO_ANSWER else named

    def _logits(self, answer: Answer, way: Asked) -> list[float]:
        if answer.likelihoods is not None:
            return answer.likelihoods
        label = self._class(answer, way)
        if label == NO_ANSWER:
            return [float("nan")] * len(self.labels)
        return [SURE * (c == label) for c in range(len(self.labels))]

    def forward(self, batch: Batch) -> Tensor:
        """The logits ``(N, C)`` of the answers that :meth:`prepare` asked for."""
        found = torch.stack([self.logits[row] for row in batch["rows"].tolist()])
        return found.to(batch["rows"].device)

    def saved_state(self) -> dict[str, Tensor]:
        """The examples that were shown; not the model, which many runs share."""
        written = np.frombuffer(json.dumps(self.examples).encode(), dtype=np.uint8)
        near = {"example_vectors": self.example_vectors} if self.config.nearest else {}
        return {"shown": torch.from_numpy(written.copy()), **near}

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the examples."""
        self.examples = json.loads(state["shown"].cpu().numpy().tobytes() or b"[]")
        self.example_vectors = state.get("example_vectors", self.example_vectors).cpu()

    # --- the record

    def recorded(self) -> dict[str, Any]:
        """Prompts, decoding, examples, and the scores of the other prompts and of masked names."""
        return {"prompting": self.told} if self.told else {}

    def run_files(self) -> dict[str, str]:
        """Every answer as it came, one per line."""
        return {"answers.jsonl": "".join(self.lines)} if self.lines else {}

    def _note(
        self,
        data: ErcDataModule,
        splits: Sequence[str],
        asked: Sequence[Asked],
        by_way: Sequence[Sequence[Answer]],
        shown: Sequence[tuple[int, ...]],
    ) -> None:
        """Collect the contents of the record and of the file of answers."""
        config, metric = self.config, data.corpus.metric.name
        places = parts(data, splits)
        every = [
            Answered(way, answers, [self._class(answer, way) for answer in answers])
            for way, answers in zip(asked, by_way, strict=True)
        ]
        scores = {
            (split, answered.way): scores_of(data, split, place, answered)
            for answered in every
            for split, place in places.items()
        }
        example_ids = [example["id"] for example in self.examples]
        ids_shown = [[example_ids[n] for n in of_turn] for of_turn in shown]
        self.lines = [
            line
            for answered in every
            for split, place in places.items()
            for line in answer_lines(
                *(data, split, place, answered, config.prompts[answered.way.prompt]),
                ids_shown if config.nearest else None,
            )
        ]
        answers = [answer for answered in every for answer in answered.answers]
        each = [way for way in asked if way.masked == (config.names == "masked")]
        told: dict[str, Any] = {
            "backend": config.base_url or "local",
            "revision": config.revision,
            "served": dict(Counter(answer.model for answer in answers if answer.model)),
            "prompts": [{"name": prompt.name, "sha256": prompt.digest} for prompt in self.prompts],
            "names": config.names,
            "decoding": self._decoding(),
            "examples": [] if config.nearest else example_ids,
            **({"nearest": self._nearest()} if config.nearest else {}),
            "examples_from": "train",
            "window": config.window,
            "paraphrases": {
                split: [{"prompt": config.prompts[w.prompt], **scores[split, w]} for w in each]
                for split in splits
            },
            "spread": {split: spread([scores[split, w] for w in each], metric) for split in splits},
            **cost(by_way[0], answers, config.price_in, config.price_out),
        }
        masked = Asked(0, True)
        if config.names == "real" and masked in asked:
            told["masked"] = {split: scores[split, masked] for split in splits}
        self.told = told

    def _nearest(self) -> dict[str, Any]:
        """The number of examples that a turn is shown, and the encoder that finds them."""
        shown = min(self.config.examples, len(self.examples))
        return {"shown": shown} | vectors_identity(self.config.nearest, FROZEN)

    def _decoding(self) -> dict[str, Any]:
        config = self.config
        if not config.base_url:
            return {"kind": "label likelihood", "max_len": config.max_len}
        written = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        return {"kind": "generation", **written, **config.request}


def _most_likely(likelihoods: Sequence[float]) -> int:
    """The class with the highest likelihood; −1 if one is not a number, as after an overflow."""
    return NO_ANSWER if np.isnan(likelihoods).any() else int(np.argmax(likelihoods))
