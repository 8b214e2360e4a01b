"""MELD: the real files, older copies of them, and files that are broken."""

import shutil
import time

import pytest
from real_data import real_data

from erc_bench.corpus.source import CorpusWarning
from erc_bench.datamodules.meld import MELD, MELDSentiment, clean, parse_csv
from erc_bench.errors import ErcBenchError

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,"
    "Season,Episode,StartTime,EndTime\n"
)
REST = '1,2,"00:00:01,000","00:00:02,000"\n'


@pytest.fixture
def write(tmp_path):
    def write(*rows, header=HEADER, encoding="utf-8"):
        path = tmp_path / "made_up.csv"
        path.write_bytes((header + "".join(rows)).encode(encoding))
        return path

    return write


def read(path):
    return parse_csv(path, "train", MELD.labels, "Emotion")


@pytest.fixture(scope="module")
def meld_dir():
    return real_data("meld")


@pytest.fixture(scope="module")
def meld(meld_dir):
    return MELD().load(meld_dir)


@pytest.fixture
def copy(meld_dir, tmp_path, monkeypatch):
    """A user's own folder with a copy of the files, and an empty cache."""
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(meld_dir / "meld", tmp_path / "data" / "meld", copy_function=shutil.copyfile)
    (tmp_path / "data" / "meld").chmod(0o755)
    return tmp_path / "data"


def test_the_real_corpus(meld):
    counts = {
        split: (len(meld.splits[split]), sum(len(d.labelled) for d in meld.dialogues(split)))
        for split in meld.splits
    }
    assert counts == {"train": (1038, 9989), "dev": (114, 1109), "test": (280, 2610)}
    ids = [dialogue.id for dialogue in meld.dialogues("train")]
    assert "train-d60" not in ids
    assert ids[59:61] == ["train-d59", "train-d61"]
    texts = [u.text for split in meld.splits for d in meld.dialogues(split) for u in d.utterances]
    assert not any("’" in text or '"' in text or "\x92" in text for text in texts)


def test_utterance_ids_keep_the_gaps_of_the_file(meld):
    numbers = [
        [int(u.id.rpartition("u")[2]) for u in dialogue.utterances]
        for split in meld.splits
        for dialogue in meld.dialogues(split)
    ]
    assert sum(row != list(range(len(row))) for row in numbers) == 76


def test_sentiment_is_the_same_dialogues_with_other_labels(meld, meld_dir):
    sentiment = MELDSentiment().load(meld_dir)
    for ours, theirs in zip(meld.dialogues("test"), sentiment.dialogues("test"), strict=True):
        assert [u.id for u in ours.utterances] == [u.id for u in theirs.utterances]
        assert [u.text for u in ours.utterances] == [u.text for u in theirs.utterances]
    assert {u.label for d in sentiment.dialogues("dev") for u in d.utterances} == {0, 1, 2}


def test_loading_is_quick(meld_dir):
    start = time.perf_counter()
    MELD().load(meld_dir)
    assert time.perf_counter() - start < 2


def test_an_older_copy_loads_the_same(meld, copy):
    path = copy / "meld" / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace("’".encode(), "\x92".encode()))
    with pytest.warns(
        CorpusWarning, match=r"checksum of .*train_sent_emo\.csv is not the official"
    ):
        older = MELD().load(copy)
    assert older.digest == meld.digest


@pytest.mark.parametrize("keep", [0.5, 0.9], ids=["half", "most"])
def test_a_truncated_copy_is_an_error_with_line_and_remedy(copy, keep):
    path = copy / "meld" / "train_sent_emo.csv"
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b",", 0, int(len(data) * keep))])
    with pytest.raises(ErcBenchError) as caught:
        MELD().load(copy)
    for words in ("train_sent_emo.csv, line ", "truncated", "checksum", "data doctor"):
        assert words in str(caught.value)


def test_a_copy_cut_between_two_lines_names_the_figure_that_is_off(copy):
    path = copy / "meld" / "dev_sent_emo.csv"
    path.write_bytes(path.read_bytes()[:-200].rpartition(b"\n")[0])
    with pytest.raises(
        ErcBenchError, match=r"meld, dev: \d+ labelled utterances, .* has 1109.*"
    ) as caught:
        MELD().load(copy)
    assert "checksum" in str(caught.value)


def test_windows_characters_are_read_as_they_were_meant():
    assert clean("\x93Don\x92t\x94 \x85 caf\xe9 ") == "“Don't” … café"
    assert clean('He said: "It’s so."') == "He said: It's so."
    assert clean("a\x81b") == "a\x81b"


def test_a_made_up_file(write):
    path = write(
        f"1,Hello there.,Ann/Bo,neutral,neutral,3,0,{REST}",
        f'2,"Oh, ""you""!",Bo,surprise,positive,3,4,{REST}',
        f"3,Go.,Ann,anger,negative,5,0,{REST}",
    )
    first, second = read(path)
    assert [u.id for u in first.utterances] == ["train-d3-u0", "train-d3-u4"]
    assert [u.speaker for u in first.utterances] == ["Ann/Bo", "Bo"]
    assert first.utterances[1].text == "Oh, you!"
    assert (second.id, second.utterances[0].label) == ("train-d5", 0)


BROKEN = {
    "unknown label": ([f"1,Hi,Ann,angry,neutral,0,0,{REST}"], r"line 2: the label 'angry'.*anger"),
    "duplicate ids": (
        [f"{n},Hi,Ann,joy,positive,0,0,{REST}" for n in (1, 2)],
        r"line 3: utterance 0 of dialogue 0 stands twice",
    ),
    "too few fields": (["1,Hi,Ann\n"], r"line 2: 3 fields instead of 11.*truncated"),
    "an open quotation": ([f'1,"Hi,Ann,joy,positive,0,0,{REST}'], r"line 2: "),
}


@pytest.mark.parametrize(("rows", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_by_line(write, rows, message):
    with pytest.raises(ErcBenchError, match=rf"made_up\.csv, {message}"):
        read(write(*rows))


def test_missing_columns_are_named(write):
    with pytest.raises(ErcBenchError, match=r"line 1: the column 'Emotion', 'Dialogue_ID' is miss"):
        read(write(header="Utterance,Speaker,Utterance_ID\n"))


def test_an_unreadable_encoding_names_the_line(write):
    path = write(f"1,Café,Ann,joy,positive,0,0,{REST}", encoding="latin-1")
    with pytest.raises(ErcBenchError, match=r"line 2: byte 0xe9 is not UTF-8"):
        read(path)
