"""Errors in corpus files name the file and the line."""

import pytest

from erc_bench.corpus.text_files import csv_table, expect, field, read_csv, read_json
from erc_bench.errors import ErcBenchError


def test_broken_text_is_named_by_line(tmp_path):
    path = tmp_path / "x.csv"
    for data, message in {
        b"a,b\n1,2\n3\n": "line 3: 1 fields instead of 2",
        b"a,b\n1,2\n\xff,2\n": "line 3: byte 0xff is not UTF-8",
        b"": "line 1: the column 'a', 'b' is missing; found: nothing",
        b'a,b\n1,"2\n': "line 2: ",
        b"a,b,b\n1,2,3\n": "line 1: the column 'b' occurs more than once",
    }.items():
        path.write_bytes(data)
        with pytest.raises(ErcBenchError, match=rf"x\.csv, {message}"):
            list(read_csv(path, ("a", "b")))
    with pytest.raises(ErcBenchError, match="No such file"):
        list(read_csv(tmp_path / "none.csv", ("a",)))


def test_columns_are_found_by_name_whatever_their_order(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfc,a,b,,\r\n3,1,"2\n2",,\r\n\r\n6,4,5,,\r\n')
    rows = list(read_csv(path, ("a", "b")))
    assert [row for _, row in rows] == [["1", "2\n2"], ["4", "5"]]
    assert rows[1][0] == f"{path}, line 5"


def test_rows_between_two_double_quotes_are_not_lost():
    """Tab-separated texts are often written without doubling the quotes in them."""
    table = 'who\ttext\nAnn\tHi.\nBo\t"Hm.\nAnn\tNo.\nBo\tYes"\n'
    with pytest.raises(ErcBenchError, match=r"x, line 3: .* to line 5 .* write each double quote"):
        csv_table(table, "x")
    for separator, called in ("\t", "tab"), (",", "','"):
        text = f'who{separator}text\nBo{separator}"Hm" he said.\n'
        with pytest.raises(ErcBenchError, match=f"x, line 2: no {called} behind .* each double"):
            csv_table(text, "x")
    _, rows = csv_table('who\ttext\nBo\t"one\ntwo"\nBo\t"one\ttwo"\n', "x")
    assert [row["text"] for _, row in rows] == ["one\ntwo", "one\ttwo"]
    _, rows = csv_table('who,text\nBo,"one,\ntwo"\n', "x")
    assert rows == [(3, {"who": "Bo", "text": "one,\ntwo"})]


def test_json_of_the_wrong_shape(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1,\n', encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"x\.json, line 2: not valid JSON"):
        read_json(path)
    path.write_text("9" * 5000, encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"x\.json, line 1: not valid JSON"):
        read_json(path)
    assert expect([1], list, "here") == [1]
    assert field({"a": "b"}, "a", str, "here") == "b"
    with pytest.raises(ErcBenchError, match="here: JSON of the wrong shape, null instead of list"):
        expect(None, list, "here")
    with pytest.raises(
        ErcBenchError, match=r"here, 'a': JSON of the wrong shape, int instead of str"
    ):
        field({"a": 1}, "a", str, "here")
