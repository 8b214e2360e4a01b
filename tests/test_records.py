"""Records are written whole or not at all, and typed and checked once, when they are read."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import committed_records
from rich.console import Console
from sklearn.metrics import f1_score
from synthetic_records import EMOTIONS, Method, older, record, store, stored, write_records

from erc_bench.cli.printing import show
from erc_bench.corpus.conversation import Metric
from erc_bench.errors import ErcBenchError
from erc_bench.leaderboard import build, rescore
from erc_bench.leaderboard.decoding import decode, score_of
from erc_bench.records import faults
from erc_bench.records.parsing import RecordError, parse_record, typed
from erc_bench.records.place import Identity, Place
from erc_bench.records.schema import SCHEMA, Environment, Metrics, Record, to_json
from erc_bench.records.store import read_record, read_summary, record_files, write_record
from erc_bench.settings.experiment import resolve

COMMITTED = committed_records()

FILE = Path("some/r.json")


def short(document: dict[str, Any]) -> str:
    """A record of no more than twelve utterances on dev and on test, as JSON."""
    for split in document["predictions"].values():
        facts = split.pop("facts")
        for columns in (split, facts):
            columns.update({name: list(column)[:12] for name, column in columns.items()})
        split["facts"] = facts
    test = document["predictions"]["test"]
    score = f1_score(test["gold"], test["predicted"], average="weighted")
    document["metrics"]["test"]["weighted_f1"] = 100 * score
    return json.dumps(document)


MADE = short(record(Method("eacl"), "demo", 1, 8))


def made() -> dict[str, Any]:
    """A made-up record."""
    return json.loads(MADE)


def read(document: Any) -> Record:
    return parse_record(json.dumps(document).encode(), FILE)


def tried(contents: bytes) -> Record | str:
    """Return the record or the message of its error; any other exception is a defect."""
    try:
        return parse_record(contents, FILE)
    except RecordError as error:
        return str(error)


def fault(document: Any) -> str:
    message = tried(json.dumps(document).encode())
    assert isinstance(message, str)
    assert str(FILE) in message
    assert "\n" not in message
    return message


# --- the store


def place_of_made(root: Path) -> Place:
    """The place of the made-up record."""
    record = read(made())
    encoder = record.encoder.digest if record.encoder else ""
    identity = Identity(record.dataset_digest or "", "", encoder)
    return Place.of(root, resolve("eacl", "demo"), identity)


def test_a_written_record_is_read_and_found(tmp_path: Path) -> None:
    place = place_of_made(tmp_path)
    path = place.record
    assert place.finished() is None
    write_record(path, read(made()))
    assert stored(path) == made()
    assert place.finished() == read(made())
    assert list(record_files(tmp_path)) == [path]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("metrics", "field"),
    [
        (lambda m: {}, "$.metrics.test"),
        (lambda m: [], "$.metrics"),
        (lambda m: {"test": m["test"]}, "$.metrics.dev"),
        (lambda m: {**m, "test": {**m["test"], "weighted_f1": "50"}}, "$.metrics.test.weighted_f1"),
        (lambda m: {**m, "dev": {**m["dev"], "weighted_f1": None}}, "$.metrics.dev.weighted_f1"),
        (lambda m: {**m, "dev": {**m["dev"], "weighted_f1": float("nan")}}, "invalid character"),
    ],
)
def test_a_record_without_its_scores_is_an_error(tmp_path: Path, metrics, field: str) -> None:
    place = place_of_made(tmp_path)
    path = place.record
    store(path, {**made(), "metrics": metrics(made()["metrics"])})
    for read_it in (place.finished, place.summary):
        with pytest.raises(RecordError, match="--force") as caught:
            read_it()
        assert str(path) in str(caught.value)
        assert field in str(caught.value)


def test_a_failed_write_leaves_the_old_record_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "records" / "demo" / "eacl" / "r.json"
    whole = read(made())
    write_record(path, whole)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(path, msgspec.structs.replace(whole, oracle_gap=float("nan")))
    assert read_record(path) == whole
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("not a folder", encoding="utf-8")
    with pytest.raises(ErcBenchError, match="--leaderboard-dir"):
        write_record(tmp_path / "records" / "demo" / "r.json", read(made()))


# --- files that are not records


WHOLE = MADE.encode()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "is not a readable record: it is empty"),
        (b" \n", "it is empty"),
        (b"{", "truncated"),
        (WHOLE[:-1], "truncated"),
        (WHOLE[: len(WHOLE) // 2], "is not a readable record"),
        (WHOLE + WHOLE, "trailing characters"),
        (WHOLE.decode().encode("utf-16"), "UTF-16"),
        (WHOLE.decode().encode("utf-16-le"), "UTF-16"),
        (b"\xef\xbb\xbf" + WHOLE, "byte-order mark"),
        (b"\xff", "is not a readable record"),
        (WHOLE.replace(b'"eacl"', b'"\xe9acl"'), "is not a readable record"),
        (WHOLE.replace(b'"eacl"', b'"\\ud800"'), "is not a readable record"),
        (WHOLE.replace(b'"seed": 1', b'"seed": NaN'), "invalid character"),
        (WHOLE.replace(b'"seed": 1', b'"seed": Infinity'), "invalid character"),
        (WHOLE.replace(b'"seed": 1', b'"seed": 1e999'), "$.seed: Number out of range"),
        (WHOLE.replace(b'"seed": 1', b'"new": 1e999, "seed": 1'), "$.new: Number out of range"),
        (b"[" * 200_000, "recursion"),
        (b'{"a":' * 200_000, "recursion"),
        (b"[]", "is not a record: it lacks schema, method"),
        (b"3", "is not a record: it lacks schema, method"),
        (b"null", "is not a record: it lacks schema, method"),
        (b'{"schema": 1}', "it lacks method, dataset"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, contents: bytes, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(contents)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="can't be read: No such file"):
        read_record(tmp_path / "r.json")
    with pytest.raises(RecordError, match="can't be read: Is a directory"):
        read_record(tmp_path)
    (tmp_path / "records" / "demo" / "eacl" / "folder.json").mkdir(parents=True)
    (skipped,) = build(tmp_path).skipped
    (broken,) = rescore(tmp_path).broken
    assert skipped.reason == broken.reason
    assert "folder.json can't be read: Is a directory" in broken.reason


@pytest.mark.parametrize(
    ("number", "words"), [(99, "Upgrade"), (0, "is 0"), ("two", "is 'two'"), (True, "is True")]
)
def test_an_unknown_schema_is_named(number: Any, words: str) -> None:
    assert words in fault({**made(), "schema": number})
    # Nothing else of a newer record is checked.
    if number == 99:
        assert words in fault({**made(), "schema": 99, "seed": {}, "predictions": []})


def test_records_of_every_schema_are_read() -> None:
    first = read(older(made()))
    assert (first.schema, first.predictions.test.facts) == (1, None)
    assert first.predictions.test.dialogue is None
    second = read({**made(), "schema": 2})
    assert second.predictions.test.facts is not None
    assert read(made()).schema == SCHEMA == 3


# --- values that do not fit


def at(document: Any, place: str) -> Any:
    for name in place.split("."):
        document = document[int(name) if isinstance(document, list) else name]
    return document


def changed(place: str, change: Any) -> dict[str, Any]:
    """A record with one value replaced by ``change``, or by ``change`` of the old value."""
    document = made()
    parent, _, name = place.rpartition(".")
    holder = at(document, parent) if parent else document
    key = int(name) if isinstance(holder, list) else name
    holder[key] = change(holder[key]) if callable(change) else change
    return document


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        ("labels", ["joy", "joy"], "$.labels: 'joy', 'joy' are not two or more different"),
        ("labels", [], "$.labels: none are not"),
        ("predictions.test.ids", lambda v: v[1:], "$.predictions.test.ids: "),
        ("predictions.test.ids.1", "test-d0-u0", "$.predictions.test.ids: 1 of"),
        ("predictions.test.gold", lambda v: v[1:], "gold labels"),
        ("predictions.test.gold", [], "$.predictions.test.gold: it holds no utterance"),
        ("predictions.test.gold.2", 7, "$.predictions.test.gold[2]: 7 is something else than"),
        ("predictions.test.gold.2", -1, "$.predictions.test.gold[2]: Expected `int` >= 0"),
        ("predictions.dev.predicted.3", 7, "$.predictions.dev.predicted[3]: 7 is something else"),
        ("predictions.dev.predicted.3", -2, "$.predictions.dev.predicted[3]: Expected"),
        ("predictions.dev.predicted.3", 1.0, "$.predictions.dev.predicted[3]: Expected `int`"),
        ("predictions.dev.predicted", lambda v: [*v, 0], "$.predictions.dev.predicted: "),
        ("predictions.dev.predicted.0", -1, "$.predictions.dev.probabilities[0]: there is no"),
        ("predictions.dev.probabilities.0", None, "null, but there is an answer"),
        ("predictions.dev.probabilities", lambda v: v[1:], "$.predictions.dev.probabilities: "),
        ("predictions.dev.probabilities.4", [1.0], "[4]: 1 numbers for 7 labels"),
        ("predictions.dev.probabilities.4.1", "x", "$.predictions.dev.probabilities[4][1]: Exp"),
        ("predictions.test.dialogue", lambda v: v[1:], "$.predictions.test.dialogue: "),
        ("predictions.test.facts.words", lambda v: v[1:], "$.predictions.test.facts.words: "),
        ("predictions.test.facts.words.0", -1, "$.predictions.test.facts.words[0]: "),
        ("predictions.test.facts.previous_label.0", 7, "facts.previous_label[0]: 7 is something"),
        ("predictions.test.facts", {}, "$.predictions.test.facts.position: it is not there"),
        ("predictions.test", {}, "$.predictions.test.ids: it is not there"),
        ("metrics.test.per_class", lambda v: {**v, "joy": 3}, "$.metrics.test.per_class[...]: "),
        ("metrics.test.per_class", {}, "$.metrics.test.per_class: it lacks 'anger', 'disgust'"),
        ("metrics.test.confusion", lambda v: v[1:], "$.metrics.test.confusion: not 7 rows of 7"),
        ("metrics.test.confusion.0", [1], "$.metrics.test.confusion: not 7 rows of 7"),
        ("metrics", lambda v: {"test": v["test"]}, "$.metrics.dev: not there"),
        ("seed", True, "$.seed: Expected `int`, got `bool`"),
        ("encoder", [], "$.encoder: Expected"),
        ("config", 3, "$.config: Expected `object`, got `int`"),
        ("training.epochs", "8", "$.training.epochs: Expected `int"),
        ("environment.versions", {"torch": 2}, "$.environment.versions[...]: Expected `str"),
        ("dataset", None, "$.dataset: Expected `str`, got `null`"),
    ],
)
def test_a_value_that_does_not_fit_is_named(place: str, change: Any, words: str) -> None:
    message = fault(changed(place, change))
    assert words in message
    assert "is a damaged record: " in message
    assert "--force" in message


def places(value: Any, name: str = "") -> list[str]:
    """The places of all values inside a JSON value; of a list only the first two items."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    found = []
    for key, each in items:
        found.append(f"{name}.{key}" if name else f"{key}")
        if isinstance(each, (dict, list)):
            found += places(each, found[-1])
    return found


@pytest.mark.parametrize("value", [None, True, -5, 1.5, 10**30, 1e300, "x", [], [[]], {}, {"a": 0}])
def test_any_value_anywhere_is_read_or_refused(value: Any) -> None:
    refused = 0
    for place in places(made()):
        document = changed(place, value)
        found = tried(json.dumps(document).encode())
        if isinstance(found, str):
            refused += 1
            top = place.partition(".")[0]
            assert top in found or top == "labels"
        else:
            assert to_json(found) == document
    assert refused > 40


def test_a_missing_name_is_read_or_refused() -> None:
    for place in places(made()):
        document = made()
        parent, _, name = place.rpartition(".")
        holder = at(document, parent) if parent else document
        del holder[int(name) if isinstance(holder, list) else name]
        found = tried(json.dumps(document).encode())
        if isinstance(found, str):
            assert str(FILE) in found
        else:
            assert to_json(found) == document


# --- nothing is lost


def test_the_committed_records_are_written_as_they_were_read(tmp_path: Path) -> None:
    assert len(COMMITTED) >= 62
    for path in COMMITTED:
        write_record(tmp_path / "r.json", read_record(path))
        assert (tmp_path / "r.json").read_bytes() == path.read_bytes(), path


def test_a_summary_is_the_record_without_its_predictions(tmp_path: Path) -> None:
    for path in COMMITTED:
        whole, part = read_record(path), read_summary(path)
        for name in ("method", "dataset", "seed", "dataset_digest", "labels", "judged_by", "tuned"):
            assert getattr(part, name) == getattr(whole, name)
        assert (part.training is None) == (whole.training is None)
        for (split, ours), (other, theirs) in zip(
            part.metrics.items(), whole.metrics.items(), strict=True
        ):
            assert (split, ours.confusion) == (other, theirs.confusion)
            assert ours.score(part.judged_by) == theirs.score(whole.judged_by)
    place = place_of_made(tmp_path)
    assert place.summary() is None
    store(place.record, changed("predictions.test.gold", []))
    found = place.summary()
    assert found is not None
    assert found.metrics.test.weighted_f1 == made()["metrics"]["test"]["weighted_f1"]
    with pytest.raises(RecordError, match="holds no utterance"):
        place.finished()


def test_names_that_are_not_known_are_kept() -> None:
    document = made()
    document["trials"] = {"number": 30}
    document["extra"], document["keys"] = 1, None
    document["metrics"]["test"]["speaker_accuracy"] = 71.5
    document["metrics"]["test"]["per_class"]["joy"]["specificity"] = [1, None]
    document["predictions"]["notes"] = "x"
    document["predictions"]["dev"]["tokens"] = [0]
    document["encoder"]["adapter"] = {"rank": 8}
    record = read(document)
    assert record.metrics.test.extra == {"speaker_accuracy": 71.5}
    assert to_json(record) == document
    again = msgspec.structs.replace(record, variant="a", overrides=["lr=1"])
    assert to_json(again) == {**document, "variant": "a", "overrides": ["lr=1"]}


def test_whole_numbers_stay_whole() -> None:
    document = changed("metrics.test.weighted_f1", 59)
    assert '"weighted_f1": 59,' in json.dumps(to_json(read(document)))


def test_a_new_record_is_read_as_it_was_made(tmp_path: Path) -> None:
    whole = read(made())
    fields = {name: getattr(whole, name) for name in Record.__struct_fields__}
    del fields["keys"], fields["extra"]
    new = Record(**fields | {"external": True, "encoder": None, "environment": Environment()})
    write_record(tmp_path / "r.json", new)
    assert read_record(tmp_path / "r.json") == new
    assert stored(tmp_path / "r.json")["external"] is True
    assert "encoder" not in stored(tmp_path / "r.json")


def test_a_method_may_add_metrics_of_its_own() -> None:
    figures = made()["metrics"]["test"]
    metrics = typed({**figures, "speaker_accuracy": 80.0, "no_answer": 2.5}, Metrics)
    assert (metrics.no_answer, metrics.extra) == (2.5, {"speaker_accuracy": 80.0})
    with pytest.raises(ValueError, match="weighted_f1"):
        typed({**figures, "weighted_f1": "x"}, Metrics)
    with pytest.raises(ValueError, match="JSON"):
        typed({**figures, "weighted_f1": float("nan")}, Metrics)


def test_no_answer_is_read_shown_and_counted_as_wrong(tmp_path: Path) -> None:
    document = made()
    test = document["predictions"]["test"]
    right = [i for i, c in enumerate(test["gold"]) if test["predicted"][i] == c]
    other = copy.deepcopy(document)
    for i in right[:3]:
        test["predicted"][i], test["probabilities"][i] = -1, None
        # It counts like a wrong answer of an eighth class, which gold never has.
        other["predictions"]["test"]["predicted"][i] = 7
    record = read(document)
    assert record.predictions.test.predicted[right[0]] == -1
    assert to_json(record) == document
    gold, said = (np.array(test[name]) for name in ("gold", "predicted"))
    wrong = np.array(other["predictions"]["test"]["predicted"])
    seven, eight = (EMOTIONS, Metric()), ([*EMOTIONS, "another"], Metric())
    assert score_of(gold, said, *seven) == score_of(gold, wrong, *eight)
    document["metrics"]["test"]["weighted_f1"] = score_of(gold, said, *seven)
    found = decode("r.json", json.dumps(document).encode(), {})
    assert isinstance(found, dict)
    assert found["predicted"] == test["predicted"]


# --- a defect of the code is not reported as a damaged file


def broken(*_: object, **__: object) -> None:
    raise KeyError("predictions")


@pytest.mark.parametrize("defect", [KeyError("gold"), TypeError("gold"), AttributeError("gold")])
def test_a_defect_in_reading_is_not_reported_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: Exception
) -> None:
    def defective(*_: object, **__: object) -> None:
        raise defect

    write_records(tmp_path, [Method("a")], dialogues=8)
    paths = list(record_files(tmp_path))
    monkeypatch.setattr(faults, "_length_fault", defective)
    for use in (lambda: read_record(paths[0]), lambda: build(tmp_path), lambda: rescore(tmp_path)):
        with pytest.raises(type(defect)) as caught:
            use()
        assert caught.value is defect


@pytest.mark.parametrize(
    ("place", "argv"),
    [
        ("erc_bench.cli.printing.slices", ["show", "a/seed1"]),
        ("erc_bench.cli.printing.metrics_table", ["show", "a/seed1"]),
        ("erc_bench.leaderboard.decoding.score_of", ["leaderboard"]),
        ("erc_bench.leaderboard.decoding._cost", ["leaderboard"]),
        ("erc_bench.evaluation.metrics.evaluate", ["rescore"]),
        ("erc_bench.leaderboard.rescoring._same", ["rescore"]),
        ("erc_bench.records.corpora.corpus_source", ["explain", "a/seed1"]),
        (
            "erc_bench.leaderboard.comparing.flat",
            ["compare", "a:paper", "a:small", "--dataset=meld"],
        ),
    ],
)
def test_a_defect_in_a_command_is_not_reported_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, place: str, argv: list[str]
) -> None:
    from erc_bench.cli import main

    both = [Method("a", seeds=(1,)), Method("a", preset="small", seeds=(2,))]
    write_records(tmp_path, both, dialogues=8)
    argv = [*argv, "--leaderboard-dir", str(tmp_path)]
    monkeypatch.setattr(place, broken)
    with pytest.raises(KeyError, match="predictions"):
        main([*argv, "--debug"])
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "KeyError" in said
    assert "damaged" not in said


# --- fuzz

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 8)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4).filter(lambda text: text.isprintable()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


REAL = short(stored(next(path for path in COMMITTED if "speaker-mtl" in str(path))))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real record with up to three changes at any place, and sometimes one byte replaced."""
    document = json.loads(REAL)
    for _ in range(draw(st.integers(0, 3))):
        holder: Any = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            below = holder[key]
            if not isinstance(below, (dict, list)) or draw(st.integers(0, 3)) == 0:
                break
            holder = below
        what = draw(st.sampled_from(["replace", "remove", "add", "copy"]))
        if what == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = draw(PLAIN)
        elif not keys:
            continue
        elif what == "replace":
            holder[key] = draw(PLAIN)
        elif what == "remove":
            del holder[key]
        elif what == "copy":
            holder[key] = copy.deepcopy(at(document, draw(st.sampled_from(places(document)))))
    contents = json.dumps(document, ensure_ascii=draw(st.booleans())).encode()
    if draw(st.integers(0, 9)) == 0:
        start = draw(st.integers(0, len(contents)))
        contents = contents[:start] + draw(st.binary(max_size=3)) + contents[start + 1 :]
    return contents


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_a_changed_record_is_read_without_loss_or_refused(contents: bytes) -> None:
    of_leaderboard = decode(str(FILE), contents, {})
    found = tried(contents)
    if isinstance(found, str):
        assert str(FILE) in found
        return
    assert isinstance(of_leaderboard, dict) or "says weighted-F1" in of_leaderboard
    assert to_json(found) == json.loads(contents)
    assert tried(json.dumps(to_json(found)).encode()) == found
    show(Console(file=io.StringIO(), width=120), FILE, found)
