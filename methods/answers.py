"""Answers of language models: getting them from a server, keeping them, reading their labels."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from erc_bench.errors import ErcBenchError, quoted
from erc_bench.evaluation import NO_ANSWER
from erc_bench.files import cache_folder, cannot_write
from erc_bench.progress import bar, console, say

if TYPE_CHECKING:
    import httpx

MOST_SECONDS = 60.0
"""The longest wait between two tries."""


@dataclass(frozen=True)
class Answer:
    """What a model answered to one prompt."""

    text: str
    """The text as it came; with label likelihood, the most probable label."""
    finish: str = ""
    """Why it ended, in the server's words: ``stop``, ``length``, ``content_filter``."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """The time that it took, without failed tries."""
    model: str = ""
    """The server's name for the model."""
    likelihoods: list[float] | None = None
    """Log-likelihood of each label ``(C,)``; None if text was generated."""

    def __post_init__(self) -> None:
        for name in ("text", "finish", "model"):
            object.__setattr__(self, name, characters(getattr(self, name)))


def characters(text: str) -> str:
    """Replace single halves of surrogate pairs in a text, which no file and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- the label of an answer


NEGATION = re.compile(r"\b(no|not|nor|neither|never|without|cannot)\b|n['’]t\b", re.IGNORECASE)


def named_label(text: str, labels: Sequence[str]) -> int:
    """Return the class that an answer names; −1 if it names none or several.

    The label may be part of a sentence, but not after a negation; case does not matter. Text inside
    ``<think>`` is not the answer. An answer is never mapped to the most similar label.
    """
    said = text.rpartition("</think>")[2] if "</think>" in text else text
    if "<think>" in said:
        return NO_ANSWER  # the thinking never ended
    said = re.sub(r"(?<!\w)_+|_+(?!\w)", " ", said)  # italics: _joy_
    bare = said.strip(" \t\r\n.!,;:\"'`*“”‘’()[]{}").casefold()
    folded = [label.casefold() for label in labels]
    if bare in folded:
        return folded.index(bare)
    longest_first = sorted(folded, key=len, reverse=True)
    words = rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])"
    found = list(re.finditer(words, said.casefold()))
    if len({match[1] for match in found}) != 1 or NEGATION.search(said[: found[0].start()]):
        return NO_ANSWER
    return folded.index(found[0][1])


# --- kept on disk


def key_of(*parts: Any) -> str:
    """Return the SHA-256 of everything that an answer depends on, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class AnswerFile:
    """A file of answers by key, one per line, so that no question is asked twice.

    Several processes may add to it. A line that a killed process left unfinished is ignored. The
    file is in the user's cache; deleting it loses only the answers.

    Args:
        source: the model or server, as plain data; each source has a file of its own.
    """

    def __init__(self, source: Any) -> None:
        self.path = cache_folder() / "answers" / f"{key_of(source)[:32]}.jsonl"
        self._answers: dict[str, Answer] = {}
        whole = True
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            for line in file:
                self._remember(line)
                whole = line.endswith(b"\n")
        self._torn = not whole

    def _remember(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            held = json.loads(line)
            self._answers[str(held["key"])] = _answer_from(held["answer"])

    def get(self, key: str) -> Answer | None:
        """Return the answer with this key; None if there is none."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is in the file when this returns.

        Raises:
            ErcBenchError: the file can't be written.
        """
        self._answers[key] = answer
        line = json.dumps({"key": key, "answer": asdict(answer)}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:  # one write: lines don't mix
                file.write(("\n" * self._torn + line).encode())
            self._torn = False
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _answer_from(held: Mapping[str, Any]) -> Answer:
    """Return the answer of a line; raise ValueError if it is not one."""
    answer = Answer(**{each.name: held[each.name] for each in fields(Answer)})
    if not isinstance(answer.text, str) or not isinstance(answer.seconds, (int, float)):
        raise ValueError("it is no answer")
    return answer


# --- from a server


@dataclass(frozen=True)
class Patience:
    """How a server is asked; the answers do not depend on it."""

    at_once: int
    """Requests at a time."""
    seconds: float
    """Seconds that a request may take."""
    retries: int
    """How often a failed request is sent again."""
    wait: float
    """Seconds before the first retry; each later wait is twice as long."""


class _TryAgain(Exception):  # noqa: N818  it is caught here
    """Raised when a try failed, but another one may succeed."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def checked_url(base_url: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ErcBenchError: it is not an address, or it holds more, such as a password: the address is
            written into the record.
    """
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        more = bool(parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        good, more = False, False
    if more:
        raise ErcBenchError(
            "The setting base_url holds a user, a password or a query. It is written into the "
            "record, so give the address alone, such as http://localhost:8000/v1; a key is taken "
            "from the environment variable that key_from names."
        )
    if not good:
        raise ErcBenchError(
            f"The setting base_url={base_url} is no address of a server. Give one such as "
            "http://localhost:8000/v1."
        )
    return base_url.rstrip("/")


class Server:
    """A server that speaks OpenAI's interface for chats.

    Args:
        base_url: its address up to ``/chat/completions``.
        key_from: the environment variable with the key; not set = no key is sent.
        patience: how it is asked.
    """

    def __init__(self, base_url: str, key_from: str, patience: Patience) -> None:
        self.url = checked_url(base_url)
        self.key_from = key_from
        self.patience = patience
        self._said: set[str] = set()
        self._reached = False

    def ask(
        self, bodies: Sequence[Mapping[str, Any]], arrived: Callable[[int, Answer], None]
    ) -> None:
        """Send requests, several at a time.

        Args:
            bodies: the bodies of the requests.
            arrived: called with the number of a body and its answer as soon as the answer is there.

        Raises:
            ErcBenchError: the server can't be reached, refuses, or fails too often.
        """
        try:
            import httpx  # noqa: F401
        except ImportError as error:
            raise ErcBenchError(
                "Asking a server needs the package httpx. Install the extra: pip install "
                "'erc-bench[lm]'."
            ) from error
        with bar() as progress:
            task = progress.add_task("Asking the server", total=len(bodies))
            if not console.is_terminal:
                say(f"Asking {self.url} {len(bodies):,} questions …")

            def one(number: int, answer: Answer) -> None:
                arrived(number, answer)
                progress.advance(task)

            _run(lambda: self._ask_all(bodies, one))

    async def _ask_all(
        self, bodies: Sequence[Mapping[str, Any]], arrived: Callable[[int, Answer], None]
    ) -> None:
        import httpx

        numbered = iter(enumerate(bodies))
        limits = httpx.Limits(max_connections=self.patience.at_once)
        async with httpx.AsyncClient(
            timeout=None, limits=limits, headers=self._headers()
        ) as client:

            async def work() -> None:
                for number, body in numbered:
                    arrived(number, await self._one(client, body))

            tasks = [asyncio.ensure_future(work()) for _ in range(self.patience.at_once)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _key(self) -> str:
        return os.environ.get(self.key_from, "").strip() if self.key_from else ""

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not key:
            return {}
        if not key.isascii() or not key.isprintable():
            raise ErcBenchError(
                f"The environment variable {self.key_from} holds characters that no key has. Set "
                "it again."
            )
        return {"Authorization": f"Bearer {key}"}

    def _without_key(self, text: str) -> str:
        """Return text of the server without the key, which the server may repeat."""
        key = self._key()
        return text.replace(key, "***") if key else text

    async def _one(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer:
        """Return the answer to one request, after as many tries as are allowed."""
        wait = self.patience.wait
        for left in range(self.patience.retries, -1, -1):
            try:
                return await self._once(client, body)
            except _TryAgain as failure:
                if not left:
                    raise ErcBenchError(
                        f"The server {self.url} gave no answer in {self.patience.retries + 1} "
                        f"tries (the last: {failure}). The answers that arrived are kept: the same "
                        "command asks only for the rest. Try it later, with a smaller at_once, or "
                        "with a larger timeout."
                    ) from None
                pause = max(wait, failure.wait)
                self._say_once(f"{failure}; trying again, after longer and longer waits.")
            # The random part keeps requests that failed together from being sent together again.
            await asyncio.sleep(min(pause * (1 + random.random() / 4), MOST_SECONDS))
            wait *= 2
        raise AssertionError("the last try returns or raises")

    async def _once(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer:
        import httpx

        began = time.perf_counter()
        try:
            response = await asyncio.wait_for(
                client.post(f"{self.url}/chat/completions", json=dict(body)), self.patience.seconds
            )
        except asyncio.TimeoutError:
            raise _TryAgain(f"no answer in {self.patience.seconds:g} s") from None
        except httpx.ConnectError as error:
            if not self._reached:
                raise ErcBenchError(
                    f"The server {self.url} can't be reached ({self._without_key(str(error))}). "
                    "Start it, or check base_url."
                ) from None
            raise _TryAgain("it can't be reached any more") from None
        except httpx.TransportError as error:
            self._reached = True
            raise _TryAgain(f"the connection broke ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ErcBenchError(
                f"The server {self.url} can't be asked ({type(error).__name__}). Check base_url."
            ) from None
        self._reached = True
        return self._read(response, str(body.get("model")), time.perf_counter() - began)

    def _read(self, response: httpx.Response, model: str, seconds: float) -> Answer:
        """The answer in a response."""
        status = response.status_code
        name = f"{status} {response.reason_phrase}".strip()
        if status in (408, 409, 425, 429) or status >= 500:
            raise _TryAgain(name, _seconds(response.headers.get("retry-after", "")))
        try:
            said = json.loads(self._without_key(response.text))
        except ValueError:
            said = None
        if status != 200:
            error = said.get("error") if isinstance(said, dict) else None
            detail = error if isinstance(error, dict) else {"message": error or said or ""}
            if detail.get("code") == "content_filter":
                return Answer("", "content_filter", seconds=seconds)
            raise self._refused(name, status, model, str(detail.get("message", "")))
        try:
            (choice, *_) = said["choices"]
            message = choice["message"]
            text, finish = message.get("content"), choice.get("finish_reason")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _TryAgain("a response that does not follow OpenAI's interface") from None
        usage = said.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Answer(
            text if isinstance(text, str) else "",
            finish if isinstance(finish, str) else "",
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            round(seconds, 4),
            " ".join(str(said[k]) for k in ("model", "system_fingerprint") if said.get(k)),
        )

    def _refused(self, name: str, status: int, model: str, message: str) -> ErcBenchError:
        remedy = {
            401: f"Put the server's key into the environment variable {self.key_from}.",
            403: f"Check the key in the environment variable {self.key_from}, and what it allows.",
            404: f"Check base_url, and whether the server has the model {model!r}.",
        }.get(status, "Check the settings, among them request, max_tokens and the prompt's length.")
        detail = f": {quoted(message, 200)}" if message else ""
        return ErcBenchError(f"The server {self.url} refuses ({name}{detail}). {remedy}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(f"{self.url}: {text}")


def _seconds(text: str) -> float:
    """The seconds to wait that a server asks for; 0 if that is not a number."""
    try:
        return max(0.0, min(float(text), MOST_SECONDS))
    except ValueError:
        return 0.0


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _run(work: Callable[[], Any]) -> None:
    """Do asynchronous work to its end, even inside a running event loop, such as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    ready = threading.Event()

    async def noted() -> None:
        task = asyncio.current_task()
        assert task is not None
        started.append((asyncio.get_running_loop(), task))
        ready.set()
        await work()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: asyncio.run(noted()))
        try:
            done.result()
        except KeyboardInterrupt:
            if ready.is_set():
                loop, task = started[0]
                loop.call_soon_threadsafe(task.cancel)
            raise
