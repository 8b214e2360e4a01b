"""Ragged columns against plain Python lists."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_bench.method.ragged import Ragged, encoder_inputs, from_arrow, join

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=8)


def listed(column: Ragged) -> list:
    values = column.values
    inner = listed(values) if isinstance(values, Ragged) else values.tolist()
    return [inner[a:b] for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def test_empty_lists_have_an_integer_type() -> None:
    column = from_arrow(pa.array([[], []]))
    assert column.pad(0).shape == (2, 0)
    nested = from_arrow(pa.array([[[], []], []]))
    assert nested.values.values.dtype == column.values.dtype == np.int64


@given(ROWS, st.data())
def test_taking_and_padding_do_what_lists_do(rows: list[list[int]], data: st.DataObject) -> None:
    column = from_arrow(pa.array(rows, pa.list_(pa.int64())))
    assert isinstance(column, Ragged)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    taken = column.take(np.array(chosen, dtype=int))
    expected = [rows[i] for i in chosen]
    assert listed(taken) == expected
    width = max(map(len, expected), default=0)
    assert taken.pad(-1).tolist() == [row + [-1] * (width - len(row)) for row in expected]
    assert taken.row_of_value.tolist() == [i for i, row in enumerate(expected) for _ in row]
    assert taken.position_in_row.tolist() == [j for row in expected for j in range(len(row))]


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_lists_of_lists(rows: list[list[list[int]]], data: st.DataObject) -> None:
    column = from_arrow(pa.array(rows, pa.list_(pa.list_(pa.int64()))))
    assert isinstance(column, Ragged)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    assert listed(column.take(np.array(chosen, dtype=int))) == [rows[i] for i in chosen]
    with pytest.raises(TypeError, match="inner rows"):
        column.pad(0)


def test_an_arrow_slice_starts_where_it_should() -> None:
    column = from_arrow(pa.array([[1], [2, 3], [4]]).slice(1))
    assert isinstance(column, Ragged)
    assert listed(column) == [[2, 3], [4]]


@given(ROWS, ROWS)
def test_columns_are_joined_as_lists_are(rows: list[list[int]], others: list[list[int]]) -> None:
    one, other = (from_arrow(pa.array(each, pa.list_(pa.int64()))) for each in (rows, others))
    assert isinstance(one, Ragged)
    assert isinstance(other, Ragged)
    assert listed(join(one, other)) == rows + others
    numbers = [len(row) for row in rows], [len(row) for row in others]
    joined = join(*(np.array(each) for each in numbers))
    assert joined.tolist() == numbers[0] + numbers[1]


def test_encoder_inputs_are_padded_ids_and_their_mask() -> None:
    inputs = encoder_inputs(Ragged(np.array([5, 0, 7]), np.array([0, 2, 3])), pad=0)
    assert inputs["input_ids"].tolist() == [[5, 0], [7, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]  # 0 may be a token too
