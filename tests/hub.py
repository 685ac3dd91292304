"""A stand-in for the model hub: an HTTP server on 127.0.0.1 that answers as the hub's API does, with the faults one asks for.

``with serve(Hub()) as hub:`` gives ``hub.address``, which HF_ENDPOINT takes. What is on it are folders; what is uploaded is in
``hub.uploaded``. ``hub.faults`` are functions of a request that may answer in the hub's place.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "c0ffee" + "0" * 34
LOCK = threading.Lock()


@dataclass
class Hub:
    """What is on the hub, who may have it, and what has been asked."""

    models: dict[str, Path] = field(default_factory=dict)
    datasets: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: list[Callable[[Request], bool]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    uploaded: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[tuple[str, str, list[str]]] = field(default_factory=list)
    """Repository, message, files."""
    address: str = ""

    def files(self, kind: str, name: str) -> dict[str, bytes] | None:
        if kind == "models" and name in self.uploaded:
            return self.uploaded[name]
        folder = (self.models if kind == "models" else self.datasets).get(name)
        if folder is None:
            return None
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Request(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with LOCK:
            self.hub.asked.append(f"{self.command} {self.path}")
        if any(fault(self) for fault in list(self.hub.faults)):
            return
        path = unquote(urlparse(self.path).path)
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, path):
                getattr(self, answer)(*match.groups())
                return
        self.refuse(404, "EntryNotFound", f"no such page: {path}")

    def send(self, code: int, content: bytes = b"", **headers: str) -> None:
        """One answer; names of headers have _ for -."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code: int, error: str, message: str) -> None:
        """An answer as the hub's own: what is wrong stands in its headers."""
        self.send(code, json.dumps({"error": message}).encode(), X_Error_Code=error, X_Error_Message=message)

    def say(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), Content_Type="application/json")

    def _files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes] | None:
        """The files of a repository, or a refusal as the hub's."""
        files = self.hub.files(kind, name)
        token = self.headers.get("Authorization")
        if files is None:
            self.refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif name in self.hub.gated:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return files
        return None

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        files = self._files(kind, name, revision)
        if files is not None:
            siblings = [{"rfilename": path} for path in files]
            self.say({"id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings})

    def tree(self, kind: str, name: str, revision: str, under: str | None = None) -> None:
        files = self._files(kind, name, revision)
        if files is None:
            return
        recursive = parse_qs(urlparse(self.path).query).get("recursive", ["False"])[0].lower() in ("true", "1")
        prefix = f"{under}/" if under else ""
        entries = {}
        for path, content in files.items():
            if not path.startswith(prefix):
                continue
            rest = path.removeprefix(prefix)
            if recursive or "/" not in rest:
                entries[path] = _entry(path, content)
            else:
                folder = prefix + rest.partition("/")[0]
                entries[folder] = {"type": "directory", "path": folder, "oid": COMMIT, "size": 0}
        if entries:
            self.say(list(entries.values()))
        else:
            self.refuse(404, "EntryNotFound", f"{under} does not exist")

    def paths(self, kind: str, name: str, revision: str) -> None:
        files = self._files(kind, name, revision)
        if files is not None:
            asked = _form(self.body, self.headers.get("Content-Type", ""))
            folders = {path.rpartition("/")[0] for path in files}
            found = [_entry(path, files[path]) for path in asked if path in files]
            found += [{"type": "directory", "path": p, "oid": COMMIT, "size": 0} for p in asked if p in folders and p]
            self.say(found)

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        files = self._files("datasets" if kind else "models", name, revision)
        if files is None:
            return
        if path not in files:
            self.refuse(404, "EntryNotFound", f"{path} does not exist")
            return
        content = files[path]
        headers = {"ETag": f'"{_oid(content)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            begin, end = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{len(content)}"
            self.send(206, content[begin : end + 1], **headers)
        else:
            self.send(200, content, **headers)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if self.headers.get("Authorization") is None:
            self.refuse(401, "Unauthorized", "Invalid username or password.")
            return
        with LOCK:
            exists = name in self.hub.uploaded
            self.hub.uploaded.setdefault(name, {})
        address = f"{self.hub.address}/{name}"
        self.send(409 if exists else 200, json.dumps({"url": address, "name": name, "id": name}).encode())

    def preupload(self, name: str, revision: str) -> None:
        files = json.loads(self.body)["files"]
        self.say({"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]})

    def commit(self, name: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        added = {each["value"]["path"]: base64.b64decode(each["value"]["content"]) for each in lines if each["key"] == "file"}
        summary = next(each["value"]["summary"] for each in lines if each["key"] == "header")
        with LOCK:
            self.hub.uploaded[name].update(added)
            self.hub.commits.append((name, summary, sorted(added)))
        self.say({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})

    def card(self) -> None:
        self.say({"errors": [], "warnings": []})

    def who(self) -> None:
        self.say({"name": "someone", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (rf"/api/(models|datasets)/{_NAME}", "info"),
    (rf"/api/(models|datasets)/{_NAME}/revision/([^/]+)", "info"),
    (rf"/api/(models|datasets)/{_NAME}/tree/([^/]+)(?:/(.+))?", "tree"),
    (rf"/api/(models|datasets)/{_NAME}/paths-info/([^/]+)", "paths"),
    (rf"/(?:(datasets)/)?{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
    (r"/api/repos/create", "create"),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", "preupload"),
    (rf"/api/models/{_NAME}/commit/([^/]+)", "commit"),
    (r"/api/validate-yaml", "card"),
    (r"/api/whoami-v2", "who"),
]


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "oid": _oid(content), "size": len(content)}


def _form(body: bytes, kind: str) -> list[str]:
    """The paths that are asked for, as a form or as JSON."""
    if "json" in kind:
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else paths
    return parse_qs(body.decode()).get("paths", [])


# ------------------------------------------------------------------------------------------------------------- faults


def answering(code: int, error: str = "", *, at: str = "", times: float = float("inf"), after: int = 0, **headers: str):
    """Requests whose line has ``at`` in it, but for the first ``after``, are answered with a code, so many ``times``."""
    seen = 0

    def fault(request: Request) -> bool:
        nonlocal seen
        if not re.search(at, f"{request.command} {request.path}"):
            return False
        with LOCK:
            seen += 1
        if not after < seen <= after + times:
            return False
        request.send(code, b"{}", X_Error_Code=error, X_Error_Message=error, **headers)
        return True

    return fault


def hanging_up(*, at: str = "", after: int = 0):
    """Requests whose line has ``at`` in it, but for the first ``after``, get no answer."""
    seen = 0

    def fault(request: Request) -> bool:
        nonlocal seen
        if not re.search(at, f"{request.command} {request.path}"):
            return False
        with LOCK:
            seen += 1
        if seen <= after:
            return False
        request.close_connection = True
        return True

    return fault


def broken_off(*, at: str, share: float = 0.5):
    """The first whole answer to a GET of ``at`` ends in the middle."""
    broken: list[bool] = []

    def fault(request: Request) -> bool:
        if request.command != "GET" or not re.search(at, request.path) or broken or "/resolve/" not in request.path:
            return False
        broken.append(True)

        def cut(code: int, content: bytes = b"", **headers: str) -> None:
            request.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(content[: int(len(content) * share)])
            request.wfile.flush()
            request.close_connection = True

        request.send = cut  # type: ignore[method-assign]
        return False

    return fault


def slow(seconds: float, *, at: str = ""):
    """Requests whose line has ``at`` in it take longer."""

    def fault(request: Request) -> bool:
        if re.search(at, f"{request.command} {request.path}"):
            sleep(seconds)
        return False

    return fault


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub at ``hub.address`` while inside."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Request", (Request,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
