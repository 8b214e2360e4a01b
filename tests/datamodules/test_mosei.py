"""CMU-MOSEI's sentiment: made-up files, whole and broken."""

import pytest

from erc_bench.corpus.source import CorpusWarning
from erc_bench.datamodules.mosei import MOSEISentiment, parse_tsv
from erc_bench.errors import ErcBenchError

HEADER = "vid\tstart\tstop\tlabel\tcid\ttext\n"


@pytest.fixture
def read(tmp_path):
    def read(*rows, header=HEADER):
        path = tmp_path / "test.tsv"
        path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
        return parse_tsv(path, "test", MOSEISentiment.labels)

    return read


def test_a_video_is_a_dialogue_of_one_speaker_in_the_order_of_time(read):
    video, other = read(
        'x1\t9.5\t11\t-2.67\t7\tI "hated it.',
        "y2\t0\t3\t1\t0\tNice.",
        "x1\t10.25\t12\t0.33\t8\tWell.",
        "x1\t1\t9\t3\t2\tHello.",
    )
    names = MOSEISentiment.labels.names
    assert [(u.id, names[u.label]) for u in video.utterances] == [
        ("test-x1-u2", "highly positive"),
        ("test-x1-u7", "highly negative"),
        ("test-x1-u8", "neutral"),
    ]
    assert video.utterances[1].text == 'I "hated it.'
    assert {u.speaker for u in video.utterances} == {"x1"}
    assert (other.id, names[other.utterances[0].label]) == ("test-y2", "weakly positive")


BROKEN = {
    "no such score": (["x\t0\t1\t4\t0\tHi"], "line 2: the sentiment '4' is not in"),
    "no number": (["x\t0\t1\tgood\t0\tHi"], "line 2: label must be a number"),
    "no time": (["x\tnan\t1\t1\t0\tHi"], "line 2: start must be a number"),
    "cut": (["x\t0\t1\t1\t0\tHi", "x\t1\t2"], "line 3: 3 fields instead of 6"),
    "twice": (["x\t0\t1\t1\t0\tHi"] * 2, "clip 0 of the video x occurs twice"),
}


@pytest.mark.parametrize(("rows", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_by_line(read, rows, message):
    with pytest.raises(ErcBenchError, match=message):
        read(*rows)


def test_a_missing_column_is_named(read):
    with pytest.raises(ErcBenchError, match="line 1: the column 'cid' is missing"):
        read(header=HEADER.replace("cid\t", ""))


def test_files_of_other_counts_are_refused_with_the_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "mosei-sentiment"
    folder.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        (folder / f"{name}.tsv").write_text(HEADER + f"{name}\t0\t1\t1\t0\tHi\n", encoding="utf-8")
    with pytest.raises(ErcBenchError, match="train: 1 dialogues, the release has 2249"):
        MOSEISentiment().load(tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I donâ€™t mind {}.", "12 utterances hold UTF-8"),
        ("", "have no text"),
        ("Hi.", "12 of 12 utterances have the same text, 'Hi.'"),
    ],
)
def test_damaged_text_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(MOSEISentiment, "counts", {})
    folder = tmp_path / "data" / "mosei-sentiment"
    folder.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        rows = [f"{name}\t{i}\t{i + 1}\t1\t{i}\t{text.format(i)}\n" for i in range(4)]
        (folder / f"{name}.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")
    with pytest.warns(CorpusWarning, match=message):
        assert not MOSEISentiment().load(tmp_path / "data").official
