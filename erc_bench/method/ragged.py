"""Columns of rows that differ in length, taken and padded without a Python loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch


@dataclass(frozen=True)
class Ragged:
    """``n`` rows of different lengths: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    ``values`` is an array ``(total,)``, or again :class:`Ragged` (lists of lists).
    """

    values: Column
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of values of each row ``(n,)``."""
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> np.ndarray:
        """The row that each value belongs to ``(total,)``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def position_in_row(self) -> np.ndarray:
        """The position of each value inside its row ``(total,)``."""
        return np.arange(self.offsets[-1] - self.offsets[0]) - np.repeat(
            self.offsets[:-1] - self.offsets[0], self.lengths
        )

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        wanted = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(take(self.values, wanted), offsets)

    def pad(self, fill: float) -> np.ndarray:
        """Rows side by side, padded to the longest of them ``(n, longest)``."""
        if isinstance(self.values, Ragged):
            raise TypeError("Pad the inner rows first: they are ragged themselves.")
        padded = np.full((len(self), self.lengths.max(initial=0)), fill, self.values.dtype)
        padded[self.row_of_value, self.position_in_row] = self.values[
            self.offsets[0] : self.offsets[-1]
        ]
        return padded


Column: TypeAlias = "np.ndarray | Ragged"
Columns = Mapping[str, Column]


def take(column: Column, rows: np.ndarray) -> Column:
    """The given rows of a column."""
    return column.take(rows) if isinstance(column, Ragged) else column[rows]


def from_arrow(column: pa.Array | pa.ChunkedArray) -> Column:
    """A column of numbers, of lists of numbers, or of lists of lists, from an Arrow table."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        offsets = np.asarray(column.offsets, dtype=np.int64)
        values = from_arrow(column.flatten())
        return Ragged(values, offsets - offsets[0])
    if pa.types.is_null(column.type):  # of lists that are all empty
        return np.zeros(len(column), dtype=np.int64)
    return column.to_numpy(zero_copy_only=False)


def join(column: Column, other: Column) -> Column:
    """The rows of a column, then those of another."""
    if isinstance(column, Ragged):
        assert isinstance(other, Ragged)
        offsets = np.concatenate([column.offsets, column.offsets[-1] + other.offsets[1:]])
        return Ragged(join(column.values, other.values), offsets)
    return np.concatenate([column, other])


def encoder_inputs(rows: Column, pad: int) -> dict[str, torch.Tensor]:
    """An encoder's inputs for rows of token ids: ``input_ids``, ``attention_mask`` ``(B, L)``."""
    assert isinstance(rows, Ragged)
    ids = torch.from_numpy(rows.pad(pad))
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(rows.lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}
