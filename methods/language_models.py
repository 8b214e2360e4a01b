"""The base of methods with a causal language model: prompts, their tokens, and label likelihood.

A prompt is a Jinja file with the blocks ``system`` (optional), ``user`` and ``answer`` (without it,
the answer is the label). ``user`` sees ``turns``, the past turns and the one that is asked about,
each with ``name`` and ``text``; ``past`` and ``target``, the two parts of ``turns``; and
``labels``, the emotions. ``system`` sees only ``labels``, ``answer`` only ``label``.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erc_bench.corpus.conversation import Utterance
from erc_bench.encoders.loading import load_causal_lm, load_causal_tokenizer, tokenizer_digest
from erc_bench.encoders.locating import find_encoder
from erc_bench.encoders.tokenising import special_tokens
from erc_bench.errors import ErcBenchError, SettingsError, did_you_mean

from .answers import characters

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MADE_UP = "made-up/tiny-llama"
"""The name of a tiny model of random weights that reads bytes, to check that everything works."""

TITLES = frozenset({"An", "And", "Dr", "Miss", "Mr", "Mrs", "Ms", "Of", "Professor", "Sir", "The"})
"""Words of a speaker's name that do not name the speaker."""

Message = Mapping[str, str]
"""A message of a chat: its ``role`` (system, user or assistant) and ``content``."""


# --- prompts


@dataclass(frozen=True)
class Turn:
    """A turn as a prompt shows it."""

    name: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A prompt from a file."""

    name: str
    """The name of a prompt of the suite, or the path of a file."""
    source: str
    """The file's contents."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file's contents."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def __getstate__(self) -> dict[str, str]:
        return {"name": self.name, "source": self.source}  # the compiled template can't be pickled

    @cached_property
    def _template(self) -> Template:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        try:
            template = environment.from_string(self.source)
        except TemplateError as error:
            number = getattr(error, "lineno", None)
            line = f", line {number}" if number else ""
            raise ErcBenchError(
                f"The prompt {self.name}{line}: {error.message}. See docs/language-models.md for "
                "how a prompt is written."
            ) from error
        if "user" not in template.blocks:
            raise ErcBenchError(
                f"The prompt {self.name} has no block 'user'. Put what is asked between "
                "{% block user %} and {% endblock %}; see docs/language-models.md."
            )
        return template

    def _block(self, name: str, **variables: Any) -> str:
        from jinja2 import TemplateError

        template = self._template
        try:
            parts = template.blocks[name](template.new_context(variables))
            return "".join(parts).strip()
        except (
            *(TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError),
        ) as error:
            raise ErcBenchError(
                f"The prompt {self.name}, block {name!r}, can't be filled in: {error}. There are "
                f"the variables {', '.join(variables)}."
            ) from error

    def system(self, labels: Sequence[str]) -> list[Message]:
        """The message with the instruction, in a list; empty if the prompt has none."""
        if "system" not in self._template.blocks:
            return []
        return [{"role": "system", "content": self._block("system", labels=list(labels))}]

    def user(self, turns: Sequence[Turn], labels: Sequence[str]) -> Message:
        """The message that asks about the last of ``turns``."""
        seen = {"turns": turns, "past": turns[:-1], "target": turns[-1], "labels": list(labels)}
        return {"role": "user", "content": self._block("user", **seen)}

    def answer(self, label: str) -> str:
        """The answer that the model should give for a label."""
        if "answer" not in self._template.blocks:
            return label
        return self._block("answer", label=label)

    def answers(self, labels: Sequence[str]) -> list[str]:
        """The answers for all labels.

        Raises:
            ErcBenchError: two labels have the same answer, or one has none.
        """
        answers = [self.answer(label) for label in labels]
        if len(set(answers) - {""}) < len(answers):
            raise ErcBenchError(
                f"The prompt {self.name}, block 'answer', must give each label another answer, but "
                f"it gives {', '.join(map(repr, answers))}."
            )
        return answers


def find_prompt(name: str) -> Prompt:
    """Return a prompt of the suite by its name, or any other by the path of its file.

    Raises:
        ErcBenchError: there is no such prompt, or it is not UTF-8 text.
    """
    folder = Path(str(resources.files("erc_bench.methods"))) / "templates"
    own = {path.stem: path for path in sorted(folder.glob("*.jinja"))}
    path = own.get(name) or Path(name).expanduser()
    try:
        return Prompt(name, path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ErcBenchError(
            f"There is no prompt {name!r}: it is neither one of the suite's nor a file that can be "
            f"read ({why})." + did_you_mean(name, own)
        ) from error


def checked_digests(prompts: Sequence[str], held: Sequence[str], setting: str) -> list[str]:
    """Return the SHA-256 of each prompt.

    Args:
        prompts: names or files of prompts.
        held: their digests in the settings of a finished run; empty in a new one.
        setting: name of the setting that has the digests.

    Raises:
        ErcBenchError: ``held`` is not empty and differs.
    """
    digests = [find_prompt(name).digest for name in prompts]
    if held and list(held) != digests:
        changed = [n for n, d, h in zip(prompts, digests, held, strict=False) if d != h]
        raise ErcBenchError(
            f"The prompt {', '.join(changed or prompts)} is not the one that these settings were "
            "made with: its file has changed. Put the old file in its place, or leave out "
            f"{setting}, which makes it another run."
        )
    return digests


def window(utterances: Sequence[Utterance], i: int, past: int, *, masked: bool) -> list[Turn]:
    """Return the turns that a prompt about turn ``i`` may show: past ones, and turn ``i`` itself.

    Args:
        utterances: the utterances of the dialogue.
        i: position of the turn.
        past: largest number of past turns.
        masked: call the speakers "Speaker 1", "Speaker 2" in the order in which they first spoke,
            also in the texts. Only names of speakers up to turn ``i`` are masked: whole names, and
            the words of a name that no other speaker has in theirs, but no titles.
    """
    seen = [Turn(u.name, u.text) for u in utterances[max(0, i - past) : i + 1]]
    if not masked:
        return seen
    masks: dict[str, str] = {}
    for utterance in utterances[: i + 1]:
        masks.setdefault(utterance.name, f"Speaker {len(masks) + 1}")
    bearers: dict[str, set[str]] = {}
    for name, mask in masks.items():
        for word in set(re.findall(r"[^\W\d_]{2,}", name)) - TITLES:
            if word[0].isupper():
                bearers.setdefault(word, set()).add(mask)
    hidden = {word: min(of) for word, of in bearers.items() if len(of) == 1} | masks
    longest_first = sorted(hidden, key=len, reverse=True)
    names = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")
    return [Turn(masks[t.name], names.sub(lambda m: hidden[m[1]], t.text)) for t in seen]


# --- tokens


class ChatText:
    """Turns messages into text and text into tokens, in the model's chat format if it has one.

    Without a chat format the messages follow one another, and "Answer:" precedes the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self.end = tokenizer.eos_token_id
        """The token that ends an answer; None if there is none."""
        self.before, _ = special_tokens(tokenizer)
        if self.chat:  # the format may already write the tokens that begin a text
            text = self.text([{"role": "user", "content": "a"}])
            first = tokenizer(text, add_special_tokens=False).input_ids[:1]
            if first == self.before[:1]:
                self.before = []

    def text(self, messages: Sequence[Message]) -> str:
        """A prompt as text, up to where the answer begins."""
        if not self.chat:
            parts = []
            for message in messages:
                said = message["content"]
                parts.append(f" {said}\n\n" if message["role"] == "assistant" else f"{said}\n")
                if message["role"] == "user":
                    parts.append("Answer:")
                elif message["role"] == "system":
                    parts.append("\n")
            return "".join(parts)
        try:
            return self._in_format(messages)
        except Exception:  # a format may refuse a system message in many ways
            if messages[0]["role"] != "system" or len(messages) < 2:
                raise
            first, second, *others = messages
            joined = {**second, "content": f"{first['content']}\n\n{second['content']}"}
            return self._in_format([joined, *others])

    def _in_format(self, messages: Sequence[Message]) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """A prompt as tokens."""
        text = characters(self.text(messages))
        return [*self.before, *self.tokenizer(text, add_special_tokens=False).input_ids]

    def answer_ids(self, answer: str) -> list[int]:
        """An answer as tokens, including the token that ends it."""
        text = answer if self.chat else f" {answer}"
        ids = list(self.tokenizer(characters(text), add_special_tokens=False).input_ids)
        return ids if self.end is None else [*ids, self.end]


def fitting(
    ask: Callable[[Sequence[Turn]], list[Message]],
    turns: Sequence[Turn],
    chat: ChatText,
    max_len: int,
) -> list[int]:
    """Return the tokens of a prompt with as many of the last turns as fit into ``max_len`` tokens.

    If even the turn that is asked about does not fit, its first words are left out.

    Args:
        ask: makes messages from turns.
        turns: past turns, and the one that is asked about.
        chat: makes tokens from messages.
        max_len: largest number of tokens.

    Raises:
        SettingsError: the prompt is too long even without the words of the dialogue.
    """
    ids = chat.ids(ask(turns))
    if len(ids) <= max_len:
        return ids
    words = turns[-1].text.split()
    shorter = [turns[first:] for first in range(1, len(turns))]
    shorter += [
        [replace(turns[-1], text=" ".join(words[first:]))] for first in range(1, len(words) + 1)
    ]
    low, high, found = 0, len(shorter), None  # all from `high` on fit
    while low < high:
        middle = (low + high) // 2
        ids = chat.ids(ask(shorter[middle]))
        if len(ids) <= max_len:
            high, found = middle, ids
        else:
            low = middle + 1
    if found is None:
        raise SettingsError(
            f"The prompt has {len(ids)} tokens even without any turn of the dialogue, more than "
            f"max_len={max_len} allows. Give a larger max_len, or fewer examples."
        )
    return found


# --- models


@cache
def _made_up() -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The tiny model, its tokenizer of bytes, and the SHA-256 of its weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.model_max_length = 1 << 30
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    hasher = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        hasher.update(name.encode() + value.numpy().tobytes())
    return model, tokenizer, hasher.hexdigest()


def model_identity(name: str) -> dict[str, str]:
    """The ``name`` of a causal language model, and the ``digest`` of its weights."""
    return {"name": name, "digest": _made_up()[2] if name == MADE_UP else find_encoder(name).digest}


def model_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a causal language model."""
    return copy.deepcopy(_made_up()[1]) if name == MADE_UP else load_causal_tokenizer(name)


def tokenizer_identity(name: str) -> str:
    """SHA-256 of a model's tokenizer and its chat format."""
    own = "" if name == MADE_UP else tokenizer_digest(name)
    chat = str(getattr(model_tokenizer(name), "chat_template", None))
    return hashlib.sha256(json.dumps([own, chat]).encode()).hexdigest()


def load_model(name: str, max_len: int, **options: Any) -> PreTrainedModel:
    """Load a causal language model that can read a prompt of ``max_len`` tokens and an answer.

    Args:
        name: hub id or folder, or :data:`MADE_UP`.
        max_len: tokens of a prompt; :data:`ANSWER_TOKENS` are reserved in addition.
        options: those of :func:`erc_bench.encoders.loading.load_causal_lm`.
    """
    if name == MADE_UP:
        return copy.deepcopy(_made_up()[0]).to(options.get("dtype", torch.float32))
    model = load_causal_lm(name, **options)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and max_len > positions - ANSWER_TOKENS:
        raise ErcBenchError(
            f"The model {name!r} reads {positions} tokens, so a prompt can have "
            f"{positions - ANSWER_TOKENS} at most, not max_len={max_len}. Choose a smaller max_len."
        )
    return model


ANSWER_TOKENS = 32
"""Tokens that are reserved for an answer."""


# --- label likelihood


def left_padded(rows: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of token ids, padded at their beginning, and their mask, each ``(B, P)``."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@cache
def _arguments(kind: Any) -> frozenset[str]:
    """Names of the arguments of a model's forward."""
    return frozenset(inspect.signature(kind.forward).parameters)


def last_logits(model: Any, ids: Tensor, mask: Tensor, last: int, **options: Any) -> Any:
    """Return a model's output for the last tokens of its input, with ``logits`` ``(B, last, V)``.

    Args:
        model: a causal language model of transformers.
        ids: ``(B, L)``, padded at either end.
        mask: ``(B, K + L)``, of the K tokens in the cache and of ``ids``.
        last: number of last tokens; if the model can do so, only these are projected onto the
            vocabulary.
        options: further arguments, such as the cache.
    """
    kind: Any = type(model)
    known = _arguments(kind)
    length = ids.shape[1]
    if "position_ids" in known:
        options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
    if "logits_to_keep" in known:
        options["logits_to_keep"] = last
    if "cache" in known and "past_key_values" in options:  # its name in newer versions
        options["cache"] = options.pop("past_key_values")
    output = model(input_ids=ids, attention_mask=mask, **options)
    output.logits = output.logits[:, -last:]
    return output


def label_likelihoods(
    model: Any, ids: Tensor, mask: Tensor, answers: Sequence[Sequence[int]]
) -> Tensor:
    """The log-likelihood of each answer after each prompt ``(B, C)``, in float32.

    The keys and values of the prompts are computed once; each answer continues from a copy of them.

    Args:
        model: a causal language model of transformers.
        ids: the prompts ``(B, P)``, padded at their beginning.
        mask: the mask of the prompts ``(B, P)``.
        answers: C answers as tokens.
    """
    prompt = last_logits(model, ids, mask, 1, use_cache=True)
    first = prompt.logits[:, 0].float().log_softmax(dim=-1)
    columns = []
    for answer in answers:
        tokens = torch.tensor(answer, device=ids.device)
        likelihood = first[:, tokens[0]]
        if len(answer) > 1:
            given = tokens[:-1].expand(len(ids), -1)
            longer = torch.cat([mask, torch.ones_like(given)], dim=1)
            held = copy.deepcopy(prompt.past_key_values)
            output = last_logits(
                model, given, longer, given.shape[1], past_key_values=held, use_cache=True
            )
            after = output.logits.float().log_softmax(dim=-1)
            wanted = tokens[1:].expand(len(ids), -1)[..., None]
            likelihood = likelihood + after.gather(2, wanted)[..., 0].sum(dim=1)
        columns.append(likelihood)
    return torch.stack(columns, dim=1)
