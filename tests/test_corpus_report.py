"""The output of ``erc-bench data``; its overlaps are checked against figures counted elsewhere."""

import io
import shutil

import pytest
from iemocap_layout import write_release
from real_data import real_data
from rich.console import Console

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.corpus.overlap import seen, shared_dialogues, words_only
from erc_bench.corpus.report import data_doctor, data_list, data_prepare, data_stats
from erc_bench.corpus.source import CorpusWarning
from erc_bench.errors import ErcBenchError
from erc_bench.settings.registry import corpus_names, corpus_source


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path, monkeypatch):
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def printed(function, *args):
    console = Console(file=io.StringIO(), width=80)
    status = function(console, *args)
    return console.file.getvalue(), status


def everything():
    return [corpus_source(name) for name in corpus_names()]


def stats(name, data_dir=None):
    source = corpus_source(name)
    related = [corpus_source(other) for other in source.related]
    return printed(data_stats, source, data_dir, related)[0]


def doctor(data_dir=None):
    return printed(data_doctor, everything(), data_dir)


def blocks(text):
    """The doctor's lines by corpus name."""
    found = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            name, _, verdict = line.partition(": ")
            found[name] = [verdict]
        else:
            found[name].append(line.strip())
    return found


def test_list_names_every_corpus():
    text, _ = printed(data_list, everything())
    for words in ("meld-sentiment", "emorynlp-reduced", "iemocap-4", "demo", "GPL-3.0", "USC SAIL"):
        assert words in text
    assert set(corpus_names()) <= {line.split(" ")[0] for line in text.splitlines()}


def test_stats_of_the_demo_corpus():
    text = stats("demo")
    rows = {line[:36].strip(): line[36:].split() for line in text.splitlines() if line}
    assert rows["dialogues"] == ["200", "40", "60"]
    assert rows["speakers"] == rows["of them also in train"] == ["8", "8", "8"]
    assert "neutral   510 (28.9 %)  109 (27.0 %)  146 (28.0 %)" in text
    assert "generated dialogues" in text


def test_stats_of_meld_tell_the_known_overlaps():
    text = stats("meld", real_data("emorynlp") and real_data("meld"))
    assert (
        "test utterances seen in train: 12.8 % (334 of 2610); "
        "of those longer than 5 words 0.2 % (3 of 1484)"
    ) in text
    assert "test dialogues that are also in train: 1\n" in text
    assert "occur in emorynlp, by words only: 37.7 % (985 of 2610); " in text
    assert "of those longer than 5 words 26.7 % (396 of 1484)" in text
    assert "neutral   4710 (47.2 %)  470 (42.4 %)  1256 (48.1 %)" in text


def test_stats_of_meld_without_emorynlp(tmp_path):
    shutil.copytree(real_data("meld") / "meld", tmp_path / "meld")
    text = stats("meld", tmp_path)
    assert "occur in emorynlp: not counted, its files are not here" in text


@pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning")
def test_stats_of_iemocap_tell_of_speakers_and_scripts(tmp_path):
    write_release(tmp_path / "iemocap")
    text = stats("iemocap", tmp_path)
    assert "- dev shares its 2 speakers with 1 train dialogues" in text
    assert "- scripted test utterances seen in train: 85.7 %" in text


def test_prepare_says_where_the_files_are():
    folder = real_data("meld")
    text, _ = printed(data_prepare, [corpus_source("meld"), corpus_source("demo")], folder)
    assert "meld: 1038/114/280 dialogues, 9989/1109/2610 labelled utterances" in text
    assert str(folder / "meld" / "dev_sent_emo.csv") in text
    assert "demo: 200/40/60 dialogues" in text


def test_an_unknown_corpus_names_the_nearest():
    with pytest.raises(ErcBenchError, match="'meld'"):
        stats("mled")


def test_the_doctor_with_nothing_there():
    text, status = doctor()
    assert status == 0
    found = blocks(text)
    assert found["demo"][0].startswith("200/40/60 dialogues")
    assert found["meld"][0] == "not here"
    assert found["meld"][1].startswith("missing: meld/train_sent_emo.csv; get it: https://")
    assert "USC SAIL" in found["iemocap"][1]


@pytest.mark.slow
def test_the_doctor_with_everything_in_order():
    text, status = doctor(real_data("emorynlp"))
    found = blocks(text)
    assert status == 0
    assert found["emorynlp"][0].startswith("713/99/85 dialogues")
    assert all(line.startswith("present: ") for line in found["emorynlp-reduced"][1:])


@pytest.mark.slow
def test_the_doctor_names_a_checksum_that_fails(tmp_path):
    shutil.copytree(real_data("meld") / "meld", tmp_path / "meld", copy_function=shutil.copyfile)
    path = tmp_path / "meld" / "test_sent_emo.csv"
    path.write_bytes(path.read_bytes() + b"\r\n")
    text, status = doctor(tmp_path)
    found = blocks(text)
    assert status == 1
    assert found["meld"][0].startswith("loads, but meld: the checksum of ")
    assert found["meld"][3].startswith(f"checksum fails: {path}; get it: https://")
    path.write_bytes(path.read_bytes()[:1000])
    text, status = doctor(tmp_path)
    assert status == 1
    assert blocks(text)["meld"][0].startswith(f"does not load. {path}, line ")


def test_the_doctor_says_that_a_release_is_not_complete(tmp_path):
    write_release(tmp_path / "iemocap")
    text, status = doctor(tmp_path)
    assert status == 0
    assert "has 5/2/2 dialogues in train/dev/test" in blocks(text)["iemocap"][0]


def test_a_corpus_without_a_train_split_is_described(tmp_path):
    """IEMOCAP with session 5 alone has only a test split."""
    write_release(tmp_path / "iemocap")
    for number in "1234":
        shutil.rmtree(tmp_path / "iemocap" / f"Session{number}")
    with pytest.warns(CorpusWarning, match="has 0/0/2 dialogues"):
        text = stats("iemocap", tmp_path)
    assert "- there is no train split that dev and test could share anything with" in text
    rows = {line[:36].strip(): line[36:].split() for line in text.splitlines() if line}
    assert rows["dialogues"] == ["2"]
    assert rows["of them also in train"] == ["–"]
    assert "(not the official release)" in text


def test_names_with_brackets_are_printed_whole(tmp_path):
    folder = tmp_path / "a [bold]copy[/] :smile:"
    shutil.copytree(real_data("meld") / "meld", folder / "meld", copy_function=shutil.copyfile)
    text, _ = printed(data_prepare, [corpus_source("meld")], folder)
    assert f"  {folder}/meld/dev_sent_emo.csv\n" in text


def dialogue(key, *texts):
    return Dialogue(key, tuple(Utterance(f"{key}{i}", "Ann", t) for i, t in enumerate(texts)))


def test_seen_counts_all_and_long_texts():
    train = ["Yes.", "one two three four five six"]
    test = ["Yes.", "yes", "One two three, four five six!", "one two three four five six"]
    assert str(seen(test, train)) == (
        "50.0 % (2 of 4); of those longer than 5 words 50.0 % (1 of 2)"
    )
    assert seen(test, train, verbatim=False).found == 4
    assert str(seen([], train)).startswith("0.0 % (0 of 0)")
    assert words_only("Don't -- stop, OK?") == "don t stop ok"


def test_shared_dialogues_are_the_same_text_for_text():
    train = [dialogue("a", "Hi", "Ho"), dialogue("b", "Hi")]
    assert shared_dialogues([dialogue("c", "Hi", "Ho"), dialogue("d", "Ho")], train) == 1
