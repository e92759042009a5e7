"""A Hub on this machine, in memory, that speaks what huggingface_hub asks of the real one; for tests.

It knows one user and one token. Uploads go by Git LFS, so that clients must run with HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

USER = "vt"
TOKEN = "hf_" + "OnlyForTests" * 3
LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".png")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "unknown",
    "other",
)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """One repository: its commits, oldest first, each with all files."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        seed = repr((len(self.commits), sorted((name, git_oid(content)) for name, content in files.items())))
        self.commits.append((hashlib.sha1(seed.encode()).hexdigest(), files))
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


class LocalHub:
    """The state of the server, for tests to look into and to change.

    `cut` is asked of every request, with its method and path; where it says so, the connection is closed without an
    answer, after half of what the client sends has been read.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.cut: Callable[[str, str], bool] = lambda method, path: False

    def asked(self, method: str, path: str = "") -> int:
        """How many requests there were of a method, to paths that hold `path`."""
        return sum(method == verb and path in where for verb, where in self.requests)

    def cut_next(self, method: str, path: str, times: int = 1) -> None:
        """Cuts the next connections of a method to paths that hold `path`."""
        left = [times]

        def cut(verb: str, where: str) -> bool:
            if verb != method or path not in where or not left[0]:
                return False
            left[0] -= 1
            return True

        self.cut = cut


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str = "", body: Any = None) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, body or {"error": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # a client that has seen enough
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.cut(self.command, path):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self._body()
        try:
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    self._known_token()
                    self._send(200, route(self, body, **match.groupdict()))
                    return
            raise Refused(404, f"no such route: {self.command} {path}")
        except Refused as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, error.body, headers)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        if isinstance(content, tuple):
            content, headers = content
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who asks, and for what.

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _known_token(self) -> None:
        if self._token() not in ("", TOKEN):
            raise Refused(401, "Invalid username or password.")

    def _writer(self, namespace: str = USER) -> None:
        if not self._token():
            raise Refused(401, "Invalid username or password.")
        if namespace != USER:
            raise Refused(403, f"You don't have the rights to create a model under the namespace {namespace!r}")

    def _repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._token()):
            raise Refused(404 if self._token() else 401, "Repository not found", "RepoNotFound")
        return repo

    def _revision(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        for oid, files in reversed(repo.commits):
            if revision in ("main", oid):
                return oid, files
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    # Routes: what is asked, and the answer as JSON, or as bytes and headers.

    def whoami(self, body: bytes) -> Any:
        self._writer()
        return {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}}

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        namespace = asked.get("organization") or USER
        self._writer(namespace)
        name = f"{namespace}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            raise Refused(409, "You already created this model repo", body=answer | {"error": "already created"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private=bool(private))
        self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return answer

    def validate(self, body: bytes) -> Any:
        errors, warnings = card_problems(json.loads(body)["content"])
        answer = {"errors": [{"message": text} for text in errors], "warnings": [{"message": w} for w in warnings]}
        if errors:
            raise Refused(400, "Invalid metadata", body=answer)
        return answer

    def info(self, body: bytes, repo: str, revision: str | None = None) -> Any:
        found = self._repo(repo)
        oid, files = self._revision(found, revision or "main")
        siblings = [{"rfilename": name} for name in files]
        return {"id": repo, "modelId": repo, "sha": oid, "private": found.private, "tags": [], "siblings": siblings}

    def tree(self, body: bytes, repo: str, revision: str) -> Any:
        _, files = self._revision(self._repo(repo), revision)
        rows = []
        for name, content in files.items():
            rows.append({"type": "file", "path": name, "size": len(content), "oid": git_oid(content)})
            if name.endswith(LFS_ENDINGS):
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                rows[-1]["lfs"] = lfs
        return rows

    def preupload(self, body: bytes, repo: str, revision: str) -> Any:
        self._writer(repo.split("/")[0])
        _, files = self._revision(self._repo(repo), revision)
        rows = []
        for asked in json.loads(body)["files"]:
            mode = "lfs" if asked["path"].endswith(LFS_ENDINGS) else "regular"
            content = files.get(asked["path"])
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if mode == "lfs" else git_oid(content)
            rows.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": rows}

    def batch(self, body: bytes, repo: str) -> Any:
        self._writer(repo.split("/")[0])
        self._repo(repo)
        rows = json.loads(body)["objects"]
        for row in rows:
            if row["oid"] not in self.hub.objects:  # else there is nothing to do
                row["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{row['oid']}"}}
        return {"transfer": "basic", "objects": rows}

    def put(self, body: bytes, oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content has another hash")
        self.hub.objects[oid] = body
        return {}

    def commit(self, body: bytes, repo: str, revision: str) -> Any:
        self._writer(repo.split("/")[0])
        found = self._repo(repo)
        files = dict(found.files)
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        oid = found.commit(files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> Any:
        oid, files = self._revision(self._repo(repo), revision)
        if name not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = files[name]
        tag = hashlib.sha256(content).hexdigest() if name.endswith(LFS_ENDINGS) else git_oid(content)
        return content, {"X-Repo-Commit": oid, "ETag": f'"{tag}"'}


ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., Any]], ...] = (
    (("GET",), "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate),
    (("GET",), f"/api/models/{REPO}", Handler.info),
    (("GET",), f"/api/models/{REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    (("GET",), f"/api/models/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    (("POST",), f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (("POST",), f"/api/models/{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", Handler.put),
    (("GET", "HEAD"), f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
)


def card_problems(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a card's metadata, by the rules of the Hub's documentation on model cards."""
    match = re.match(r"\A\s*---[ \t]*\n(.*?)\n?---[ \t]*(\n|\Z)", text, flags=re.DOTALL)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"], []
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"], []
    errors = []
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            errors.append(f'"{name}" must be a list of strings')
    if data.get("license", "other") not in LICENSES:
        errors.append(f'"license" must be one of {", ".join(LICENSES)}')
    languages = data.get("language", [])
    for code in languages if isinstance(languages, list) else [languages]:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", str(code)):
            errors.append(f'"language" must be a code of ISO 639; got {code!r}')
    return errors + [problem for entry in data.get("model-index", []) for problem in _index_problems(entry)], []


def _index_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not entry.get("name"):
        yield '"model-index[].name" is required'
        return
    for result in entry.get("results", []):
        wanted = {"task": ("type",), "dataset": ("type", "name")}
        for part, names in wanted.items():
            missing = [name for name in names if not result.get(part, {}).get(name)]
            yield from (f'"model-index[].results[].{part}.{name}" is required' for name in missing)
        for metric in result.get("metrics", [{}]):
            yield from (f'"model-index[]...metrics[].{n}" is required' for n in ("type", "value") if n not in metric)


@contextmanager
def serve() -> Iterator[LocalHub]:
    """Runs a Hub of its own on a free port of this machine until the block ends."""
    hub = LocalHub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
