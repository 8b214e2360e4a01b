"""DailyDialog: the real files, and made-up ones that are broken."""

import json
import shutil

import pytest
from conftest import LANGUAGE_MODELS
from real_data import real_data
from sklearn.metrics import f1_score

from erc_bench.cli import main
from erc_bench.corpus.release import Release
from erc_bench.corpus.source import CorpusWarning
from erc_bench.datamodules.dailydialog import DailyDialog, parse
from erc_bench.errors import ErcBenchError
from erc_bench.settings.registry import method_names


@pytest.fixture
def read(tmp_path):
    def read(texts, emotions, split="test"):
        paths = tmp_path / "texts.txt", tmp_path / "emotions.txt"
        for path, lines in zip(paths, (texts, emotions), strict=True):
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return parse(*paths, split, DailyDialog.labels)

    return read


def test_two_speakers_alternate(read):
    first, second = read(
        ["Hi . __eou__ Oh ! __eou__ Bye . __eou__", "No . __eou__"], ["0 6 4", "1"]
    )
    assert [(u.id, u.name, u.label) for u in first.utterances] == [
        ("test-d0-u0", "Mary", 0),
        ("test-d0-u1", "James", 6),
        ("test-d0-u2", "Mary", 4),
    ]
    assert first.utterances[1].text == "Oh !"
    assert {u.speaker for u in first.utterances}.isdisjoint(u.speaker for u in second.utterances)


BROKEN = {
    "too few dialogues": (["Hi __eou__"], ["0", "0"], "has 1 dialogues and .* 2"),
    "a cut line": (["Hi __eou__ And th"], ["0 0"], "texts.txt, line 1.*truncated"),
    "an unknown code": (["Hi __eou__"], ["7"], "emotions.txt, line 1: 7 is no emotion"),
    "no number": (["Hi __eou__"], ["joy"], "emotions.txt, line 1: an emotion must be"),
    "too many codes": (["Hi __eou__"], ["0 0"], "line 1: 1 turns, and 2 emotions"),
    "too few codes": (["A __eou__ B __eou__ C __eou__"], ["0"], "line 1: 3 turns, and 1"),
    "an empty line": (["Hi __eou__", "", "Hi __eou__"], ["0"] * 3, "texts.txt, line 2: an empty"),
}


@pytest.mark.parametrize(("texts", "emotions", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_by_line(read, texts, emotions, message):
    with pytest.raises(ErcBenchError, match=message):
        read(texts, emotions)


def test_a_turn_without_an_emotion_is_context(read):
    with pytest.warns(CorpusWarning, match="line 1: the last turn has no emotion"):
        (dialogue,) = read(["A __eou__ B __eou__"], ["3"])
    assert dialogue.labelled == (0,)


def test_missing_files_are_an_error_that_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    with pytest.raises(ErcBenchError, match=r"ijcnlp_dailydialog\.zip.*--data-dir"):
        DailyDialog().load(None)


def test_the_real_files():
    """Counts and checksums hold, and one turn of train is without an emotion."""
    data = real_data("dailydialog")
    corpus = DailyDialog().load(data)
    assert corpus.official
    assert Release.of(corpus) == DailyDialog.official
    assert str(corpus.metric) == "micro_f1 without neutral"
    assert all(status.intact for status in DailyDialog().status(data))
    (odd,) = (d for d in corpus.dialogues("train") if len(d.labelled) < len(d))
    assert (odd.id, len(odd) - len(odd.labelled)) == ("train-d7851", 1)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A function that loads changed files; the release is the same made-up files unchanged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ERC_BENCH_DATA", raising=False)
    monkeypatch.setattr(DailyDialog, "check", lambda self, splits: None)

    def load(texts=str, emotions=str):
        for split in ("train", "validation", "test"):
            folder = tmp_path / "data" / "dailydialog" / split
            folder.mkdir(parents=True, exist_ok=True)
            spoken = "".join(
                f"I don ’ t know {n} . __eou__ Oh ! __eou__ Bye , {split} . __eou__\n"
                for n in range(4)
            )
            (folder / f"dialogues_{split}.txt").write_bytes(texts(spoken).encode())
            (folder / f"dialogues_emotion_{split}.txt").write_bytes(
                emotions("0 6 4\n" * 4).encode()
            )
        return DailyDialog().load(tmp_path / "data")

    monkeypatch.setattr(DailyDialog, "official", None)
    with pytest.warns(CorpusWarning, match="nothing else is known of it"):
        monkeypatch.setattr(DailyDialog, "official", Release.of(load()))
    return load


def test_line_ends_do_not_matter(made_up):
    def windows(text):
        return text.replace("\n", "\r\n")

    with pytest.warns(CorpusWarning, match="read from it is the same as from the official one"):
        corpus = made_up(windows, windows)
    assert (corpus.digest, corpus.official) == (DailyDialog.official.digest, True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.replace("’", "â€™"), r"12 utterances hold UTF-8 .*, such as 'I don â€™ t"),
        (lambda t: t.replace("’", "\ufffd"), "12 utterances hold a replacement character"),
        (lambda t: t.replace("’", ""), "12 utterances hold a blank for an apostrophe"),
        (str.lower, "no utterance has a capital letter"),
    ],
)
def test_damaged_text_is_named(made_up, damage, message):
    with pytest.warns(CorpusWarning, match=message):
        assert not made_up(damage).official


def swapped_turns(text):
    return text.replace(" Oh ! __eou__", "").replace(" __eou__\n", " __eou__ Oh ! __eou__\n")


def reversed_lines(text):
    return "".join(text.splitlines(keepends=True)[::-1])


@pytest.mark.parametrize(
    ("texts", "emotions", "message"),
    [
        (swapped_turns, str, "12 of 12 dialogues have other texts than the official release"),
        (reversed_lines, str, "in another order than in the official release"),
        (str, lambda t: t.replace("0 6 4", "4 6 0"), "as many of each class, at other utterances"),
        (lambda t: "__eou__ __eou__ __eou__\n" * 4, str, "; 36 of 36 utterances have no text"),
    ],
)
def test_other_turns_or_labels_than_the_releases_are_refused(made_up, texts, emotions, message):
    with pytest.raises(ErcBenchError, match=message):
        made_up(texts, emotions)


@pytest.mark.slow
def test_copies_that_differ(tmp_path, monkeypatch):
    """A copy with one other label, and a copy that lost a line."""
    data = real_data("dailydialog")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(data / "dailydialog", tmp_path / "d" / "dailydialog", copy_function=shutil.copy)
    labels = tmp_path / "d" / "dailydialog" / "test" / "dialogues_emotion_test.txt"
    labels.chmod(0o644)
    text = labels.read_text(encoding="utf-8")
    labels.write_text(text.replace("6", "5", 1), encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"test: 103 utterances are labelled sadness.*102"):
        DailyDialog().load(tmp_path / "d")
    labels.write_text(text.partition("\n")[2], encoding="utf-8")
    with pytest.raises(ErcBenchError, match=r"checksum of .*_test\.txt is not the official one"):
        DailyDialog().load(tmp_path / "d")


@pytest.fixture
def few(tmp_path, monkeypatch):
    """A data folder with the first dialogues of the real files."""
    data = real_data("dailydialog") / "dailydialog"
    for split, n in {"train": 12, "validation": 8, "test": 8}.items():
        for file in (data / split).iterdir():
            target = tmp_path / "data" / "dailydialog" / split / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            target.write_text("".join(lines[:n]), encoding="utf-8")
    monkeypatch.setattr(DailyDialog, "check", lambda self, splits: None)
    monkeypatch.setattr(DailyDialog, "official", None)
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::erc_bench.corpus.source.CorpusWarning")
@pytest.mark.parametrize("method", method_names())
def test_every_method_runs_and_is_judged_by_micro_f1(few, tmp_path, capsys, method, tiny_encoder):
    argv = ["run", "--method", method, "--dataset", "dailydialog", "--preset", "smoke"]
    argv += ["--data-dir", str(few), "--leaderboard-dir", str(tmp_path), "--wandb", "off"]
    argv += [] if method in LANGUAGE_MODELS else [f"encoder={tiny_encoder}"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    (path,) = (tmp_path / "records").glob("*/*/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["metric"] == "micro_f1 without neutral"
    test = record["predictions"]["test"]
    wanted = 100 * f1_score(
        test["gold"], test["predicted"], labels=range(1, 7), average="micro", zero_division=0
    )
    assert record["metrics"]["test"]["micro_f1"] == pytest.approx(wanted, abs=1e-3)
    assert "micro-F1 without neutral" in out
    assert f"{wanted:.2f}" in out
