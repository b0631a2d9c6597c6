"""The Hub's routes that an upload uses, in this process, and able to fail on demand.

It is a transport for huggingface_hub's own client: what is tested is what is really sent. Every byte that is
offered to it is kept, so that a test can say that none was ever offered that was not verified.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote

from huggingface_hub.utils._http import httpx2

STORE = "https://store.example"
CUT = "cut"  # the connection ends before an answer
LOST = "lost"  # what was asked is done, and the answer never comes


def git_blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repository:
    """One model repository: its files at the head of main."""

    private: bool = True
    files: dict[str, tuple[bytes, bool]] = field(default_factory=dict)  # path -> content, whether large
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    branches: list[str] = field(default_factory=lambda: ["main"])

    def hold(self, path: str, content: bytes = b"of an earlier upload") -> None:
        """Put a file there, as somebody did before."""
        self.files[path] = (content, path.endswith((".safetensors", ".bin", ".ckpt")))


@dataclass
class Fault:
    route: str
    what: int | str
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "no"
    times: int = 1_000


class FakeHub:
    """The server: `fail` makes a route fail; `calls` are what was asked, `offered` the sha256 of it all."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.offered: set[str] = set()
        self.tokens: set[str | None] = set()
        self.on_store: Callable[[str], None] = lambda _oid: None  # after the bytes came, before the answer
        self.before_commit: Callable[[], None] = lambda: None
        self.checks_what_is_stored = True
        self.routes = [
            ("create", "POST", r"/api/repos/create", self._create),
            ("preupload", "POST", r"/api/models/(?P<id>[^/]+/[^/]+)/preupload/main", self._preupload),
            ("batch", "POST", r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("store", "PUT", r"/store/(?P<oid>\w+)", self._store),
            ("check", "POST", r"/check", self._check),
            ("commit", "POST", r"/api/models/(?P<id>[^/]+/[^/]+)/commit/main", self._commit),
            ("tree", "GET", r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>\w+)", self._tree),
            ("refs", "GET", r"/api/models/(?P<id>[^/]+/[^/]+)/refs", self._refs),
            ("settings", "PUT", r"/api/models/(?P<id>[^/]+/[^/]+)/settings", self._settings),
            ("yaml", "POST", r"/api/validate-yaml", lambda _request: (200, {})),
            ("info", "GET", r"/api/models/(?P<id>[^/]+/[^/]+)", self._info),
        ]

    def client(self) -> httpx2.Client:
        """A client whose every request comes here."""
        return httpx2.Client(transport=httpx2.MockTransport(self.handle))

    def fail(self, route: str, what: int | str, **more) -> None:
        """From now on, a route answers with a status, or not at all (`CUT`, `LOST`)."""
        self.faults.append(Fault(route, what, **more))

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path = unquote(request.url.path)
        for name, method, pattern, answer in self.routes:
            match = re.fullmatch(pattern, path)
            if match and request.method == method:
                self.calls.append(name)
                if name != "store":
                    self.tokens.add(request.headers.get("authorization"))
                return self._answered(name, request, partial(answer, request, **match.groupdict()))
        raise AssertionError(f"the fake Hub has no route {request.method} {path}")

    def _answered(self, name: str, request, answer) -> httpx2.Response:
        fault = next((each for each in self.faults if each.route == name and each.times > 0), None)
        if fault is None:
            status, document = answer()
            headers = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
            return httpx2.Response(status, json=document, headers=headers, request=request)
        fault.times -= 1
        if fault.what == LOST:
            answer()
        if fault.what in (CUT, LOST):
            raise httpx2.ReadError("the connection was cut", request=request)
        document = {"error": fault.message, "url": "https://huggingface.co/lab/model"}
        return httpx2.Response(fault.what, json=document, headers=fault.headers, request=request)

    # what the routes do

    def _create(self, request):
        asked = json.loads(request.content)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {
                "error": "You already created this model repo",
                "url": f"https://huggingface.co/{name}",
            }
        self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        self.repositories[name].files[".gitattributes"] = (b"*.safetensors filter=lfs\n", False)
        return 200, {"url": f"https://huggingface.co/{name}", "name": name}

    def _info(self, request, id):
        if id not in self.repositories:
            return 404, {"error": "Repository not found"}
        held = self.repositories[id]
        return 200, {"id": id, "private": held.private, "sha": held.commits[-1], "tags": [], "siblings": []}

    def _tree(self, request, id, revision):
        held = self.repositories[id]
        assert revision == held.commits[-1], "only the head is kept here"
        listing = []
        for path, (content, large) in held.files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
            if large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["oid"] = git_blob(f"pointer {sha256}".encode())
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            listing.append(entry)
        return 200, listing

    def _refs(self, request, id):
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": "0" * 40}
            for name in self.repositories[id].branches
        ]
        return 200, {"branches": branches, "converts": [], "tags": []}

    def _settings(self, request, id):
        self.repositories[id].private = json.loads(request.content).get("visibility") == "private"
        return 200, {}

    def _preupload(self, request, id):
        assert id in self.repositories
        return 200, {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(request.content)["files"]
            ]
        }

    def _batch(self, request, id):
        objects = []
        for each in json.loads(request.content)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.stored:
                entry["actions"] = {
                    "upload": {"href": f"{STORE}/store/{each['oid']}?signature=SECRETSIGNATURE"},
                    "verify": {"href": f"{STORE}/check"},
                }
            objects.append(entry)
        return 200, {"objects": objects, "transfer": "basic"}

    def _store(self, request, oid):
        content = request.read()
        sha256 = hashlib.sha256(content).hexdigest()
        self.offered.add(sha256)
        self.on_store(oid)
        if self.checks_what_is_stored and sha256 != oid:
            return 400, {"error": "other bytes than were announced"}
        self.stored[oid] = content
        return 200, {}

    def _check(self, request):
        asked = json.loads(request.content)
        return (200 if asked["oid"] in self.stored else 404), {}

    def _commit(self, request, id):
        self.before_commit()
        held = self.repositories[id]
        lines = [json.loads(line) for line in request.read().splitlines()]
        parent = next(each["value"].get("parentCommit") for each in lines if each["key"] == "header")
        if parent != held.commits[-1]:
            return 412, {"error": "A commit has happened since"}
        files = dict(held.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.offered.add(hashlib.sha256(content).hexdigest())
                files[value["path"]] = (content, False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = (self.stored[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        held.files = files
        held.commits.append(f"{len(held.commits):040x}")
        return 200, {
            "success": True,
            "commitOid": held.commits[-1],
            "commitUrl": f"https://huggingface.co/{id}/commit/{held.commits[-1]}",
        }
