"""Turning texts into token ids: many in one call, each text once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TEXTS = 500_000
"""Number of remembered texts above which all are forgotten."""

ENOUGH = 1000
"""Number of tokens in one call below which the share of unknown ones is not judged."""

MANY_UNKNOWN = 0.05
"""Share of unknown tokens from which on the user is told."""

TOO_MANY_UNKNOWN = 0.5
"""Share of unknown tokens from which on the tokenizer is refused."""


class TextEncoder:
    """A fast tokenizer that remembers what it has tokenised.

    Tokenising all prompts of MELD in one call takes 0.4 to 0.5 of the processor time of two calls
    per dialogue: half of the prompts are repeated, and no offsets are computed.

    A pickle of it does not contain what it remembers.
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
            ErcBenchError: half of their tokens, or more, are unknown to the tokenizer.
        """
        if len(self._known) > MOST_TEXTS:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            ids = _tokenised(self.tokenizer, new)
            self._check_known(new, ids)
            self._known.update(zip(new, ids, strict=True))

    def ids(self, texts: Iterable[str], max_len: int = 0) -> list[list[int]]:
        """Token ids of each text with its special tokens, as ``tokenizer(texts)`` gives them.

        With ``max_len``, the end of a longer text is cut off, so that it has ``max_len`` tokens
        including the special ones.
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
        """Token ids of each text as the continuation of another text.

        They lack the special tokens that begin a sequence, and have those that end a text.
        """
        first = len(self.before)
        return [ids[first:] for ids in self._lookup(texts)]

    def _check_known(self, texts: list[str], ids: list[list[int]]) -> None:
        """Tell the user if many tokens are unknown; raise if half of them or more are."""
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
    """Turn a panic of the tokenizers library, which is not an ``Exception``, into a ValueError.

    Raises:
        ValueError: there was a panic; the message is the panic's.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class can't be imported
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
    """Yield a letter, then the vocabulary's own entries in case it lacks that letter."""
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
        # Half of a surrogate pair is not a character, and the tokenizer does not take it.
        found = backend.encode_batch_fast(
            [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts],
            add_special_tokens=special,
        )
    return [one.ids for one in found]
