"""Reading the files of a corpus, so that whatever is wrong with one is named by file and line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from erc_bench.errors import ErcBenchError

T = TypeVar("T")

STANDARD_INPUT = "standard input"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends untouched.

    Raises:
        ErcBenchError: the file can not be read, or a byte is not UTF-8 (names its line).
    """
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ErcBenchError(f"{path} can not be read: {error.strerror}.") from error


def read_given(name: str) -> tuple[str, str]:
    """The text of a file that a user names, ``-`` being standard input, and what to call it."""
    if name == "-":
        return decoded(sys.stdin.buffer.read(), STANDARD_INPUT), STANDARD_INPUT
    return read_text(Path(name)), name


def decoded(data: bytes, where: str, line: int = 1) -> str:
    """UTF-8 text without its byte-order mark; a byte that is none is named by its line.

    Args:
        data: the bytes.
        where: what they were read from.
        line: the number of their first line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ErcBenchError(
            f"{where}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text."
        ) from error


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Every row of a CSV file as its place (``"file, line 7"``) and the named columns, in order.

    Raises:
        ErcBenchError: a column is missing, a row has too few or too many fields, or a quotation
            never ends (what a truncated file looks like).
    """
    for where, row in csv_rows(read_text(path), str(path), columns):
        yield where, [row[column] for column in columns]


def csv_rows(text: str, name: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row of CSV text as its place and its fields by column; errors as :func:`read_csv`'s.

    Args:
        text: the text, its first line the header.
        name: what errors call it.
        columns: those that must be there.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise ErcBenchError(
                f"{name}, line 1: the column {', '.join(map(repr, missing))} is missing; "
                f"there is: {', '.join(header) or 'nothing'}."
            )
        again = [column for column, times in Counter(header).items() if column and times > 1]
        if again:
            raise ErcBenchError(f"{name}, line 1: the column {again[0]!r} stands more than once.")
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise ErcBenchError(
                    f"{where}: {len(row)} fields instead of {len(header)}; "
                    "the file looks truncated."
                )
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ErcBenchError(f"{name}, line {reader.line_num}: {error}.") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file; one that does not parse is an error that names the line."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, name: str) -> Any:
    """The contents of JSON text that errors call by its name."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        cut = "; the file looks truncated" if isinstance(error, json.JSONDecodeError) else ""
        raise ErcBenchError(f"{name}, line {line}: not valid JSON ({error}){cut}.") from error


def expect(value: Any, kind: type[T], where: str) -> T:
    """``value`` if it is a ``kind``; otherwise JSON of the wrong shape, named by its place."""
    if not isinstance(value, kind):
        raise ErcBenchError(
            f"{where}: JSON of the wrong shape, {type(value).__name__} instead of {kind.__name__}."
        )
    return value


def field(record: Any, key: str, kind: type[T], where: str) -> T:
    """``record[key]``, which must be there and be a ``kind``."""
    if key not in expect(record, dict, where):
        raise ErcBenchError(
            f"{where}: JSON of the wrong shape, no {key!r} among {', '.join(record) or 'nothing'}."
        )
    return expect(record[key], kind, f"{where}, {key!r}")
