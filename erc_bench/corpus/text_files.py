"""Reading the files of a corpus, with errors that name the file and the line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from erc_bench.errors import ErcBenchError, listed, quoted

T = TypeVar("T")

STANDARD_INPUT = "standard input"

MISSING = frozenset(("", "nan", "none", "null", "n/a", "na", "<na>", "-"))
"""What programs write for a missing value, in lower case."""

# UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends untouched.

    Raises:
        ErcBenchError: the file can't be read, or a byte is not UTF-8 (names its line).
    """
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ErcBenchError(f"{path} can't be read: {error.strerror}.") from error


def read_given(name: str) -> tuple[str, str]:
    """The text of a file that a user names (``-``: standard input), and its name for errors."""
    if name == "-":
        return decoded(sys.stdin.buffer.read(), STANDARD_INPUT), STANDARD_INPUT
    return read_text(Path(name)), name


def decoded(data: bytes, where: str, line: int = 1) -> str:
    """Decode UTF-8 text, without its byte-order mark.

    UTF-16 and UTF-32 are decoded too if the text begins with their byte-order mark.

    Args:
        data: the bytes.
        where: what they were read from.
        line: the number of their first line.

    Raises:
        ErcBenchError: the bytes are not text; the message names the line if it is known.
    """
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    try:
        if marked:
            return data.decode(marked)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if marked:
            raise ErcBenchError(
                f"{where}: its byte-order mark says {marked.upper()}, but its bytes are not "
                f"({error.reason}). Save it as UTF-8."
            ) from error
        if b"\0" in data or any(map(data.startswith, _FORMATS)):
            raise ErcBenchError(_no_text(data, where, line)) from error
        line += _line_ends(data[: error.start])
        raise ErcBenchError(
            f"{where}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text. "
            "Save the file as UTF-8."
        ) from error
    if "\0" in text:
        raise ErcBenchError(_no_text(data, where, line))
    return text


_FORMATS = {
    b"PK\x03\x04": "a ZIP archive, such as an Excel workbook or .npz",
    b"PAR1": "Parquet, whose name ends with .parquet",
    b"\x1f\x8b": "compressed by gzip",
    b"\x93NUMPY": "an array of NumPy",
    **{bytes((0x80, protocol)): "a pickle" for protocol in range(2, 6)},
}
"""First bytes of files that are not text, and what such files are."""


def _no_text(data: bytes, where: str, line: int) -> str:
    """The error message for bytes that are not text. In UTF-16 every other byte is zero."""
    if kind := next((kind for start, kind in _FORMATS.items() if data.startswith(start)), ""):
        return f"{where} is no text but {kind}. Save it as CSV or JSON."
    zeros = max(data[::2].count(0), data[1::2].count(0))
    if zeros > 0.4 * (len(data) / 2):
        return f"{where} looks like UTF-16 without a byte-order mark. Save it as UTF-8."
    line += _line_ends(data[: data.index(0)])
    return f"{where}, line {line}: a zero byte, so this is not text, or the file is damaged."


def _line_ends(data: bytes) -> int:
    return len(re.findall(rb"\r\n|\r|\n", data))


def lines_of(text: str) -> list[str]:
    """The lines of a text, which end with LF, CRLF or CR only.

    A form feed or U+2028 inside a turn is a part of the turn.
    """
    return re.split(r"\r\n|\r|\n", text)


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield every row of a CSV file: its place (``"file, line 7"``) and the named columns in order.

    Raises:
        ErcBenchError: a column is missing, a row has too few or too many fields, or a quoted field
            never ends (as in a truncated file).
    """
    name = str(path)
    header, rows = _csv(read_text(path), name, columns, ",")
    places = [header.index(column) for column in columns]
    for line, row in rows:
        yield f"{name}, line {line}", [row[place] for place in places]


SEPARATORS = "\t,;|"
"""The characters that may separate the fields of a table."""


def separator_of(text: str) -> str:
    """The character that separates the fields of a table; empty if its header has none.

    It is a tab if the header has one, else the most frequent one of :data:`SEPARATORS` outside
    quotes.
    """
    head = re.sub(r'"[^"]*"', "", next(filter(str.strip, lines_of(text)), ""))
    found = "\t" if "\t" in head else max(SEPARATORS, key=head.count)
    return found if found in head else ""


def csv_table(text: str, name: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of CSV text, and every row: the number of its last line, its fields by column.

    Args:
        text: the text. Its first line is the header, which also shows the separator.
        name: what errors call the text.

    Raises:
        ErcBenchError: as :func:`read_csv`; or a quoted field of a tab-separated text seems to hold
            several rows.
    """
    text = re.sub(r"\Asep=.(?=\r|\n)", "", text)  # tells Excel the separator
    header, rows = _csv(text, name, (), separator_of(text) or ",")
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows]


def _csv(
    text: str, name: str, columns: Sequence[str], delimiter: str
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header of CSV text, and every row: the number of its last line, its fields."""
    if "\n" not in text:
        text = text.replace("\r", "\n")  # the line ends of an old Mac
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        header = next(filter(None, reader), [])  # there may be empty lines above it
    except csv.Error as error:
        raise _csv_error(error, name, reader.line_num, delimiter) from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise ErcBenchError(
            f"{name}, line 1: the column {', '.join(map(repr, missing))} is missing; "
            f"found: {listed(header)}."
        )
    again = [column for column, times in Counter(header).items() if column and times > 1]
    if again:
        raise ErcBenchError(f"{name}, line 1: the column {quoted(again[0])} occurs more than once.")
    return header, _csv_body(reader, len(header), name, delimiter)


def _csv_body(
    reader: Any, width: int, name: str, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    first = reader.line_num + 1
    try:
        for row in reader:
            if delimiter == "\t" and any("\t" in f and re.search(r"[\r\n]", f) for f in row):
                raise ErcBenchError(
                    f"{name}, line {first}: a field that a double quote opens goes on to line "
                    f"{reader.line_num} and holds tabs, so it seems to hold several rows. "
                    f"{_QUOTES} Take tabs out of texts of several lines."
                )
            first = reader.line_num + 1
            if len(row) == width:
                yield reader.line_num, row
            elif row:
                raise ErcBenchError(
                    f"{name}, line {reader.line_num}: {len(row)} fields instead of {width}; "
                    f"{_odd_row(row, width)}."
                )
    except csv.Error as error:
        raise _csv_error(error, name, reader.line_num, delimiter) from error


_QUOTES = (
    "If a text begins with a double quote, put the field in double quotes, and write each double "
    "quote in it twice."
)


def _csv_error(error: csv.Error, name: str, line: int, delimiter: str) -> ErcBenchError:
    """The error for CSV text that the reader could not parse."""
    reason = f"{error}."
    if "end of data" in reason:
        reason = "a double quote opens a field above, and none closes it; or the file is truncated."
    elif "expected after" in reason:
        separator = "tab" if delimiter == "\t" else repr(delimiter)
        reason = f"no {separator} behind the double quote that closes a field. {_QUOTES}"
    return ErcBenchError(f"{name}, line {line}: {reason}")


def _odd_row(row: list[str], width: int) -> str:
    """What is probably wrong with a row that has more or fewer fields than the header."""
    if row[0].lstrip().startswith("#"):
        return "CSV has no comments, so take the line out"
    if len(row) < width:
        return "the file looks truncated"
    if not any(row[width:]):
        return "the line ends with one separator more than the header; remove it"
    return "a field that holds the separator must be in double quotes"


def whole_number(text: str, what: str, where: str) -> int:
    """The number that a field holds, as :func:`as_whole` reads it.

    Raises:
        ErcBenchError: it is not a whole number, or negative.
    """
    number = as_whole(text)
    if number is None:
        raise ErcBenchError(f"{where}: {what} must be a whole number, not {quoted(text)}.")
    return number


def as_whole(text: str) -> int | None:
    """The whole number that a text is; None if it is not one.

    ``007`` and ``12.0`` (which pandas writes for 12) are whole numbers.
    """
    if text.isdecimal():
        return int(text) if len(text) < 19 else None
    match = re.fullmatch(r"\s*(\d{1,18})(?:\.0*)?\s*", text)
    return int(match[1]) if match else None


def read_json(path: Path) -> Any:
    """The contents of a JSON file; the error for one that does not parse names the line."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, name: str) -> Any:
    """The contents of JSON text; ``name`` is what errors call it.

    Raises:
        ErcBenchError: it does not parse, an object has a key twice (one value would be lost), or
            it holds half of a character (a lone surrogate).
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ErcBenchError(f"{name}: half of a character is not text ({error.reason}).") from error
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        odd = odd_json(text, error) if isinstance(error, json.JSONDecodeError) else ""
        raise ErcBenchError(f"{name}, line {line}: not valid JSON ({error}){odd}.") from error
    return value


def odd_json(text: str, error: json.JSONDecodeError) -> str:
    """The probable reason why JSON does not parse, to end the parser's message with; or empty."""
    before, rest = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if (rest[:1] in tuple("]}") and before.endswith(",")) or rest.strip() == ",":
        return "; JSON has no comma behind the last entry, so take it out"
    if rest[:1] == "#" or rest[:2] in ("//", "/*"):
        return "; JSON has no comments, so take them out"
    if rest[:1] == "'":
        return "; JSON has double quotes, not single ones"
    opened = rest[:1] == '"'  # a string that never ends
    return "; the file looks truncated" if not rest or opened else ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {quoted(key)} occurs twice in one object")
    return found


def expect(value: Any, kind: type[T], where: str) -> T:
    """``value`` if it is a ``kind``; otherwise an error that names its place is raised."""
    if not isinstance(value, kind):
        given = "null" if value is None else type(value).__name__
        raise ErcBenchError(
            f"{where}: JSON of the wrong shape, {given} instead of {kind.__name__}."
        )
    return value


def field(record: Any, key: str, kind: type[T], where: str) -> T:
    """``record[key]``, which must be there and be a ``kind``."""
    if key not in expect(record, dict, where):
        raise ErcBenchError(f"{where}: JSON of the wrong shape, no {key!r} among {listed(record)}.")
    return expect(record[key], kind, f"{where}, {key!r}")


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Any, int]]:
    """A YAML mapping, and the line of each of its keys; ``name`` is what errors call it.

    Raises:
        ErcBenchError: it is not a mapping, or a key occurs twice; the message names the line.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        sheet = None if tree is None else loader.construct_document(tree)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ErcBenchError(f"{name}{line}: not valid YAML ({reason}).") from error
    if tree is None or not isinstance(sheet, dict):
        raise ErcBenchError(f"{name}: it must be a mapping, `name: …`, and so on.")
    for _, inner in tree.value:
        if isinstance(inner, yaml.MappingNode):
            _lines_of_keys(inner, name)
    return sheet, _lines_of_keys(tree, name)


def _lines_of_keys(mapping: Any, name: str) -> dict[Any, int]:
    """The line of each key of a mapping, given as a YAML node."""
    lines: dict[Any, int] = {}
    for key, _ in mapping.value:
        if key.value in lines:
            raise ErcBenchError(
                f"{name}, line {key.start_mark.line + 1}: the key {key.value!r} occurs twice, "
                f"first in line {lines[key.value]}."
            )
        lines[key.value] = key.start_mark.line + 1
    return lines
