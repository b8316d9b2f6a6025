"""A hub on this machine: what the unmodified `huggingface_hub` client asks for, over HTTP.

Repositories are folders of bytes with commits. What the server does wrong on purpose is set on it:
`cut` ends a connection in the middle of a file, `damage` sends other bytes than it states, `gate`
asks for a token. `requests` is what was asked, for tests of resume.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

TOKEN = "hf_of_the_tests"
#: Files from this size on are large files, with SHA-256 for an etag and a redirect.
LARGE = 1000


class Hub:
    """The repositories, by (kind, name): commits in order, each a mapping of path to bytes."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.gated: dict[str, set[str]] = {}
        self.cut: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []
        self.address = ""

    def add(self, kind: str, name: str, files: Mapping[str, bytes]) -> str:
        """One more commit of a repository; its hash."""
        before = self.commits.setdefault((kind, name), {})
        hashes = {path: etag(data) for path, data in sorted(files.items())}
        stated = json.dumps([name, len(before), hashes]).encode()
        commit = hashlib.sha1(stated).hexdigest()
        before[commit] = dict(files)
        return commit

    def gate(self, name: str, *tokens: str) -> None:
        """Ask for one of these tokens before giving a file of a repository."""
        self.gated[name] = set(tokens)

    def files_asked(self, method: str = "GET") -> list[str]:
        """The names of the files that were asked for, in order."""
        asked = [path for its, path, _ in self.requests if its == method]
        return [
            path.split("/resolve/")[1].partition("/")[2] for path in asked if "/resolve/" in path
        ]


def etag(data: bytes) -> str:
    """SHA-256 of a large file, git's SHA-1 of a small one, as the hub has it."""
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range") or ""))
        if path.startswith("api/"):
            self.api(path.removeprefix("api/"), parse_qs(url.query), body)
        elif path.startswith("cdn/"):
            self.resolve(path.removeprefix("cdn/"), signed=True)
        elif "/resolve/" in path:
            self.resolve(path)
        else:
            self.refuse(404, "EntryNotFound")

    # --- answers

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"{}", X_Error_Code=code, X_Error_Message=code)

    def json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), Content_Type="application/json")

    def token(self) -> str | None:
        given = self.headers.get("Authorization")
        return given.removeprefix("Bearer ") if given else None

    def may_read(self, name: str) -> bool:
        if name not in self.hub.gated or self.token() in self.hub.gated[name]:
            return True
        self.refuse(403 if self.token() else 401, "GatedRepo")
        return False

    def commit_of(self, kind: str, name: str, revision: str) -> str | None:
        """The commit of a revision; refuses what is not there."""
        commits = self.hub.commits.get((kind, name))
        if commits is None:
            self.refuse(401 if self.token() is None else 404, "RepoNotFound")
            return None
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit

    # --- what is asked

    def api(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        kinds, owner, short, *rest = [*path.split("/"), ""][:-1] + [""] * 3
        kind, name = kinds.removesuffix("s"), f"{owner}/{short}"
        what, revision, *under = [*rest, "", ""]
        if what == "auth-check":
            if self.may_read(name):
                self.json({})
            return
        commit = self.commit_of(kind, name, revision if what else "main")
        if commit is None:
            return
        files = self.hub.commits[kind, name][commit]
        if what == "tree":
            folder = "/".join(part for part in under if part)
            self.tree(files, folder, query.get("recursive", ["False"])[0].lower() == "true")
        elif what == "paths-info":
            asked = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get(
                "paths", []
            )
            asked = [asked] if isinstance(asked, str) else asked
            self.json([_entry(one, files[one]) for one in asked if one in files])
        else:
            self.info(name, commit, files)

    def info(self, name: str, commit: str, files: Mapping[str, bytes]) -> None:
        siblings = [
            {"rfilename": one, "blobId": _git(data), "size": len(data), **_lfs(data)}
            for one, data in files.items()
        ]
        gated = "manual" if name in self.hub.gated else False
        self.json({"id": name, "sha": commit, "gated": gated, "private": False,
                   "tags": [], "siblings": siblings})  # fmt: skip

    def tree(self, files: Mapping[str, bytes], folder: str, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {one: data for one, data in files.items() if one.startswith(prefix)}
        if folder and not inside:
            self.refuse(404, "EntryNotFound")
            return
        folders = {
            prefix + "/".join(parts[:depth])
            for one in inside
            for parts in [one.removeprefix(prefix).split("/")]
            for depth in range(1, len(parts) if recursive else min(2, len(parts)))
        }
        listed = [{"type": "directory", "path": one, "oid": "0" * 40, "size": 0} for one in folders]
        listed += [
            _entry(one, data)
            for one, data in inside.items()
            if recursive or "/" not in one.removeprefix(prefix)
        ]
        self.json(listed)

    def resolve(self, path: str, signed: bool = False) -> None:
        """A file; a large one by way of an address that needs no token, as the hub's are."""
        where, _, rest = path.partition("/resolve/")
        kind = "dataset" if where.startswith("datasets/") else "model"
        name = where.removeprefix("datasets/")
        revision, _, file = rest.partition("/")
        commit = self.commit_of(kind, name, revision)
        if commit is None or not (signed or self.may_read(name)):
            return
        data = self.hub.commits[kind, name][commit].get(file)
        if data is None:
            self.send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        headers = {"ETag": f'"{etag(data)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if len(data) >= LARGE and not signed:
            linked = {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": str(len(data))}
            where = f"{self.hub.address}/cdn/{quote(path)}"
            self.send(302, X_Repo_Commit=commit, Location=where, **linked)
        elif self.command == "HEAD":
            self.send(200, Content_Length=str(len(data)), **headers)
        else:
            self.body(file, data, headers)

    def body(self, file: str, data: bytes, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range")
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        if file in self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        status = 206 if asked else 200
        if asked:
            headers["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
        data = data[: end + 1]
        cuts = self.hub.cut.get(file, [])
        stop = next((cut for cut in cuts if cut > start), None)
        if stop is None:
            self.send(status, data[start:], **headers)
            return
        cuts.remove(stop)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:stop])
        self.wfile.flush()
        self.close_connection = True


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _lfs(data: bytes) -> dict[str, object]:
    if len(data) < LARGE:
        return {}
    large = {"sha256": etag(data), "oid": etag(data), "size": len(data), "pointerSize": 134}
    return {"lfs": large}


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "oid": _git(data), "size": len(data), **_lfs(data)}


@contextmanager
def served(hub: Hub) -> Iterator[str]:
    """The hub's address while the block runs."""
    handler = type("OurHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_at(patch: pytest.MonkeyPatch, address: str, home: str) -> None:
    """Do in this process what HF_ENDPOINT and HF_HOME do where they are set before the imports."""
    import datasets.config
    import huggingface_hub.constants as constants

    from langmerge import paths  # noqa: F401  (its import is independent of these)

    patch.setenv("HF_ENDPOINT", address)
    patch.setenv("HF_HOME", home)
    patch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": f"{home}/hub",
        "HUGGINGFACE_HUB_CACHE": f"{home}/hub",
        "HF_TOKEN_PATH": f"{home}/token",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        patch.setattr(constants, name, value)
    for name, value in {
        "HF_ENDPOINT": address,
        "HF_DATASETS_CACHE": f"{home}/datasets",
        "HF_CACHE_HOME": home,
    }.items():
        if hasattr(datasets.config, name):
            patch.setattr(datasets.config, name, value)
