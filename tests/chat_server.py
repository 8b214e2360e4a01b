"""A real HTTP server that gives the answers a test chooses, by default in OpenAI's form."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """How the server answers a request."""

    text: str | None = "joy"
    """The text of the answer; ignored if ``body`` is given."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    after: float = 0.0
    """Seconds to wait before answering."""
    hang_up: bool = False


@dataclass
class ChatServer:
    """A running server and the requests that it received."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    """The largest number of simultaneous requests so far."""


@contextmanager
def chat_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[ChatServer]:
    """Run a server on a free port; ``reply`` gets a request's body and number, counted from 0."""
    lock, running = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.asked)
                server.asked.append(body)
                server.headers.append(dict(self.headers))
                running[0] += 1
                server.at_once = max(server.at_once, running[0])
            made = reply(body, number)
            time.sleep(made.after)
            with lock:
                running[0] -= 1
            if made.hang_up:
                self.close_connection = True
                return
            content = made.body
            if content is None:
                message = {"role": "assistant", "content": made.text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 100, "completion_tokens": 2}
                whole = {"model": "served-1", "choices": [choice], "usage": usage}
                content = json.dumps(whole).encode()
            try:
                self.send_response(made.status)
                for name, value in made.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has hung up
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ChatServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
