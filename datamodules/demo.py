"""A made-up corpus to try everything on: it needs no files, and no result on it means anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from erc_bench.corpus.conversation import Dialogue, LabelSet, Utterance
from erc_bench.corpus.source import CorpusSource

T = TypeVar("T")

SEED = 7
TEMPERAMENTS = {
    "warm": ("Ilse", "Tomas"),
    "calm": ("Priya", "Oskar"),
    "anxious": ("Wendla", "Marek"),
    "prickly": ("Greta", "Bruno"),
}
TEMPERAMENT_OF = {name: kind for kind, names in TEMPERAMENTS.items() for name in names}
BAD_NEWS = ("anger", "disgust", "fear", "sadness")
SUBJECTS = (
    "the bakery", "the choir", "the ferry", "my landlord", "the new flat", "the allotment",
    "the night bus", "our neighbour", "the piano", "the school play", "the boiler", "the market",
    "my cousin", "the letter", "the garden party", "the swimming pool", "the old bicycle",
    "the harbour", "the exam", "the soup", "the clinic", "the parcel", "the attic", "the wedding",
)  # fmt: skip
OPENERS = ("", "", "", "Well, ", "You know, ", "Listen, ", "So, ", "By the way, ")
# Sentences whose words alone tell the emotion; {s} is the subject of the dialogue.
TELLING = {
    "anger": (
        "I am furious about {s}!", "{s} makes me so angry I could scream.",
        "how dare they! I am fed up with {s}.", "I have had enough of {s}, it is outrageous!",
        "I could throw something, {s} drives me mad.", "I am still fuming over {s}.",
    ),
    "disgust": (
        "ugh, {s} is revolting.", "{s} made me feel sick, it smelled so foul.",
        "it turns my stomach just to think of {s}.", "yuck, there was mould all over {s}.",
        "I find {s} utterly disgusting.", "{s} was filthy and slimy, I nearly gagged.",
    ),
    "fear": (
        "I am terrified of what happens with {s}.", "{s} scares me to death.",
        "I am shaking, I am so afraid about {s}.", "I am frightened, what if we lose {s}?",
        "I panic whenever I think of {s}.", "{s} gives me nightmares, I dread it.",
    ),
    "joy": (
        "I am so happy about {s}!", "{s} is wonderful, I love it!",
        "hooray, {s} turned out great!", "I am delighted, {s} is just lovely.",
        "I could dance, {s} made my day!", "what a marvellous time I had, thanks to {s}!",
    ),
    "neutral": (
        "{s} is on Tuesday at ten.", "I will pass by {s} in the afternoon.",
        "they said {s} takes about an hour.", "I put the address of {s} on the table.",
        "{s} is next to the post office.", "I wrote down the number for {s}.",
    ),
    "sadness": (
        "I cried all night over {s}.", "I am heartbroken about {s}.",
        "I miss how {s} used to be, it is so sad.", "I feel so low since {s} is gone.",
        "it breaks my heart to think of {s}.", "I am miserable, I have lost {s}.",
    ),
    "surprise": (
        "wow, I never expected that from {s}!", "I can't believe it, what a surprise, {s}!",
        "out of the blue, guess what: {s}!", "I was astonished by {s}!",
        "good heavens, I had no idea about {s}!", "nobody saw it coming, {s}, of all things!",
    ),
}  # fmt: skip
# Short replies that fit every emotion: it depends on the speaker and on what was told before.
REPLIES = (
    "Oh.", "Oh, really?", "Is that so?", "I see.", "Well, well.", "You don't say.", "Again?",
    "Tell me more.", "And then?", "So that is how it is.", "Since when?", "Hm, {s}.",
    "{s}, you say?", "What did you say?", "Right.", "Did you tell {n}?", "Go on.",
    "That was today?", "Okay.", "I thought so, {n}.", "Of all days.", "It had to be {s}.",
    "Mm.", "Say that again, {n}.",
)  # fmt: skip


def reaction(name: str, news: str) -> str:
    """Return the emotion of a speaker's short reply to what was last told with emotion ``news``.

    Warm speakers share the feeling, calm ones stay neutral. To bad news anxious speakers react with
    fear and prickly ones with anger; otherwise both share the feeling.
    """
    temperament = TEMPERAMENT_OF[name]
    if temperament == "calm":
        return "neutral"
    if temperament == "warm" or news not in BAD_NEWS:
        return news
    return "fear" if temperament == "anxious" else "anger"


def pick(rng: Random, choices: Sequence[T]) -> T:
    """Return one of ``choices``.

    It is drawn by ``Random.random``, the only method that is the same on every Python version.
    """
    return choices[int(rng.random() * len(choices))]


def converse(rng: Random, key: str, labels: LabelSet) -> Dialogue:
    """Return a dialogue of 4–14 turns with 2–4 speakers, who tell something or reply to it."""
    cast: list[str] = []
    wanted = 2 + int(rng.random() * 3)
    while len(cast) < wanted:
        name = pick(rng, tuple(TEMPERAMENT_OF))
        if name not in cast:
            cast.append(name)
    subject = pick(rng, SUBJECTS)
    turns: list[Utterance] = []
    news, speaker, replies = "neutral", "", 0
    for number in range(4 + int(rng.random() * 11)):
        previous = speaker
        speaker = pick(rng, [name for name in cast if name != previous])
        if number == 0 or replies == 2 or (replies and rng.random() < 0.35):
            news, replies = pick(rng, labels.names), 0
            if rng.random() < 0.3:
                subject = pick(rng, SUBJECTS)
            text = pick(rng, OPENERS) + pick(rng, TELLING[news]).format(s=subject)
            emotion = news
        else:
            replies += 1
            text = pick(rng, REPLIES).format(s=subject, n=previous)
            emotion = reaction(speaker, news)
        text = text[0].upper() + text[1:]
        turns.append(Utterance(f"{key}-u{number}", speaker, text, labels.index(emotion)))
    return Dialogue(key, tuple(turns))


class Demo(CorpusSource):
    """Generated dialogues in which words, speaker and context decide the emotion.

    - Data: 300 dialogues from templates, with 4–14 turns and 2–4 of eight speakers. They are
      generated on demand, the same on every machine.
    - Format: none, there are no files.
    - Classes: Ekman's six emotions and neutral. Some turns tell something in words that give the
      emotion away. The emotion of the short replies to them depends on the speaker's temperament
      and on what was told (:func:`reaction`), so a model needs the context and the speakers.
    - Split: 200/40/60 dialogues with the same speakers.

    It shows that the machinery works. Scores on it are no benchmark result.
    """

    name = "demo"
    labels = LabelSet(("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"))
    description = "generated dialogues to try things on; its scores mean nothing"
    classes = "Ekman's six emotions and neutral, by the generator's rules"
    licence = "Apache-2.0"
    homepage = "part of erc-bench"
    citation = "none: not a benchmark"
    release = "generated, seed 7"
    sizes: Mapping[str, int] = {"train": 200, "dev": 40, "test": 60}

    def parse(self, paths: Mapping[str, Path]) -> dict[str, list[Dialogue]]:
        rng = Random(SEED)
        return {
            split: [converse(rng, f"{split}-d{d}", self.labels) for d in range(size)]
            for split, size in self.sizes.items()
        }
