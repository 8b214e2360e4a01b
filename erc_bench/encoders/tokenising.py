"""Texts to token ids: many in one call, each text once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TEXTS = 500_000
"""Texts remembered at most; then all are forgotten."""

ENOUGH = 1000
"""Tokens of one call from which on it tells something how many of them are unknown."""

MANY_UNKNOWN = 0.05
"""Share of unknown tokens that is said."""

TOO_MANY_UNKNOWN = 0.5
"""Share of unknown tokens from which on the tokenizer is not one for these texts."""


class TextEncoder:
    """A fast tokenizer that remembers what it has tokenised.

    Tokenising all prompts of MELD in one call takes 0.4 to 0.5 of the processor time of two calls
    of the tokenizer a dialogue: half of them are repeated, and no offsets are made.

    Pickling it leaves out what it remembers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.before, self.after = special_tokens(tokenizer)
        """Ids of the special tokens that stand before and after every text."""
        self._known: dict[str, list[int]] = {}
        self._warned = False

    def add(self, texts: Iterable[str]) -> None:
        """Tokenise texts beforehand, in one call.

        Raises:
            ErcBenchError: most of what they say is unknown to the tokenizer.
        """
        if len(self._known) > MOST_TEXTS:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            ids = _tokenised(self.tokenizer, new)
            self._check_known(new, ids)
            self._known.update(zip(new, ids, strict=True))

    def ids(self, texts: Iterable[str], max_len: int = 0) -> list[list[int]]:
        """Token ids of each text with its special tokens, those of ``tokenizer(texts)``.

        With ``max_len`` a text's end is cut off so that it has so many with its special tokens.
        """
        found = self._lookup(texts)
        if not max_len:
            return [list(ids) for ids in found]
        last = len(self.after)
        return [
            [*ids[: max_len - last], *self.after] if len(ids) > max_len else list(ids)
            for ids in found
        ]

    def continued(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each text where another text stands before it: without the special tokens
        that begin a sequence, with those that end a text."""
        first = len(self.before)
        return [ids[first:] for ids in self._lookup(texts)]

    def _check_known(self, texts: list[str], ids: list[list[int]]) -> None:
        """Say that many tokens of texts are unknown, and raise where most are."""
        around, unknown = len(self.before) + len(self.after), self.tokenizer.unk_token_id
        counts = [len(row) - around for row in ids]
        # Tokenizers without a token for what they don't know leave it out.
        lost = sum(
            not count and text.strip() != "" for text, count in zip(texts, counts, strict=True)
        )
        without = lost + (sum(row.count(unknown) for row in ids) if unknown is not None else 0)
        tokens = sum(counts) + lost
        if tokens < ENOUGH or without < MANY_UNKNOWN * tokens:
            return
        which = f"the tokenizer of the encoder {self.tokenizer.name_or_path}"
        said = (
            f"{100 * without / tokens:.0f} % of the {tokens:,} tokens of the texts are unknown to"
        )
        if without >= TOO_MANY_UNKNOWN * tokens:
            raise ErcBenchError(
                f"{said} {which}. Its files are another model's, or it is for another language: "
                "put the tokenizer files and the weights of one and the same model into its "
                "folder, or choose an encoder for the language of the texts."
            )
        if self._warned:
            return
        self._warned = True
        say(
            f"Note: {said} {which}, which reads them all alike. Check that its files belong to the "
            "weights, and that it is for the language of the texts."
        )

    def _lookup(self, texts: Iterable[str]) -> list[list[int]]:
        texts = list(texts)
        if not self._known.keys() >= set(texts):
            self.add(texts)
        return [self._known[text] for text in texts]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Make an ordinary error of a panic of the tokenizers library, which is no ``Exception``.

    Raises:
        ValueError: what the panic said.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it can't be imported
            raise
        raise ValueError(str(error)) from error


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids of the special tokens that a tokenizer puts before and after a text."""
    for text in _some_text(tokenizer):
        (bare,) = _tokenised(tokenizer, [text], special=False)
        if bare:
            break
    (whole,) = _tokenised(tokenizer, [text])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise ValueError("With special tokens the tokenizer reads a text differently.")


def separator(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that a tokenizer puts between two texts.

    Raises:
        ErcBenchError: it puts none there.
    """
    before, after = special_tokens(tokenizer)
    (bare,) = _tokenised(tokenizer, ["a"], special=False)
    pair = tokenizer.backend_tokenizer.encode("a", "a").ids
    between = pair[len(before) + len(bare) : len(pair) - len(bare) - len(after)]
    if not between:
        raise ErcBenchError(
            "The encoder's tokenizer puts nothing between two texts, so that a turn could not be "
            "told from those around it. Choose an encoder whose tokenizer knows pairs of texts, as "
            "those of BERT and RoBERTa do."
        )
    return between


def _some_text(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A letter; for a vocabulary that lacks even that, its own entries."""
    yield "a"
    yield from sorted(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens))


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool = True
) -> list[list[int]]:
    backend: Any = tokenizer.backend_tokenizer
    # A tokenizer's own file may say that everything is cut or padded.
    backend.no_truncation()
    backend.no_padding()
    try:
        found = backend.encode_batch_fast(texts, add_special_tokens=special)
    except TypeError:
        # A half of a surrogate pair, which is no character, can't be handed on.
        found = backend.encode_batch_fast(
            [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts],
            add_special_tokens=special,
        )
    return [one.ids for one in found]
