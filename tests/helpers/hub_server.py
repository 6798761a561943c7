"""A server on loopback that answers the calls of the Hub's client as the Hub does: models, branches, commits, LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_right"


class Hub:
    """What the server stores: per repository its visibility and branches, of commits, of files; large files apart."""

    def __init__(self) -> None:
        self.repos = dict[str, dict[str, Any]]()
        self.commits = dict[str, dict[str, bytes | str]]()
        """Per commit the files: content, or the hash of a large file."""
        self.large = dict[str, bytes]()
        self.calls = list[str]()
        self.read_only = False

    def commit(self, repo: str, branch: str, files: dict[str, bytes | str]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.repos[repo]["branches"][branch] = oid
        return oid

    def at(self, repo: str, revision: str) -> str | None:
        """The commit that a revision of a repository names."""
        return revision if revision in self.commits else self.repos[repo]["branches"].get(revision)

    def content(self, file: bytes | str) -> bytes:
        return self.large[file] if isinstance(file, str) else file

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return {name: self.content(file) for name, file in self.commits[self.repos[repo]["branches"][branch]].items()}


@contextmanager
def running_hub() -> Iterator[tuple[str, Hub]]:
    """A server in a thread of this process: its address, and what it stores."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].replace("%2F", "/")
        self.hub.calls.append(f"{self.command} {path}")
        stored = path.startswith(("/lfs/", "/cdn/"))  # their addresses are secrets by themselves
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}") and not stored:
            return self._fail(401, "Invalid credentials in Authorization header")
        for pattern, function in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return function(self, body, **match.groupdict())
        return self._fail(404, f"no such route: {self.command} {path}")

    def _send(self, status: int, content: bytes, headers: dict[str, Any] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _may(self, repo: str, *, write: bool = False) -> bool:
        """Whether the caller may; if not, the answer was sent."""
        known = self.headers.get("Authorization") is not None
        if repo not in self.hub.repos or (self.hub.repos[repo]["private"] and not known) or (write and not known):
            self._fail(404 if known else 401, "Repository not found", "RepoNotFound")
        elif write and self.hub.read_only:
            self._fail(403, "Forbidden: pass a token with write access")
        else:
            return True
        return False

    def whoami(self, body: bytes) -> None:
        if self.headers.get("Authorization") is None:
            return self._fail(401, "Invalid username or password.")
        return self._json({"type": "user", "name": "ann", "orgs": []})

    def create(self, body: bytes) -> None:
        given = json.loads(body)
        repo = f"{given.get('organization') or 'ann'}/{given['name']}"
        if repo in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": f"/{repo}"}, 409)
        private = given.get("private") or given.get("visibility") == "private"
        self.hub.repos[repo] = {"private": bool(private), "branches": {}}
        self.hub.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._json({"url": f"http://{self.headers['Host']}/{repo}", "name": repo})

    def branch(self, body: bytes, repo: str, branch: str) -> None:
        if not self._may(repo, write=True):
            return None
        branches = self.hub.repos[repo]["branches"]
        if branch in branches:
            return self._fail(409, f"Reference already exists: {branch}")
        branches[branch] = branches["main"]
        return self._json({})

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        if not self._may(repo):
            return None
        oid = self.hub.at(repo, revision or "main")
        if oid is None:
            return self._fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": name} for name in self.hub.commits[oid]]
        values = {"_id": "1", "id": repo, "sha": oid, "private": self.hub.repos[repo]["private"], "tags": []}
        return self._json({**values, "downloads": 0, "likes": 0, "siblings": siblings})

    def tree(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may(repo):
            return None
        rows, folders = list[dict[str, Any]](), set[str]()
        for path, file in self.hub.commits[self.hub.at(repo, revision) or ""].items():
            size = len(self.hub.content(file))
            row = {"type": "file", "path": path, "size": size, "oid": _git_hash(self.hub.content(file))}
            if isinstance(file, str):
                row["lfs"] = {"oid": file, "size": size, "pointerSize": 130}
            rows.append(row)
            folders |= {path.rpartition("/")[0]} - {""}
        return self._json(rows + [{"type": "directory", "path": name, "oid": "0", "size": 0} for name in folders])

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        values = yaml.safe_load(front[1]) if front else {}
        errors = [] if values.get("license") != "other" or values.get("license_name") else ["license_name is missing"]
        errors += [
            f"license {name!r}" for name in [values.get("license", "mit")] if not re.fullmatch(r"[a-z0-9.-]+", name)
        ]
        answer = {"errors": [{"message": one} for one in errors], "warnings": []}
        return self._json(answer, 400 if errors else 200)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may(repo, write=True):
            return None
        there = self.hub.commits[self.hub.at(repo, revision) or ""]
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
                "oid": (there[one["path"]] if isinstance(there.get(one["path"]), str) else None),
            }
            for one in json.loads(body)["files"]
        ]
        return self._json({"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        if not self._may(repo, write=True):
            return None
        host, objects = f"http://{self.headers['Host']}", json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.large:
                links = {"upload": f"{host}/lfs/{one['oid']}", "verify": f"{host}/lfs-verify"}
                one["actions"] = {name: {"href": link} for name, link in links.items()}
        return self._json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._fail(400, "the content has another hash")
        self.hub.large[oid] = body
        return self._send(200, b"", {"ETag": f'"{oid}"'})

    def verify(self, body: bytes) -> None:
        given = json.loads(body)
        right = len(self.hub.large.get(given["oid"], b"")) == given["size"]
        return self._json({}) if right else self._fail(422, "not there")

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self._may(repo, write=True):
            return None
        files = dict(self.hub.commits[self.hub.at(repo, revision) or ""])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile" if value["oid"] in self.hub.large:
                    files[value["path"]] = value["oid"]
                case "deletedFile":
                    del files[value["path"]]
                case "header":
                    pass
                case other:
                    return self._fail(400, f"not understood: {other}")
        oid = self.hub.commit(repo, revision, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{oid}"
        return self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        if not self._may(repo):
            return None
        oid = self.hub.at(repo, revision)
        file = self.hub.commits[oid].get(path) if oid else None
        if oid is None or file is None:
            return self._fail(404, "Entry not found", "EntryNotFound" if oid else "RevisionNotFound")
        content, headers = self.hub.content(file), {"X-Repo-Commit": oid}
        if isinstance(file, str):
            headers |= {"X-Linked-Etag": f'"{file}"', "X-Linked-Size": str(len(content))}
            elsewhere = self.headers["Host"].replace("127.0.0.1", "localhost")  # large files are on another host
            return self._send(302, b"", headers | {"Location": f"http://{elsewhere}/cdn/{file}"})
        return self._send(200, content, headers | {"ETag": f'"{_git_hash(content)}"'})

    def cdn(self, body: bytes, oid: str) -> None:
        return self._send(200, self.hub.large[oid], {"ETag": f'"{oid}"'})


_REPO, _REVISION = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
_ROUTES = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST /api/models/{_REPO}/branch/(?P<branch>.+)", _Handler.branch),
    (f"GET /api/models/{_REPO}(/revision/{_REVISION})?", _Handler.info),
    (f"GET /api/models/{_REPO}/tree/{_REVISION}", _Handler.tree),
    (f"POST /api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (f"POST /api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    (f"POST /{_REPO}.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.store),
    ("POST /lfs-verify", _Handler.verify),
    (f"(GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ("(GET|HEAD) /cdn/(?P<oid>[0-9a-f]{64})", _Handler.cdn),
]


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
