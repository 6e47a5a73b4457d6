"""A small stand-in for the hub: the endpoints that fetching needs, and ways to refuse."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 4096  # bytes from which a file has its sha256 as etag


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        repos: ``models/ORG/NAME`` or ``datasets/ORG/NAME`` → name → content.
        commits: What ``main`` stands for.
        gated: Repositories that only some tokens may read.
        private: Repositories that others are told nothing about.
        tokens: Token → the gated and private repositories that it may read.
        cut: The first so many transfers of large files break off in the middle.
        requests: Method, path and Range of every request.
    """

    repos: dict[str, dict[str, bytes]]
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    cut: int = 0
    down: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def commit(self, repo: str) -> str:
        return self.commits.get(repo, COMMIT)


def etag(content: bytes) -> str:
    if len(content) >= _LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves on a free port of the loopback."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.state
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        path = unquote(urlparse(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.down:
            return self.send(503, b"{}")
        api = path.startswith("/api/")
        parts = path.removeprefix("/api").strip("/").split("/")
        if parts[0] not in ("models", "datasets"):
            parts = ["models", *parts]
        repo, rest = "/".join(parts[:3]), parts[3:]
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and given not in hub.tokens:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self.send(401, b"{}", message)
        allowed = repo in hub.tokens.get(given, ())
        if repo not in hub.repos or (repo in hub.private and not allowed):
            return self.send(404 if given else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repo in hub.gated and not allowed:
            return self.send(403 if given else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        files, commit = hub.repos[repo], hub.commit(repo)
        if api:
            return self.api(files, commit, repo, rest, body)
        revision, name = rest[1], "/".join(rest[2:])
        if revision not in ("main", commit):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if name not in files:
            found = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self.send(404, b"{}", found)
        return self.file(files[name], commit)

    def api(
        self, files: dict[str, bytes], commit: str, repo: str, rest: list[str], body: bytes
    ) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", commit):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        listed = [self.described(name, content) for name, content in files.items()]
        if rest[:1] == ["tree"]:
            inside = "".join(f"{part}/" for part in rest[2:])
            below = [f for f in listed if f["path"].startswith(inside)]
            if "recursive=true" not in self.path.lower():
                here = [f for f in below if "/" not in f["path"].removeprefix(inside)]
                names = {f["path"].removeprefix(inside).split("/")[0] for f in below}
                folders = names - {f["path"].removeprefix(inside) for f in here}
                below = here + [
                    {"type": "directory", "path": inside + name, "oid": "0" * 40}
                    for name in sorted(folders)
                ]
            if not below:
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return self.send(200, json.dumps(below).encode())
        if rest[:1] == ["paths-info"]:
            asked = json.loads(body)["paths"] if body[:1] == b"{" else _form(body)
            found = [f for f in listed if f["path"] in asked]
            return self.send(200, json.dumps(found).encode())
        siblings = [{"rfilename": f["path"], "size": f["size"], "blobId": f["oid"]} for f in listed]
        info = {"id": repo.partition("/")[2], "sha": commit, "siblings": siblings, "tags": []}
        return self.send(200, json.dumps(info).encode())

    def described(self, name: str, content: bytes) -> dict[str, Any]:
        found = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if len(content) >= _LARGE:
            found["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 1}
        return found

    def file(self, content: bytes, commit: str) -> None:
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        cut = self.command == "GET" and len(content) >= _LARGE and self.state.cut > 0
        if cut:
            self.state.cut -= 1
        self.send(206 if start else 200, rest, headers, len(rest) // 2 if cut else None)

    def send(
        self,
        code: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self.close_connection = True


def _form(body: bytes) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(body.decode()).get("paths", [])
