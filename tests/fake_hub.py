"""A hub of models and data sets on loopback, as far as huggingface_hub's client goes."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """Serves `repos[("model", "owner/name")] = {file: bytes}`. `commit()` follows from the files.

    `asked` are the paths that were asked for.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def commit(self, kind: str, repo: str) -> str:
        """Return the id of the newest commit."""
        files = sorted(self.repos[(kind, repo)].items())
        return hashlib.sha1(repr(files).encode(), usedforsecurity=False).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append(path)
        status, headers, data = self._reply(path)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body:
            handler.wfile.write(data)

    def _reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        words = path.strip("/").split("/")
        listing = words[0] == "api"
        words = words[1:] if listing else words
        kind = "dataset" if words[0] == "datasets" else "model"
        words = words[1:] if words[0] in ("datasets", "models") else words
        repo, rest = "/".join(words[:2]), words[2:]
        files = self.repos.get((kind, repo))
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self.commit(kind, repo)
        if listing:
            return self._listing(repo, files, commit, rest)
        name = "/".join(rest[2:])
        if rest[1] not in (commit, "main") or name not in files:
            code = "EntryNotFound" if rest[1] in (commit, "main") else "RevisionNotFound"
            return 404, {"X-Error-Code": code}, b""
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, files[name]

    def _listing(
        self, repo: str, files: dict[str, bytes], commit: str, rest: list[str]
    ) -> tuple[int, dict[str, str], bytes]:
        about = {"Content-Type": "application/json"}
        if len(rest) > 1 and rest[1] not in (commit, "main"):
            return 404, {**about, "X-Error-Code": "RevisionNotFound"}, b"{}"
        if rest and rest[0] == "tree":
            tree: Any = [
                {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                for n, d in files.items()
            ]
            return 200, about, json.dumps(tree).encode()
        siblings = [{"rfilename": name} for name in sorted(files)]
        found = {"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        return 200, about, json.dumps({**found, "downloads": 0, "likes": 0}).encode()
