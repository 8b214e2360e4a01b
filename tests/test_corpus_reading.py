"""Errors in corpus files name the file and the line."""

import pytest

from erc_bench.corpus.text_files import expect, field, read_csv, read_json
from erc_bench.errors import ErcBenchError


def test_broken_text_is_named_by_line(tmp_path):
    path = tmp_path / "x.csv"
    for data, message in {
        b"a,b\n1,2\n3\n": "line 3: 1 fields instead of 2",
        b"a,b\n1,2\n\xff,2\n": "line 3: byte 0xff is not UTF-8",
        b"": "line 1: the column 'a', 'b' is missing; there is: nothing",
        b'a,b\n1,"2\n': "line 2: ",
        b"a,b,b\n1,2,3\n": "line 1: the column 'b' stands more than once",
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


def test_json_of_the_wrong_shape(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1,\n')
    with pytest.raises(ErcBenchError, match=r"x\.json, line 2: not valid JSON"):
        read_json(path)
    path.write_text("9" * 5000)
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
