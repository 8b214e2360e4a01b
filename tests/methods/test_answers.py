"""Answers of language models: the labels they name, their file, and requests to a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest
from chat_server import Reply, chat_server

from erc_bench.errors import ErcBenchError
from erc_bench.methods.answers import Answer, AnswerFile, Patience, Server, named_label

LABELS = ("anger", "joy", "neutral", "non-neutral")
QUICK = Patience(at_once=4, seconds=5.0, retries=3, wait=0.01)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("joy", "joy"),
        (" Joy.\n", "joy"),
        ("**Anger**", "anger"),
        ("_joy_", "joy"),
        ("The label is __joy__.", "joy"),
        ("not_joy", None),
        ('{"emotion": "joy"}', "joy"),
        ("The emotion is joy, pure joy.", "joy"),
        ("non-neutral", "non-neutral"),
        ("It is non-neutral.", "non-neutral"),
        ("<think>anger? no.</think>\njoy", "joy"),
        ("<think>it may be joy", None),
        ("joy or anger", None),
        ("not joy", None),
        ("It isn't joy.", None),
        ("happiness", None),
        ("joyful", None),
        ("", None),
        ("I cannot help with that.", None),
    ],
)
def test_an_answer_names_one_label_or_none(text: str, label: str | None) -> None:
    assert named_label(text, LABELS) == (-1 if label is None else LABELS.index(label))


# --- on disk


def test_half_a_surrogate_pair_of_a_server_is_replaced() -> None:
    """No file takes it, and it may have come from a file of an earlier version."""
    kept = AnswerFile("test-surrogates")
    kept.add("a", Answer("joy \ud83d", "st\ud83dop"))
    kept.path.write_text(
        kept.path.read_text(encoding="utf-8").replace("\ufffd", "\\ud83d"), encoding="utf-8"
    )
    answer = AnswerFile("test-surrogates").get("a")
    assert (answer.text, answer.finish) == ("joy \ufffd", "st\ufffdop")
    assert named_label(answer.text, LABELS) == LABELS.index("joy")


def test_answers_are_kept_whatever_happens_to_their_file() -> None:
    kept = AnswerFile("test-kept")
    first, second = Answer("joy", "stop", 3, 1, 0.5, "m"), Answer("x", likelihoods=[-1.0, -2.5])
    kept.add("a", first)
    with kept.path.open("ab") as file:
        file.write(b'{"key": "torn", "answ')  # killed while it wrote
    again = AnswerFile("test-kept")
    assert (again.get("a"), again.get("torn"), again.get("b")) == (first, None, None)
    again.add("b", second)
    kept.add("c", first)  # another process, which had opened it before
    last = AnswerFile("test-kept")
    assert [last.get(key) for key in "abc"] == [first, second, first]
    last.path.write_bytes(last.path.read_bytes() + b"[]\n\xff\n" + b'{"key": "d", "answer": {}}\n')
    assert AnswerFile("test-kept").get("d") is None
    assert AnswerFile("test-other").get("a") is None


# --- a server


def asked(server: Server, count: int, **body) -> dict[int, Answer]:
    """Send ``count`` requests and return the answers by their numbers."""
    found: dict[int, Answer] = {}
    bodies = [{"model": "m", "messages": [], "n": n, **body} for n in range(count)]
    server.ask(bodies, lambda number, answer: found.__setitem__(number, answer))
    return found


def test_the_number_of_requests_at_a_time_is_limited() -> None:
    with chat_server(lambda body, n: Reply(f"joy {body['n']}", after=0.05)) as running:
        found = asked(Server(running.url, "", QUICK), 12)
    assert {n: a.text for n, a in found.items()} == {n: f"joy {n}" for n in range(12)}
    assert 1 < running.at_once <= 4
    answer = found[3]
    assert (answer.prompt_tokens, answer.completion_tokens, answer.model) == (100, 2, "served-1")
    assert answer.seconds >= 0.05


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=429, headers={"Retry-After": "0.02"}, body=b"slow down"),
        Reply(status=500, body=b"oops"),
        Reply(status=503, body=b""),
        Reply(body=b"<html>nonsense</html>"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'["choices"]'),
        Reply(body=b"\xff\xfe"),
        Reply(hang_up=True),
        Reply(after=1.0),
    ],
    ids=["429", "500", "503", "html", "empty", "list", "bytes", "hangs up", "slow"],
)
def test_a_request_that_fails_twice_is_tried_a_third_time(fault: Reply) -> None:
    patience = Patience(2, 0.3, 3, 0.01)
    with chat_server(lambda body, n: fault if n < 2 else Reply("joy")) as running:
        found = asked(Server(running.url, "", patience), 1)
    assert found[0].text == "joy"
    assert len(running.asked) == 3


def test_a_server_that_always_fails_is_given_up_after_waits_that_grow() -> None:
    times = []

    def reply(body, n):
        times.append(time.perf_counter())
        return Reply(status=500)

    patience = Patience(1, 5, 3, 0.1)
    with (
        chat_server(reply) as running,
        pytest.raises(ErcBenchError, match=r"no answer in 4 tries \(the last: 500") as caught,
    ):
        asked(Server(running.url, "", patience), 2)
    assert "kept" in str(caught.value)
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert [wait > least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("status", "words"), [(401, "MY_KEY"), (403, "MY_KEY"), (404, "'m'"), (400, "max_tokens")]
)
def test_a_refusal_is_not_tried_again(status: int, words: str) -> None:
    body = json.dumps({"error": {"message": "because of the moon"}}).encode()
    with chat_server(lambda *_: Reply(status=status, body=body)) as running:
        with pytest.raises(ErcBenchError, match="because of the moon") as caught:
            asked(Server(running.url, "MY_KEY", Patience(1, 5, 3, 0.01)), 3)
        assert len(running.asked) == 1
    assert words in str(caught.value)


def test_a_filtered_or_empty_answer_is_no_label() -> None:
    body = json.dumps({"error": {"code": "content_filter", "message": "no"}}).encode()
    replies = [Reply(status=400, body=body), Reply(None), Reply("")]
    with chat_server(lambda body, n: replies[body["n"]]) as running:
        found = asked(Server(running.url, "", QUICK), 3)
    assert [found[n].text for n in range(3)] == ["", "", ""]
    assert found[0].finish == "content_filter"


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(ErcBenchError, match="can't be reached"):
        asked(Server("http://127.0.0.1:9/v1", "", Patience(2, 5, 9, 60)), 2)


def test_the_key_is_sent_to_the_server_and_shown_nowhere(monkeypatch, capsys) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-1")

    def reply(body, n):
        if body["n"] == 0:
            return Reply("You sent sk-secret-1. joy")
        return Reply(status=401, body=b'{"error": {"message": "wrong key sk-secret-1"}}')

    with chat_server(reply) as running:
        server = Server(running.url, "MY_KEY", Patience(1, 5, 1, 0.01))
        found = asked(server, 1)
        with pytest.raises(ErcBenchError) as caught:
            asked(server, 2)
    assert running.headers[0]["Authorization"] == "Bearer sk-secret-1"
    assert "sk-secret-1" not in str(found) + str(caught.value) + str(capsys.readouterr())
    monkeypatch.setenv("MY_KEY", "sk-sécret")
    with pytest.raises(ErcBenchError, match="MY_KEY") as caught:
        asked(server, 1)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://", "http://[::1"])
def test_an_invalid_address_is_an_error(url: str) -> None:
    with pytest.raises(ErcBenchError, match="is no address"):
        Server(url, "", QUICK)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "http://h/v1?key=secret"])
def test_an_address_with_a_secret_is_an_error(url: str) -> None:
    with pytest.raises(ErcBenchError, match="key_from") as caught:
        Server(url, "", QUICK)
    assert "secret" not in str(caught.value)


def test_requests_work_inside_a_running_event_loop_as_in_a_notebook() -> None:
    async def cell() -> dict[int, Answer]:
        return asked(Server(running.url, "", QUICK), 2)

    with chat_server(lambda *_: Reply("joy")) as running:
        assert len(asyncio.run(cell())) == 2
