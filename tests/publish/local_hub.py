"""A server on 127.0.0.1 that speaks as much of the Hugging Face hub's HTTP API as publishing and downloading need."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import yaml

TOKEN = "hf_localtoken"
MIN_LFS_BYTES = 100_000  # smaller files are part of the commit, as on the hub


class LocalHub:
    """Repositories in memory: {repo: {branch: [commit, …]}}; a commit is {"sha": …, "files": {name: bytes}}."""

    def __init__(self):
        self.repos, self.private, self.gated, self.blobs, self.requests = {}, set(), set(), {}, []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.storage = self.url.replace("127.0.0.1", "localhost")  # another host, as the hub's storage is
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def create(self, repo, files=None, *, branch="main"):
        commits = self.repos.setdefault(repo, {}).setdefault(branch, [])
        self.commit(commits, files or {})

    def commit(self, commits, changes):
        files = dict(commits[-1]["files"]) if commits else {}
        for name, data in changes.items():
            files.pop(name, None)
            if data is not None:
                files[name] = data
        text = json.dumps([len(commits), *((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())])
        commits.append({"sha": hashlib.sha1(text.encode()).hexdigest(), "files": files})
        return commits[-1]["sha"]

    def files(self, repo, branch="main"):
        return self.repos[repo][branch][-1]["files"]

    def find(self, repo, revision):
        branches = self.repos[repo]
        if revision in branches:
            return branches[revision][-1]
        return next((one for commits in branches.values() for one in commits if one["sha"] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self.read_chunks()
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path))
        for method, pattern, reply in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in (self.command, "GET" if self.command == "HEAD" else ""):
                return reply(self, *match.groups())
        return self.send(404, {"error": f"no such address: {path}"})

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status, value=None, *, data=None, **headers):
        data = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def has_token(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def refuses(self, repo, *, writing=False):
        """Send the answer for repositories that the caller cannot have; whether it was sent."""
        if writing and not self.has_token:
            self.send(401, {"error": "Invalid username or password."})
        elif repo in self.hub.gated and not self.has_token:
            self.send(401, {"error": "restricted"}, X_Error_Code="GatedRepo")
        elif repo not in self.hub.repos or (repo in self.hub.private and not self.has_token):
            self.send(404 if self.has_token else 401, {"error": "not found"}, X_Error_Code="RepoNotFound")
        else:
            return False
        return True

    def create_repo(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        if not self.has_token:
            return self.send(401, {"error": "Invalid username or password."})
        if not repo.startswith("me/"):
            return self.send(403, {"error": f"You don't have the rights to create a model under {repo}"})
        if repo in self.hub.repos:
            return self.send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"})
        self.hub.create(repo)
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(repo)
        return self.send(200, {"url": f"{self.hub.url}/{repo}"})

    def validate_yaml(self):
        """The rules of the hub that a card could break: a mapping, with a known shape of licence and model-index."""
        content = json.loads(self.body)["content"]
        problems = card_problems(yaml.safe_load(content.split("---\n")[1]))
        self.send(400 if problems else 200, {"errors": [{"message": text} for text in problems], "warnings": []})

    def model_info(self, repo, revision=None):
        if self.refuses(repo):
            return None
        commit = self.hub.find(repo, revision or "main")
        if commit is None:
            return self.send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        files = [{"rfilename": name, "size": len(data)} for name, data in commit["files"].items()]
        return self.send(200, {"id": repo, "modelId": repo, "sha": commit["sha"], "siblings": files})

    def create_branch(self, repo, branch):
        if not self.refuses(repo, writing=True):
            taken = branch in self.hub.repos[repo]
            self.hub.repos[repo].setdefault(branch, list(self.hub.repos[repo]["main"]))
            self.send(409 if taken else 200, {"error": "Reference already exists"})

    def preupload(self, repo, revision):
        if self.refuses(repo, writing=True):
            return
        there = self.hub.find(repo, revision)["files"]
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["size"] > MIN_LFS_BYTES else "regular"
            oid = {"oid": oid_of(there[file["path"]])} if file["path"] in there else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self.send(200, {"files": files})

    def lfs_batch(self, repo):
        if self.refuses(repo, writing=True):
            return
        objects = json.loads(self.body)["objects"]
        upload = [{**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}} for item in objects]
        self.send(200, {"transfer": "basic", "objects": upload})

    def lfs_upload(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        self.send(200, {})

    def lfs_download(self, oid):
        self.send(200, data=self.hub.blobs[oid], ETag=f'"{oid}"')

    def commit(self, repo, revision):
        if self.refuses(repo, writing=True):
            return
        changes = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changes[value["path"]] = self.hub.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                changes[value["path"]] = None
        sha = self.hub.commit(self.hub.repos[repo][revision], changes)
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def resolve(self, repo, revision, name):
        """A file: small ones at once, large ones by a redirect to their storage, as on the hub."""
        if self.refuses(repo):
            return
        commit = self.hub.find(repo, revision)
        data = commit["files"].get(name) if commit else None
        if data is None:
            self.send(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            return
        about = {"X_Repo_Commit": commit["sha"], "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if len(data) <= MIN_LFS_BYTES:
            self.send(200, data=data, **about)
            return
        oid = hashlib.sha256(data).hexdigest()
        self.hub.blobs[oid] = data
        about |= {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(data))}
        self.send(302, data=b"", Location=f"{self.hub.storage}/lfs/{oid}", **about)


def oid_of(data):
    """What identifies the contents of a file: git's hash, or SHA-256 of large ones."""
    if len(data) > MIN_LFS_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", r"/api/repos/create", _Handler.create_repo),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("POST", rf"/api/models/{REPO}/branch/(.+)", _Handler.create_branch),
    ("POST", rf"/api/models/{REPO}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(.+)", _Handler.commit),
    ("GET", rf"/api/models/{REPO}", _Handler.model_info),
    ("GET", rf"/api/models/{REPO}/revision/(.+)", _Handler.model_info),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(\w+)", _Handler.lfs_upload),
    ("GET", r"/lfs/(\w+)", _Handler.lfs_download),
    ("GET", rf"/{REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


def card_problems(metadata):
    """What the hub would refuse in the metadata of a card."""
    if not isinstance(metadata, dict):
        return ["the metadata is no mapping"]
    problems = [f"{key} is empty" for key, value in metadata.items() if value in (None, "", [])]
    licence = metadata.get("license", "unknown")
    if not re.fullmatch(r"[a-z0-9.-]+", licence) or (licence == "other") != ("license_name" in metadata):
        problems.append("license is no identifier")
    if not re.fullmatch(r"[a-z0-9.-]+", metadata.get("license_name", "x")):
        problems.append("license_name is no identifier")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("base_model", "a/b")):
        problems.append("base_model is no repository")
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            complete = result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            numbers = all(metric["type"] and isinstance(metric["value"], float) for metric in result["metrics"])
            if not complete or not numbers:
                problems.append("model-index has an incomplete result")
    return problems
