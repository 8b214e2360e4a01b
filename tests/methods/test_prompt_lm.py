"""Runs of a prompted language model, on this machine and with a server."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_server import Reply, chat_server
from fitting import predicted_on

from erc_bench.corpus.conversation import Corpus
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.metrics import evaluate
from erc_bench.execution.recording import make_record
from erc_bench.execution.run import run
from erc_bench.method.data import ErcDataModule
from erc_bench.methods.answers import Answer
from erc_bench.methods.prompt_lm import PromptLM, PromptLMConfig
from erc_bench.methods.prompt_report import Asked
from erc_bench.records.place import Identity
from erc_bench.settings import registry
from erc_bench.settings.experiment import Experiment, resolve
from erc_bench.training.checkpoints import load_checkpoint
from erc_bench.training.train import Trained, prepare, train
from erc_bench.vectors import FeatureConfig, utterance_vectors


@pytest.fixture(scope="module")
def few(demo) -> Corpus:
    """A few dialogues: 3 train, 1 dev, 2 test."""
    sizes = {"train": 3, "dev": 1, "test": 2}
    return Corpus.build("demo", demo.labels, {s: demo.dialogues(s)[:n] for s, n in sizes.items()})


def asked(config: PromptLMConfig, corpus: Corpus, folder: Path, seed: int = 1) -> Trained:
    method = PromptLM(config, corpus.labels)
    return train(method, ErcDataModule(corpus, method, seed=seed), folder)


def recorded(trained: Trained, config: PromptLMConfig):
    """The record of a run, and its predictions on test."""
    method, corpus = trained.method, trained.data.corpus
    identity = PromptLM.encoder_identity(config)
    predictions = {split: trained.predict(split) for split in ("dev", "test")}
    record = make_record(
        Experiment("prompt-lm", "demo", "", 1, config),
        trained,
        Identity(corpus.digest, identity["name"], identity["digest"]),
        predictions=predictions,
        model=("model.ckpt", "0" * 64),
        plugin=registry.plugin("prompt-lm"),
        wall_seconds=1.0,
    )
    assert not method.trains
    return record, predictions["test"]


def labelled(corpus: Corpus, split: str):
    return [u for d in corpus.dialogues(split) for u in d.utterances if u.label is not None]


# --- on this machine


@pytest.fixture(scope="module")
def local(few, tiny_causal, tmp_path_factory) -> Trained:
    config = PromptLMConfig(encoder=tiny_causal, examples=3, window=3, max_len=512, keep=False)
    return asked(config, few, tmp_path_factory.mktemp("local"))


def test_the_record_holds_what_the_protocol_asks_for(local: Trained) -> None:
    record, test = recorded(local, local.method.config)
    told = record.encoder.prompting
    assert told.backend == "local"
    assert [p["name"] for p in told.prompts] == ["plain", "question", "annotator"]
    assert all(len(p["sha256"]) == 64 for p in told.prompts)
    assert record.config["prompt_digests"] == [p["sha256"] for p in told.prompts]
    train_ids = {u.id for u in labelled(local.data.corpus, "train")}
    assert len(told.examples) == 3
    assert set(told.examples) <= train_ids
    assert told.examples_from == "train"
    first, *others = told.paraphrases["test"]
    assert first["weighted_f1"] == pytest.approx(record.metrics.test.weighted_f1, abs=1e-3)
    assert len(others) == 2
    scores = [p["weighted_f1"] for p in told.paraphrases["test"]]
    assert told.spread["test"]["highest"] == max(scores)
    assert told.spread["test"]["lowest"] == min(scores)
    assert told.spread["test"]["mean"] == pytest.approx(sum(scores) / 3, abs=1e-3)
    assert set(told.masked) == {"dev", "test"}
    asked_for = len(record.predictions.dev.ids) + len(record.predictions.test.ids)
    assert told.answers == 4 * asked_for
    assert told.per_1000["prompt_tokens"] > 1000
    assert told.per_1000["seconds"] > 0
    assert record.selection == "none"
    assert record.metrics.test.calibration_error is not None
    torch.testing.assert_close(test.probabilities.sum(1), torch.ones(len(test.rows)))


def test_the_raw_answers_are_left_beside_the_record(local: Trained) -> None:
    test = local.predict("test")
    text = local.method.run_files()["answers.jsonl"]
    lines = [json.loads(line) for line in text.splitlines()]
    first = [x for x in lines if (x["prompt"], x["masked"], x["split"]) == ("plain", False, "test")]
    names, gold = local.method.labels.names, local.data.gold[test.rows]
    assert [x["id"] for x in first] == [local.data.ids[row] for row in test.rows]
    assert [names.index(x["label"]) for x in first] == test.classes.tolist()
    masked = [names.index(x["label"]) for x in lines if x["masked"] and x["split"] == "test"]
    figures = evaluate(torch.tensor(masked), gold, names)
    score = local.method.recorded()["prompting"]["masked"]["test"]["weighted_f1"]
    assert score == pytest.approx(figures["weighted_f1"], abs=1e-3)


def test_a_model_that_is_loaded_again_shows_the_same_examples(
    local: Trained, few, tmp_path
) -> None:
    state = local.method.saved_state()
    assert sum(value.numel() for value in state.values()) < 10_000  # the examples, not the model
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path)
    again = PromptLM(local.method.config, few.labels)
    load_checkpoint(again, path)
    only_test = Corpus.build("demo", few.labels, {"test": few.dialogues("test")})
    prepare(again, ErcDataModule(only_test, again))
    theirs, ours = local.method.logits, again.logits
    test = local.data.rows("test").tolist()
    torch.testing.assert_close(
        torch.stack(list(ours.values())), torch.stack([theirs[row] for row in test])
    )
    assert not again.recorded()  # only the first prompt is used for new dialogues


def test_examples_are_drawn_by_the_seed_from_all_labels(few, tiny_causal, tmp_path) -> None:
    drawn = {}
    for seed in (1, 2):
        config = PromptLMConfig(encoder=tiny_causal, examples=7, max_len=900, also_masked=False)
        method = PromptLM(config, few.labels)
        drawn[seed] = method._drawn_examples(ErcDataModule(few, method, seed=seed))
        labels = [example["label"] for example in drawn[seed]]
        there = {u.label for u in labelled(few, "train")}
        assert len(set(labels)) == min(7, len(there))
    assert drawn[1] != drawn[2]


def test_each_turn_is_shown_the_examples_nearest_to_it(
    few, tiny_causal, tiny_encoder, tmp_path
) -> None:
    """The examples are those of a plain loop over turns and examples."""
    config = PromptLMConfig(
        encoder=tiny_causal, examples=3, nearest=tiny_encoder, window=1, max_len=900, keep=False
    )
    trained = asked(config, few, tmp_path)
    vectors = utterance_vectors(few, tiny_encoder, FeatureConfig(epochs=0)).vectors
    ids = trained.data.ids
    pool = {}
    for row in trained.data.rows("train").tolist():
        utterance = next(u for u in labelled(few, "train") if u.id == ids[row])
        pool.setdefault((utterance.text, utterance.label), row)
    lines = [json.loads(x) for x in trained.method.run_files()["answers.jsonl"].splitlines()]
    rows = [row for split in ("dev", "test") for row in trained.data.rows(split).tolist()]
    assert [x["id"] for x in lines[: len(rows)]] == [ids[row] for row in rows]
    for row, line in zip(rows, lines, strict=False):
        near = [torch.cosine_similarity(vectors[row], vectors[n], dim=0) for n in pool.values()]
        threshold = sorted(near)[-3] - 1e-6
        at_least = {ids[n] for n, value in zip(pool.values(), near, strict=True)
                    if value >= threshold}  # fmt: skip
        assert len(line["examples"]) == 3
        assert set(line["examples"]) <= at_least
        shown = [near[[ids[n] for n in pool.values()].index(name)] for name in line["examples"]]
        assert all(a <= b + 1e-6 for a, b in itertools.pairwise(shown))  # the nearest comes last
    assert len({tuple(line["examples"]) for line in lines}) > 5
    record, _ = recorded(trained, config)
    told = record.encoder.prompting
    assert (told.examples, told.nearest["shown"]) == ([], 3)
    plain = replace(config, nearest="", examples=0)
    assert PromptLM.encoder_identity(config) != PromptLM.encoder_identity(plain)

    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": trained.method.saved_state()}, path)
    again = PromptLM(config, few.labels)
    load_checkpoint(again, path)
    only_test = Corpus.build("demo", few.labels, {"test": few.dialogues("test")})
    prepare(again, ErcDataModule(only_test, again))
    test = trained.data.rows("test").tolist()
    torch.testing.assert_close(
        torch.stack(list(again.logits.values())),
        torch.stack([trained.method.logits[row] for row in test]),
    )


def test_nearest_without_examples_is_an_error(tiny_encoder) -> None:
    with pytest.raises(ErcBenchError, match="Set examples=5"):
        PromptLMConfig(nearest=tiny_encoder)


def test_answers_on_disk_are_not_asked_for_again(few, tiny_causal, tmp_path, monkeypatch) -> None:
    config = PromptLMConfig(encoder=tiny_causal, window=2, max_len=512)
    first = asked(config, few, tmp_path / "a")
    calls = []
    ask = PromptLM._likelihoods

    def counted(self, prompts, *rest):
        calls.append(len(prompts))
        return ask(self, prompts, *rest)

    monkeypatch.setattr(PromptLM, "_likelihoods", counted)
    again = asked(config, few, tmp_path / "b")
    assert calls == []
    assert torch.equal(first.predict("test").probabilities, again.predict("test").probabilities)
    asked(replace(config, window=1), few, tmp_path / "c")
    assert sum(calls) > 0


# --- a server


def answering(body, number: int) -> Reply:
    """A reply without a label to questions; otherwise a label by the length of the prompt."""
    text = body["messages"][-1]["content"]
    if "?\n\n" in text or '?"' in text:
        return Reply("I would rather not say.")
    return Reply(("joy", "The label is Anger.")[len(text) % 2])


def with_server(url: str, **settings) -> PromptLMConfig:
    quick = {"wait": 0.01, "window": 2, "timeout": 5.0}
    return PromptLMConfig(encoder="some-model", base_url=url, **{**quick, **settings})


def test_a_reply_of_a_server_without_a_label_is_no_answer(few, tmp_path) -> None:
    with chat_server(answering) as running:
        config = with_server(running.url, price_in=2.0, price_out=10.0)
        trained = asked(config, few, tmp_path)
        record, test = recorded(trained, config)
    names = few.labels.names
    assert set(test.classes.tolist()) == {-1, names.index("joy"), names.index("anger")}
    share = 100 * (test.classes == -1).float().mean().item()
    assert record.metrics.test.no_answer == pytest.approx(share)
    assert record.predictions.test.probabilities is None
    assert record.metrics.test.calibration_error is None
    told = record.encoder.prompting
    assert told.served == {"served-1": told.answers}
    assert told.per_1000["prompt_tokens"] == 100_000
    asked_for = len(running.asked)
    assert told.answers >= asked_for  # identical requests are sent once
    assert told.cost == pytest.approx((2 * 100 + 10 * 2) * told.answers / 1e6)
    body = running.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 16)
    assert "seed" not in body
    shown = json.dumps(running.asked)
    assert "Speaker 1" in shown


def test_a_reply_in_the_words_of_its_prompt_is_an_answer(few, tmp_path) -> None:
    """A prompt may have its own words for the labels; the label itself counts, too."""
    mine = tmp_path / "backwards.jinja"
    mine.write_text(
        "{% block user %}Backwards: {{ target.text }}{% endblock %}"
        "{% block answer %}{{ label | reverse }}{% endblock %}",
        encoding="utf-8",
    )
    names = few.labels.names

    def reply(body, number):
        backwards = body["messages"][-1]["content"].startswith("Backwards: ")
        return Reply("yoj" if backwards else "joy")

    with chat_server(reply) as running:
        config = with_server(running.url, prompts=[str(mine), "plain", "question"])
        trained = asked(config, few, tmp_path / "run")
    assert set(trained.predict("test").classes.tolist()) == {names.index("joy")}
    spread = trained.method.recorded()["prompting"]["paraphrases"]["test"]
    assert {each["no_answer"] for each in spread} == {0}
    mine.write_text(
        "{% block user %}?{% endblock %}{% block answer %}same{% endblock %}", encoding="utf-8"
    )
    with pytest.raises(ErcBenchError, match=r"backwards\.jinja.*each label another answer"):
        PromptLM(with_server(running.url, prompts=[str(mine), "plain", "question"]), few.labels)


def test_prompts_with_the_same_contents_are_no_paraphrases(tmp_path) -> None:
    copies = [tmp_path / "a.jinja", tmp_path / "b.jinja"]
    for copy in copies:
        copy.write_text("{% block user %}{{ target.text }}{% endblock %}", encoding="utf-8")
    with pytest.raises(ErcBenchError, match="have the same contents"):
        PromptLMConfig(prompts=["plain", *map(str, copies)])


def test_likelihoods_that_are_no_numbers_are_no_answer(few, tiny_causal) -> None:
    method = PromptLM(PromptLMConfig(encoder=tiny_causal, max_len=512), few.labels)
    answer = Answer("", likelihoods=[float("nan")] * len(few.labels))
    assert method._class(answer, Asked(0, False)) == -1


def test_answers_that_are_not_kept_are_neither_read_nor_written(few, tmp_path, cache) -> None:
    kept = cache / "erc-bench" / "answers"

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in kept.glob("*")}

    with chat_server(lambda body, n: Reply("joy")) as running:
        config = with_server(running.url, also_masked=False, window=1)
        unkept = replace(config, keep=False)
        before = contents()
        asked(unkept, few, tmp_path / "a")
        once = len(running.asked)
        assert contents() == before
        asked(config, few, tmp_path / "b")
        assert len(running.asked) == 2 * once
        before = contents()
        asked(unkept, few, tmp_path / "c")
        assert len(running.asked) == 3 * once
        assert contents() == before


@pytest.mark.slow
def test_a_run_that_was_cut_off_sends_no_request_twice(few, tmp_path) -> None:
    sent: list[str] = []

    def reply(body, number):
        if number == 20:
            return Reply(status=400, body=b"{}")
        sent.append(json.dumps(body))
        return answering(body, number)

    with chat_server(reply) as running:
        config = with_server(running.url, at_once=1)
        with pytest.raises(ErcBenchError, match="refuses"):
            asked(config, few, tmp_path / "cut")
        whole = asked(config, few, tmp_path / "whole")
        count = len(running.asked)
        again = asked(replace(config, at_once=5, price_in=1.0), few, tmp_path / "again")
        assert len(running.asked) == count
    assert len(sent) == len(set(sent)) == count - 1
    assert torch.equal(whole.predict("test").classes, again.predict("test").classes)
    hashes = {Experiment("m", "demo", "", 1, c).hash for c in (config, replace(config, at_once=5))}
    assert len(hashes) == 1


def test_a_model_on_this_machine_takes_no_temperature() -> None:
    with pytest.raises(ErcBenchError, match=r"temperature=0.5 is a server's.*base_url"):
        PromptLMConfig(temperature=0.5)
    assert PromptLMConfig(base_url="http://127.0.0.1:1/v1", temperature=0.5).temperature == 0.5


@pytest.mark.slow
def test_settings_that_change_an_answer_cause_new_requests(few, tmp_path) -> None:
    with chat_server(answering) as running:
        config = with_server(running.url)
        asked(config, few, tmp_path / "a")
        for change in (
            {"max_tokens": 5},
            {"revision": "2026-01"},
            {"temperature": 1.0},
            {"request": {"reasoning_effort": "low", "max_tokens": None}},
        ):
            before = len(running.asked)
            asked(replace(config, **change), few, tmp_path / "b")
            assert len(running.asked) > before
        assert running.asked[-1]["reasoning_effort"] == "low"
        assert "max_tokens" not in running.asked[-1]
        before = len(running.asked)
        sampled = replace(config, temperature=1.0)
        asked(sampled, few, tmp_path / "c", seed=2)  # another seed draws other answers
        assert len(running.asked) > before
        assert running.asked[-1]["seed"] == 2


def test_a_run_stores_and_prints_no_key(
    registered_demo, tmp_path, monkeypatch, capsys, cache
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-2")
    with chat_server(lambda body, n: Reply("joy, as you said with sk-secret-2")) as running:
        settings = [f"base_url={running.url}", "key_from=MY_KEY", "encoder=m", "also_masked=false"]
        experiment = resolve("prompt-lm", "demo", overrides=[*settings, "at_once=16"])
        outcome = run(experiment, tmp_path)
        assert running.headers[0]["Authorization"] == "Bearer sk-secret-2"
        count = len(running.asked)
        assert run(experiment, tmp_path, force=True).record.metrics == outcome.record.metrics
        assert len(running.asked) == count
    (answers,) = tmp_path.rglob("answers.jsonl")
    assert "as you said with ***" in answers.read_text(encoding="utf-8")
    held = [*tmp_path.rglob("*"), *(cache / "erc-bench" / "answers").glob("*")]
    assert not [p for p in held if p.is_file() and b"sk-secret-2" in p.read_bytes()]
    assert "sk-secret-2" not in str(capsys.readouterr())


def test_without_the_test_set_nothing_is_asked_about_it(registered_demo, few, tmp_path) -> None:
    with chat_server(answering) as running:
        settings = [f"base_url={running.url}", "encoder=m", "window=0", "also_masked=false"]
        experiment = resolve("prompt-lm", "demo", overrides=settings)
        untested = run(experiment, tmp_path, no_test=True)
        own = {u.text for u in labelled(few, "test")} - {u.text for u in labelled(few, "dev")}
        assert not [text for text in own if json.dumps(text)[1:-1] in json.dumps(running.asked)]
        told = untested.record.encoder.prompting
        assert set(told.paraphrases) == set(told.spread) == {"dev"}
        assert '"split": "test"' not in next(tmp_path.rglob("answers.jsonl")).read_text(
            encoding="utf-8"
        )
        count = len(running.asked)
        record = run(experiment, tmp_path).record
        assert len(running.asked) > count
    assert set(record.encoder.prompting.paraphrases) == {"dev", "test"}
    assert len(record.predictions.test.ids) == len(labelled(few, "test"))
    assert not untested.path.exists()


@pytest.fixture
def registered_demo(few, monkeypatch) -> None:
    """Makes the demo corpus a few dialogues."""
    from erc_bench.datamodules.demo import Demo

    monkeypatch.setattr(Demo, "load", lambda self, data_dir: few)


@pytest.mark.slow
def test_transformers_serve_as_the_server(few, tiny_causal, tmp_path) -> None:
    """``transformers serve`` with the tiny model."""
    pytest.importorskip("fastapi", reason="transformers serve needs its extra 'serving'")
    pytest.importorskip("uvicorn", reason="transformers serve needs its extra 'serving'")
    pytest.importorskip("openai", reason="transformers serve needs its extra 'serving'")
    folder = shutil.copytree(tiny_causal, tmp_path / "model")
    chat = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            time.sleep(0.5)
        config = PromptLMConfig(
            encoder=str(folder),
            base_url=f"http://127.0.0.1:{port}/v1",
            also_masked=False,
            window=1,
            max_tokens=3,
            timeout=120.0,
        )
        record, test = recorded(asked(config, few, tmp_path / "run"), config)
    finally:
        process.terminate()
        process.wait()
    told = record.encoder.prompting
    assert told.served == {str(folder): told.answers}
    assert told.per_1000["prompt_tokens"] > 5_000
    assert told.per_1000["completion_tokens"] >= 1_000
    assert len(test.classes) == len(labelled(few, "test"))


def test_names_are_masked_by_a_setting(few, tiny_causal, tmp_path) -> None:
    config = PromptLMConfig(encoder=tiny_causal, names="masked", window=2, max_len=512)
    masked = asked(config, few, tmp_path / "a")
    real = asked(replace(config, names="real"), few, tmp_path / "b")
    told = real.method.recorded()["prompting"]
    assert "masked" not in masked.method.recorded()["prompting"]
    by_masked = masked.method.recorded()["prompting"]["paraphrases"]["test"][0]
    assert told["masked"]["test"]["weighted_f1"] == by_masked["weighted_f1"]


# --- settings


@pytest.mark.parametrize("prompts", [["plain", "question"], ["plain", "question", "plain"]])
def test_a_run_needs_three_prompts(prompts: list[str]) -> None:
    with pytest.raises(ErcBenchError, match="3 or more prompts, each only once"):
        PromptLMConfig(prompts=prompts)


def test_a_prompt_that_changed_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% block user %}{{ target.text }}{% endblock %}", encoding="utf-8")
    config = PromptLMConfig(prompts=["plain", "question", str(path)])
    path.write_text("{% block user %}{{ target.text }}?{% endblock %}", encoding="utf-8")
    changed = PromptLMConfig(prompts=config.prompts)
    assert changed.prompt_digests != config.prompt_digests
    with pytest.raises(ErcBenchError, match=r"mine\.jinja is not the one"):
        replace(config)


def test_new_dialogues_are_predicted_without_a_run(local: Trained, few) -> None:
    some = Corpus.build("demo", few.labels, {"test": few.dialogues("test")[:1]})
    found = predicted_on(local, some)
    assert len(found) == len(labelled(some, "test"))
