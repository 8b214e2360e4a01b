"""Lines of transcripts and of chat exports: who speaks, at what time, and what is said.

A time before or after the speaker, as in transcripts and chat exports, is left out. So are the
marks of lists, of Markdown and of chats (``1. Ann: …``, ``**Ann:** …``, ``<Ann> …``). So are line
numbers, if all lines have one (``1<TAB>Ann: …``, ``Turn 1 - Ann: …``). If the text before the colon
is not a speaker (a stage direction, a URL, a sentence), the line is an error.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from erc_bench.errors import ErcBenchError, quoted

_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
HEADER = re.compile(  # Speaker: Text
    r"(?:speaker|name|role|user|who|author|sender)\s*[:\uff1a]\s*(?:text|utterance|message|content|line)",
    re.IGNORECASE,
)
_LIST = re.compile(r"(?:\d{1,4}[.)]|[-\u2013\u2014\u2022\u2023\u00b7])\s+(?=\S)")
_NUMBER = re.compile(
    r"[(\[#]?(?:(?:line|turn|utterance|no\.?|nr\.?)\s*|[ltu])?(\d{1,6})[)\]]?"
    r"\s*[:.|\u2013\u2014-]?(?:\s+|$)",
    re.IGNORECASE,
)
_TAGS = ("a", "b", "br", "div", "em", "font", "i", "p", "span", "strong", "u", "v")
_MARKED = re.compile(  # **Ann:** hi, **Ann**: hi, *Ann:* hi
    r"(?:(\*\*|__)([^*_:]+)(?::\s*\1|\1\s*:)|([*_])([^*_:]+):\s*\3)(?![*_])"
)
_IRC = re.compile(r"<\s*([^<>:/]+?)\s*>\s+")
_BRACKETED = re.compile(r"\[\s*([^\W_a-z][^\[\]:\s]*(?: [^\W_a-z][^\[\]:\s]*)?)\s*\]\s*:")
_ZOOM = re.compile(r"From\s+(\S.*?)\s+to\s+\S.*", re.IGNORECASE)

_CLOCK = (
    r"\d{1,2}[:.h]\d{2}(?:[:.]\d{2}(?:[.,]\d{1,6})?|[.,]\d{3})?"
    r"(?:\s*[AaPp]\.?\s?[Mm]\b\.?)?"
)
_DAY = r"(?:(?:[^\W\d_]+day|[^\W\d_]+tag|Mon|Tue|Wed|Thu|Fri|Sat|Sun)\.?,?\s+)?"
_MONTH = r"[^\W\d_]{3,10}\.?"
_DATE = (
    rf"{_DAY}(?:\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}"
    r"|\d{1,2}[-/.]\s?\d{1,2}(?:[-/.]\s?\d{2,4}\.?)?"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:de\s+)?{_MONTH},?\s+(?:de\s+)?\d{{4}})"
)
_ZONE = r"(?:\s?(?:Z|UTC|GMT))?(?:[+-]\d{2}:?\d{2})?"
_RANGE = r"\s*(?:-{1,2}>|[-\u2013])\s*"
_MOMENT = (
    rf"(?:(?:{_DATE}(?:,?\s+|T)(?:at\s+|um\s+)?)?{_CLOCK}{_ZONE}(?:{_RANGE}{_CLOCK})?"
    r"|\d+(?:\.\d+)?s?\s*-{1,2}>\s*\d+(?:\.\d+)?s?"
    r"|1\d{9}(?:\d{3})?(?:\.\d+)?(?![\d:\uff1a]))"  # seconds or milliseconds since 1970
)
_TIME = re.compile(
    rf"(?P<open>[\[(<])?\s*{_MOMENT}\s*(?(open)[\])>])\s*(?:[-\u2013\u2014|]\s+)?(?=\S)"
)
_NAME = r"(?P<name>[^\s:\uff1a\[(<](?:[^:\uff1a\[(<]*?[^\s,:\uff1a\[(<])?)"
_TIME_BEHIND = re.compile(
    rf"(?=.*\d:\d|.*1\d{{9}}){_NAME}(?:,?\s*(?=[\[(<])|,?\s+)(?P<open>[\[(<])?\s*{_MOMENT}\s*(?(open)[\])>])\s*"
    r"(?P<colon>[:\uff1a]?)(?P<text>.*)"
)
_PREPOSITIONS = frozenset((
    "about", "after", "around", "at", "before", "by", "from", "is", "it's", "since", "till", "to",
    "until", "um", "was",
))  # fmt: skip


def bare_line(line: str) -> str:
    """A line without invisible characters, and without the mark of a list at its start."""
    line = _INVISIBLE.sub("", line).strip()
    return (
        line if _TIME.match(line) else _LIST.sub("", line, count=1) if _LIST.match(line) else line
    )


def _behind(line: str) -> re.Match[str] | None:
    """Match a line with a time after the speaker, ``Ann (00:01:02): …``."""
    match = _TIME_BEHIND.fullmatch(line)
    if match is None or match["name"].split()[-1].lower() in _PREPOSITIONS:
        return None
    return match


def speaker_heading(line: str) -> str:
    """The speaker of a line of only speaker and time, ``Ann, [31 Dec 2020 21:15]:``, or ""."""
    match = None if _TIME.match(line) else _behind(line)
    return match["name"] if match and not match["text"].strip() else ""


def without_time(line: str) -> str:
    """A line without its time: ``[0:01:02] Ann: …``, ``31.12.20, 21:15 - Ann: …``, ``Ann 9:15: …``.

    A number that is not a time stays: ``1: Hello.`` is a turn of speaker 1.
    """
    match = _TIME.match(line)
    if match is not None and re.match(r"[\s\])>|\u2013\u2014-]", line[match.end() - 1 :]):
        return line[match.end() :]
    match = _behind(line)
    return f"{match['name']}:{match['text']}" if match and match["colon"] else line


def speaker_and_text(line: str) -> tuple[str, str, str]:
    """Speaker, colon and text of a line; the colon is empty if the line has none."""
    bare = without_time(line)
    marked = _MARKED.match(bare)
    if marked:
        return (marked[2] or marked[4]).strip(), ":", bare[marked.end() :]
    irc = _IRC.match(bare)
    if irc and irc[1].lower().split()[0] not in _TAGS:
        return irc[1], ":", bare[irc.end() :]
    bracketed = _BRACKETED.match(bare)
    if bracketed:
        return bracketed[1], ":", bare[bracketed.end() :]
    speaker, colon, text = re.fullmatch(r"([^:\uff1a]*)([:\uff1a]?)(.*)", bare, re.DOTALL).groups()  # type: ignore[union-attr]
    zoom = _ZOOM.fullmatch(speaker.strip())
    speaker = zoom[1] if zoom else speaker.strip()
    return unicodedata.normalize("NFC", speaker), colon, text


def check_speaker(speaker: str, text: str, line: str, where: str) -> None:
    """Refuse a line whose text before the colon is not a speaker.

    Raises:
        ErcBenchError: it is not; the message says what it is instead.
    """
    doubt = _no_speaker(speaker, text)
    if doubt:
        remedy = "Take the line out"
        if "time" in doubt:
            remedy = "Write the time as `[00:01:02] Ann: text` or leave it out"
        elif "heading of a dialogue" in doubt:
            remedy = "Write several dialogues as a table with a column `dialogue`"
        elif "tab" in doubt:
            remedy = "Take out the text before the tab"
        raise ErcBenchError(
            f"{where}: {doubt}, so this is not `Speaker: text`: {quoted(line.strip(), 40)}. "
            f'{remedy}, or give the turn as JSON, {{"speaker": …, "text": …}}, where a speaker '
            "can have any name."
        )


_SCHEMES = r"(?:mailto|tel|sms|news|urn|data|file|javascript|magnet|skype|xmpp|sip|about)"
_SCREENPLAY = re.compile(
    r"(?:scene|act|chapter|episode)(?:\s+\S+)?|(?:setting|stage directions?|title|synopsis)"
    r"|(?:int|ext)(?:[./]| .* - ).*|(?:smash )?(?:cut|fade|dissolve)s? (?:to|in|out)\b.*",
    re.IGNORECASE,
)
_DIALOGUE = re.compile(
    r"(?:dialog(?:ue)?|conversation|session|chat|call|transcript)\s*#?\d+", re.IGNORECASE
)
_SYSTEM = re.compile(
    r".*\S (?:(?:has |have |was |were )?(?:added|removed|left|joined|changed|created|deleted|"
    r"pinned|renamed|invited)|set the|started a|missed|turned o(?:n|ff))\b.*|.*\bencrypted\b.*"
)
_PAIRS = ("()", "[]", "{}", "<>", "\u201c\u201d", "\u00ab\u00bb")


def _no_speaker(speaker: str, text: str) -> str:
    """Why the text before the first colon of a line can't be a speaker; empty if it can."""
    if text.startswith("//") and re.search(r"(?:^|\W)[A-Za-z][A-Za-z0-9+.-]*$", speaker):
        return "the first colon is a URL's"
    if re.search(rf"(?:^|\W){_SCHEMES}$", speaker, re.IGNORECASE) and text[:1].strip():
        return "the first colon is a URL's"
    if re.fullmatch(r"(?:.*\W)?[A-Za-z]", speaker) and text[:1] in tuple("\\/"):
        return "the first colon is a path's"
    if speaker[:1] in tuple("[({<*#>|~") or (speaker[:1] == "_" and text.endswith("_")):
        return f"it begins with {speaker[:1]!r}, as a stage direction or a remark does"
    if re.search(r"-->", f"{speaker}:{text}"):
        return "it is the time of a subtitle"
    if re.search(r"\d$", speaker) and re.match(r"\d", text):
        return "the first colon is a time's"
    if re.fullmatch(r"1\d{9}(?:\d{3})?(?:\.\d+)?", speaker):
        return "the text before the first colon is a time, seconds since 1970"
    if _SCREENPLAY.fullmatch(speaker):
        return "this is the heading of a scene"
    if _DIALOGUE.fullmatch(speaker):
        return "this is the heading of a dialogue"
    if "\t" in speaker:
        return "there is a tab before the first colon"
    if _SYSTEM.fullmatch(speaker):
        return "this is a message of the chat program"
    odd = any(speaker.count(pair[0]) != speaker.count(pair[1]) for pair in _PAIRS)
    if odd or speaker.count('"') % 2:
        return "a bracket or a quotation is open before the first colon"
    if re.search("[!?…]", speaker) or len(speaker.split()) > 6:
        return "the text before the first colon is a sentence"
    return ""


def without_numbers(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Remove line numbers from lines (``1<TAB>Ann: …``, ``L1: Ann: …``).

    They are removed if every line has one, each is greater than the one before, and most are
    followed by a turn. A line that holds only its number is removed.
    """
    seen = [_INVISIBLE.sub("", line).strip() for _, line in lines]
    found = [match for line in seen if not _TIME.match(line) and (match := _NUMBER.match(line))]
    numbers = [int(match[1]) for match in found]
    if len(found) < len(lines) or any(b <= a for a, b in pairwise(numbers)):
        return lines
    bare = [
        (n, match.string[match.end() :])
        for (n, _), match in zip(lines, found, strict=True)
        if match.end() < len(match.string)
    ]
    is_count = len(bare) > 1 and most_are_turns([bare_line(line) for _, line in bare])
    return bare if is_count else lines


def most_are_turns(lines: list[str]) -> bool:
    """Whether most lines are turns with a speaker; lines of only speaker and time do not count."""
    below = [speaker_and_text(line) for line in lines if not speaker_heading(line)]
    turns = sum(bool(colon) and not _no_speaker(who, text) for who, colon, text in below)
    return turns > len(below) / 2
