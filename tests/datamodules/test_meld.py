"""MELD: the real files, older copies of them, and files that are broken."""

import csv
import io
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from places import committed_records
from real_data import real_data

from erc_bench.corpus.release import Release
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


@pytest.mark.slow
@pytest.mark.timed
def test_loading_takes_little_processor_time(meld_dir):
    start = time.process_time()
    MELD().load(meld_dir)
    assert time.process_time() - start < 2


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


def change(copy, rows_of=lambda rows: rows, text_of=lambda text: text):
    """Change the rows or the text of all three files of a copy."""
    for path in (copy / "meld").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        made = io.StringIO()
        writer = csv.DictWriter(made, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows_of(rows))
        path.write_bytes(text_of(made.getvalue()).encode())


def shuffled(rows):
    return Random(1).sample(rows, len(rows))


def as_strings(rows):
    return sorted(rows, key=lambda row: (row["Dialogue_ID"], row["Utterance_ID"]))


@pytest.mark.parametrize("order", [reversed, as_strings, shuffled])
def test_turns_out_of_order_are_put_in_order(copy, meld, order):
    change(copy, lambda rows: list(order(rows)))
    with pytest.warns(CorpusWarning) as caught:
        corpus = MELD().load(copy)
    assert (corpus.digest, corpus.official) == (meld.digest, True)
    said = [str(w.message) for w in caught]
    assert "test_sent_emo.csv is not in the order of Dialogue_ID and Utterance_ID" in "".join(said)
    assert "what is read from it is the same as from the official one" in said[-1]


@pytest.mark.parametrize("form", ["{}.0", "00{}", " {} ", "{}."])
def test_other_spellings_of_the_numbers_give_the_same_ids(copy, meld, form):
    keys = ("Dialogue_ID", "Utterance_ID")
    change(copy, lambda rows: [{**r, **{k: form.format(r[k]) for k in keys}} for r in rows])
    with pytest.warns(CorpusWarning, match="the same as from the official one"):
        corpus = MELD().load(copy)
    assert (corpus.digest, corpus.official) == (meld.digest, True)


def renumbered(rows):
    """The dialogues in another order, renumbered in that order without gaps."""
    order = shuffled(list(dict.fromkeys(row["Dialogue_ID"] for row in rows)))
    new = {old: n for n, old in enumerate(order)}
    return sorted(
        ({**row, "Dialogue_ID": new[row["Dialogue_ID"]]} for row in rows),
        key=lambda row: row["Dialogue_ID"],
    )


def swapped(rows):
    """Swap the numbers of two dialogues with the same number of turns."""
    turns = Counter(row["Dialogue_ID"] for row in rows)
    a, b = [key for key, n in turns.items() if n == 8][:2]
    new = {a: b, b: a}
    return [{**row, "Dialogue_ID": new.get(row["Dialogue_ID"], row["Dialogue_ID"])} for row in rows]


def mirrored(rows):
    """The turns of every dialogue in reverse order, renumbered."""
    by_dialogue = {}
    for row in rows:
        by_dialogue.setdefault(row["Dialogue_ID"], []).append(row)
    return [
        {**row, "Utterance_ID": number["Utterance_ID"]}
        for turns in by_dialogue.values()
        for row, number in zip(turns[::-1], turns, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is not in the order of")
@pytest.mark.parametrize("order", [renumbered, swapped, mirrored])
def test_no_id_ever_names_another_utterance(copy, order):
    change(copy, order)
    with pytest.raises(ErcBenchError, match=r"order.*data doctor") as caught:
        MELD().load(copy)
    assert len(str(caught.value)) < 1000


DAMAGE = {
    "mojibake": (
        lambda t: t.encode().decode("cp1252", errors="ignore"),
        r"\d,\d{3} utterances hold UTF-8 that was read as Windows-1252 \(mojibake\), such as .*â",
    ),
    "lost": (lambda t: t.replace("’", ""), r"\d,\d{3} utterances have lost an apostrophe, such as"),
    "replaced": (
        lambda t: t.replace("’", "\ufffd"),
        r"\d,\d{3} utterances hold a replacement character \(U\+FFFD\), such as .*\ufffd",
    ),
    "questioned": (lambda t: t.replace("’", "?"), "hold a question mark for an apostrophe"),
    "mac": (lambda t: t.replace("’", "‚Äô"), r"read as Mac Roman \(mojibake\)"),
    "spaced": (lambda t: t.replace("’", " "), "hold a blank for an apostrophe"),
    "ticked": (lambda t: t.replace("’", "`"), "hold a backtick for an apostrophe"),
    "entities": (lambda t: t.replace("’", "&#8217;"), "hold an entity of HTML"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_text_is_named_for_what_it_is(copy, meld, damage, message):
    change(copy, text_of=damage)
    with pytest.warns(CorpusWarning, match=message) as caught:
        corpus = MELD().load(copy)
    assert corpus.digest != meld.digest
    assert not corpus.official
    assert "counts" not in str(caught[-1].message)


@pytest.mark.slow
def test_an_edited_copy_is_not_official(copy, meld):
    path = copy / "meld" / "test_sent_emo.csv"
    data = path.read_text(encoding="utf-8")
    turns = [(d.id, u) for d in meld.dialogues("test") for u in d.utterances]
    texts = Counter(u.text for _, u in turns)
    key, turn = next((k, u) for k, u in turns if f",{u.text}," in data and texts[u.text] == 1)
    path.write_text(data.replace(f",{turn.text},", ",Something else.,", 1), encoding="utf-8")
    with pytest.warns(CorpusWarning, match=rf"1 of 1,432 dialogues have other texts .* {key}\."):
        corpus = MELD().load(copy)
    assert (corpus.digest == meld.digest, corpus.official) == (False, False)
    path.write_text(data.replace("!", ".", 1), encoding="utf-8")
    with pytest.warns(CorpusWarning, match="capitals, blanks or punctuation of some utterances"):
        assert not MELD().load(copy).official


def column(copy: Path, name: str, make) -> None:
    """Rewrite one column of every file; ``make`` gets its old values."""
    for path in (copy / "meld").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        place = header.index(name)
        for row, value in zip(rows, make([row[place] for row in rows]), strict=True):
            row[place] = value
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda old: old[1:] + old[:1], "as many of each class, at other utterances"),
        # The paper's table has 1,607 utterances of anger and 6,436 neutral ones.
        (lambda old: ["neutral"] * len(old), "anger 0 instead of 1,607, .*, neutral 13,708 inst"),
    ],
)
def test_other_labels_than_the_releases_are_refused(copy, make, words):
    column(copy, "Emotion", make)
    with pytest.raises(
        ErcBenchError, match=f"its labels are not those of the official release: {words}"
    ):
        MELD().load(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("Speaker", lambda old: [""] * len(old), "13,708 of 13,708 utterances have no speaker"),
        (
            "Speaker",
            lambda old: ["Speaker 1"] * len(old),
            "the speakers differ: 'Speaker 1' at 13,708 of 13,708 utterances, different names: 1",
        ),
        ("Utterance", lambda old: [x.lower() for x in old], "no utterance has a capital letter"),
    ],
)
def test_a_warning_says_how_a_copy_differs(copy, name, make, words):
    column(copy, name, make)
    with pytest.warns(CorpusWarning, match=words):
        assert not MELD().load(copy).official


def test_files_that_can_not_be_read_as_they_are(copy):
    folder = copy / "meld"
    path = folder / "train_sent_emo.csv"
    for name, words in {
        "train_sent_emo.csv.gz": "still packed. Unpack it to",
        "train_sent_emo (1).csv": "Move it to",
    }.items():
        other = path.rename(folder / name)
        with pytest.raises(ErcBenchError, match=words):
            MELD().prepare(copy)
        other.rename(path)
    path.unlink()
    path.symlink_to("gone.csv")
    with pytest.raises(ErcBenchError, match=r"is a link to gone\.csv, which is not there"):
        MELD().prepare(copy)


def test_the_digest_is_that_of_the_committed_records(meld):
    records = committed_records("meld")
    digests = {json.loads(path.read_text(encoding="utf-8"))["dataset_digest"] for path in records}
    assert digests == {meld.digest} == {MELD.official.digest}
    assert meld.official


def test_the_stored_facts_of_the_release_match_the_official_files(meld, meld_dir):
    assert Release.of(meld) == MELD.official
    assert Release.of(MELDSentiment().load(meld_dir)) == MELDSentiment.official


@pytest.mark.parametrize(
    "place",
    [".", "MELD", "Meld.Raw/data", "data/MELD", "meld/sub", "MELD-master/data/MELD"],
    ids=lambda p: p.replace("/", "-"),
)
def test_files_near_their_place_are_found(copy, meld, place, tmp_path):
    folder = tmp_path / "user" / place
    folder.mkdir(parents=True)
    for path in (copy / "meld").iterdir():
        path.rename(folder / path.name)
    source = MELD()
    assert source.load(tmp_path / "user").digest == meld.digest
    # The folder of the files itself may be given in the place of the data folder.
    assert source.prepare(folder)["dev"].parent.resolve() == folder.resolve()


def test_capitals_in_names_do_not_matter(copy, meld):
    for path in list((copy / "meld").iterdir()):
        path.rename(path.with_name(path.name.upper()))
    (copy / "meld").rename(copy / "MeLD")
    assert MELD().load(copy).digest == meld.digest


def test_several_different_copies_are_an_error(copy):
    (copy / "meld").rename(copy / "mine")
    shutil.copytree(copy / "mine", copy / "yours", copy_function=shutil.copyfile)
    assert MELD().prepare(copy)["dev"].parent.name == "mine"  # both are official
    for folder in ("mine", "yours"):
        path = copy / folder / "dev_sent_emo.csv"
        path.write_bytes(path.read_bytes() + folder.encode())
    with pytest.raises(ErcBenchError, match="several files like it") as caught:
        MELD().prepare(copy)
    for words in ("mine/dev_sent_emo.csv", "yours/dev_sent", f"{copy}/meld/dev_sent_emo.csv"):
        assert words in str(caught.value)


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
        r"line 3: utterance 0 of dialogue 0 occurs twice",
    ),
    "too few fields": (["1,Hi,Ann\n"], r"line 2: 3 fields instead of 11.*truncated"),
    "an id that is no number": (
        [f"1,Hi,Ann,joy,positive,0,x1,{REST}"],
        r"line 2: Utterance_ID must be a whole number, not 'x1'",
    ),
    "a broken number": (
        [f"1,Hi,Ann,joy,positive,1.5,0,{REST}"],
        r"line 2: Dialogue_ID must be a whole number, not '1.5'",
    ),
    "the same number twice": (
        [f"1,Hi,Ann,joy,positive,3,{u},{REST}" for u in ("7", "007")],
        r"line 3: utterance 7 of dialogue 3 occurs twice",
    ),
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
