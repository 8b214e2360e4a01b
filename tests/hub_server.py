"""A local server with the part of the Hugging Face hub's interface that the suite uses.

Repositories are in memory. All files are committed as regular files, because the hub's own library
is responsible for the transfer of large ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_writer"


class Repository:
    """A repository: its commits, each with all its files."""

    def __init__(self, private: bool, files: dict[str, bytes] | None = None) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.head = ""
        self.commit(files or {".gitattributes": b""})

    def commit(self, files: dict[str, bytes]) -> None:
        whole = {**self.commits.get(self.head, {}), **files}
        self.head = hashlib.sha1(repr((len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[self.head] = whole

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[self.head]


class Hub:
    """The server, with its repositories by ``user/name`` and the requested paths."""

    def __init__(self) -> None:
        self.repos: dict[str, Repository] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self._send(status, body, Content_Type="application/json", **headers)

    def _fault(self, status: int, code: str) -> None:
        self._json({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.state.asked.append(path)
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?", path
        )
        if not found:
            return self._fault(404, "NotFound")
        repo, kind, revision, file = found.groups()
        known = self.state.repos.get(repo)
        if known is None or (known.private and not self._may()):
            return self._fault(401, "RepoNotFound")
        sha = known.head if revision in (None, "main") else revision
        if sha not in known.commits:
            return self._fault(404, "RevisionNotFound")
        files = known.commits[sha]
        if kind == "resolve":
            if file not in files:
                return self._fault(404, "EntryNotFound")
            etag = f'"{hashlib.sha1(files[file]).hexdigest()}"'
            return self._send(200, files[file], ETag=etag, X_Repo_Commit=sha)
        if kind == "tree":
            oids = {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": oids[name]}
                    for name, data in files.items()
                ]
            )
        siblings = [{"rfilename": name} for name in files]
        return self._json(
            {"id": repo, "sha": sha, "private": known.private, "siblings": siblings, "tags": []}
        )

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        path = urlparse(self.path).path
        self.state.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._may():
            return self._fault(403, "Forbidden")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if repo in self.state.repos:
                return self._json({"url": f"{self.state.endpoint}/{repo}"}, 409)
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.state.repos[repo] = Repository(private)
            return self._json({"url": f"{self.state.endpoint}/{repo}", "id": repo})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if not found or found[1] not in self.state.repos:
            return self._fault(404, "RepoNotFound")
        known = self.state.repos[found[1]]
        if found[2] == "preupload":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        known.commit(
            {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
        )
        return self._json(
            {
                "success": True,
                "commitOid": known.head,
                "commitUrl": f"{self.state.endpoint}/{found[1]}/commit/{known.head}",
            }
        )
