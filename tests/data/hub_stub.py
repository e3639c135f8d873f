"""A hub on this machine: as much of its interface as reading a dataset needs, with commits, branches and failures."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Repo:
    """One dataset: whole trees by commit, and what the branches and tags point at."""

    def __init__(self):
        self.trees: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.gated = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        names = "".join(f"{name} {hashlib.sha1(data).hexdigest()}" for name, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.trees)} {names}".encode()).hexdigest()
        self.trees[sha], self.refs[ref] = files, sha
        return sha


class Hub:
    """`with Hub() as hub:` serves `hub.repos` at `hub.url`."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        """method and path of all that was asked"""
        self.sent_bytes = 0
        self.down = False
        """answers with 503 to everything"""
        self.broken_reads = 0
        """so many of the next reads of a data file end in the middle; -1: all of them"""

    def repo(self, name: str) -> Repo:
        return self.repos.setdefault(name, Repo())

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.down:
            return self._error(503, "Down")
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/(.*))?)?", path):
            name, what, rest = found.groups()
            self._api(name, what or "revision", rest or "main", body)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._error(404, "EntryNotFound")

    def _api(self, name: str, what: str, rest: str, body: bytes) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._error(401, "RepoNotFound")
        if what == "refs":
            branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
                        for name, sha in repo.refs.items()]
            return self._json({"branches": branches, "tags": [], "converts": []})
        revision, _, folder = rest.partition("/")
        sha = repo.refs.get(revision, revision)
        if sha not in repo.trees:
            return self._error(404, "RevisionNotFound")
        tree = repo.trees[sha]
        if what == "revision":
            return self._json({"_id": "1", "id": name, "sha": sha, "private": False, "gated": False, "disabled": False,
                               "downloads": 0, "likes": 0, "tags": [],
                               "siblings": [{"rfilename": path} for path in tree]})
        if what == "paths-info":
            fields = json.loads(body) if body.startswith(b"{") else {}
            asked = fields.get("paths") or re.findall(r"paths=([^&]*)", unquote(body.decode()))
            asked = [asked] if isinstance(asked, str) else asked
            return self._json([entry for path in asked for entry in [self._entry(tree, path)] if entry])
        recursive = "recursive=true" in self.path.lower()
        below = folder + "/" if folder else ""
        paths = {path for path in tree if path.startswith(below)}
        folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
        entries = [self._entry(tree, path) for path in sorted(paths | folders)
                   if path.startswith(below) and path != folder
                   and (recursive or "/" not in path[len(below):])]
        if folder and not paths:
            return self._error(404, "EntryNotFound")
        return self._json(entries)

    def _entry(self, tree: dict[str, bytes], path: str) -> dict | None:
        if path in tree:
            return {"type": "file", "path": path, "size": len(tree[path]), "oid": hashlib.sha1(tree[path]).hexdigest()}
        if any(name.startswith(path + "/") for name in tree):
            return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
        return None

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._error(401, "RepoNotFound")
        if repo.gated:
            return self._error(401, "GatedRepo")
        sha = repo.refs.get(revision, revision)
        if sha not in repo.trees:
            return self._error(404, "RevisionNotFound")
        data = repo.trees[sha].get(path)
        if data is None:
            return self._error(404, "EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start:end + 1], 206
        cut = self.command == "GET" and self.hub.broken_reads and not path.endswith(".md")
        if cut and self.hub.broken_reads > 0:
            self.hub.broken_reads -= 1
        self._send(status, data, headers, cut=bool(cut))

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.hub.sent_bytes += len(data)
            self.wfile.write(data[:len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True
