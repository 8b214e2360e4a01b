"""How much of a test split a model may have seen in training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from erc_bench.corpus.conversation import Dialogue

LONG = 5
"""A text of more words than this (separated by spaces) is unlikely to recur by chance."""


@dataclass(frozen=True)
class Seen:
    """How many texts occur in another set of texts too: of all texts, and of the long ones."""

    found: int
    total: int
    long_found: int
    long_total: int

    def __str__(self) -> str:
        share = 100 * self.found / max(self.total, 1)
        long_share = 100 * self.long_found / max(self.long_total, 1)
        return (
            f"{share:.1f} % ({self.found} of {self.total}); of those longer than {LONG} words "
            f"{long_share:.1f} % ({self.long_found} of {self.long_total})"
        )


def words_only(text: str) -> str:
    """The text in lower case without punctuation, to compare transcripts by different people."""
    return " ".join(re.findall(r"\w+", text.lower()))


def seen(texts: Iterable[str], others: Iterable[str], verbatim: bool = True) -> Seen:
    """Count the ``texts`` that occur among ``others``; unless ``verbatim``, compare words only.

    Whether a text is long is decided on the text as it is printed.
    """
    form = str if verbatim else words_only
    known = {form(text) for text in others}
    hits = [(form(text) in known, len(text.split()) > LONG) for text in texts]
    return Seen(
        sum(hit for hit, _ in hits),
        len(hits),
        sum(hit for hit, long in hits if long),
        sum(long for _, long in hits),
    )


def shared_dialogues(dialogues: Iterable[Dialogue], others: Iterable[Dialogue]) -> int:
    """How many dialogues have, text for text, the same turns as one of ``others``."""
    known = {tuple(u.text for u in dialogue.utterances) for dialogue in others}
    return sum(tuple(u.text for u in d.utterances) in known for d in dialogues)
