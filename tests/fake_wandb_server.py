"""A W&B server on loopback: answers what wandb's client asks, keeps what it is sent, fails on request."""

import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY, PROJECT = "tester", "prompt-grid-harness"


class FakeWandb:
    """State of the server.

    `fault` is how it fails: `hang` and `500` from the first request on, `refuse` the key,
    `late_500` and `late_403` once the run exists, `no_uploads` where files are put, or None.
    `delay_s` passes before each answer.
    """

    def __init__(self, fault=None, delay_s=0.0):
        self.fault, self.delay_s = fault, delay_s
        self.url = ""
        self.operations = []
        self.authorizations = set()
        self.bodies = []
        self.runs = {}
        self.files = {}
        self.artifacts = []
        self.artifact_files = {}
        self.presets, self.views = [], []
        self.gate = threading.Event()
        self.lock = threading.Lock()

    def run(self, run_id):
        return self.runs[run_id]

    def history(self, run_id):
        lines = self.runs[run_id]["streams"].get("wandb-history.jsonl", {})
        return [json.loads(lines[place]) for place in sorted(lines)]

    def summary(self, run_id):
        lines = self.runs[run_id]["streams"].get("wandb-summary.json", {0: "{}"})
        return json.loads(lines[max(lines)])

    def status(self, operation, method):
        """HTTP status of an answer, or None to leave the client waiting."""
        late = bool(self.runs) and operation not in ("UpsertBucket", "RunResumeStatus")
        if self.fault == "hang":
            return None
        if self.fault == "refuse":
            return 401
        if self.fault == "500" or (self.fault == "late_500" and late):
            return 500
        if (self.fault == "late_403" and late) or (self.fault == "no_uploads" and method == "PUT"):
            return 403
        return 200

    def graphql(self, name, values):
        answer = getattr(self, f"_{name}", None)
        return answer(values) if answer else {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, values):
        run = self.runs.get(values["name"])
        if run is None:
            return {"model": None}
        history = self.history(values["name"])
        bucket = {
            "id": "cnVu", "name": values["name"], "displayName": run["displayName"], "logLineCount": 0,
            "summaryMetrics": json.dumps(self.summary(values["name"])), "historyLineCount": len(history),
            "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(history[-1])] if history else []),
            "eventsTail": "[]", "config": run["config"], "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
        }  # fmt: skip
        return {"model": {"id": "cA==", "name": PROJECT, "entity": {"id": "ZQ==", "name": ENTITY}, "bucket": bucket}}

    def _UpsertBucket(self, values):
        known = self.runs.setdefault(values["name"], {"streams": {}, "complete": None})
        for name, value in values.items():
            if value is not None:
                known[name] = value
        bucket = {
            "id": "cnVu", "name": values["name"], "displayName": known.get("displayName"), "description": None,
            "config": known["config"], "sweepName": None, "historyLineCount": len(self.history(values["name"])),
            "project": {"id": "cA==", "name": PROJECT, "entity": {"id": "ZQ==", "name": ENTITY}},
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, values):
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, values):
        self.artifacts.append(values["input"])
        artifact = {"id": f"a{len(self.artifacts)}", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, values):
        name = f"{values['artifactID']}.json"
        file = {"id": "Zg==", "name": name, "displayName": name, "uploadUrl": f"{self.url}/manifests/{name}",
                "uploadHeaders": []}  # fmt: skip
        return {"createArtifactManifest": {"artifactManifest": {"id": "bQ==", "file": file}}}

    def _CreateArtifactFiles(self, values):
        edges = []
        for asked in values["input"]["artifactFiles"]:
            place = f"{asked['artifactID']}/{asked['name']}"
            node = {"id": "Zg==", "name": asked["name"], "displayName": asked["name"], "uploadHeaders": [],
                    "uploadUrl": f"{self.url}/artifacts/{place}", "uploadMultipartUrls": None, "storagePath": place,
                    "artifact": {"id": asked["artifactID"]}}  # fmt: skip
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, values):
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}

    def _Viewer(self, values):
        viewer = {
            "id": "dQ==",
            "entity": ENTITY,
            "username": ENTITY,
            "email": "",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"viewer": viewer}

    _GetDefaultEntity = _Viewer

    def _ProjectInternalId(self, values):
        return {"project": {"id": "cA==", "internalId": "cA=="}}

    def _GetProjects(self, values):
        node = {"id": "cA==", "name": PROJECT, "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00",
                "isBenchmark": False, "user": None}  # fmt: skip
        return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": [{"node": node}]}}

    def _CreateCustomChart(self, values):
        self.presets.append(values)
        return {"createCustomChart": {"chart": {"id": f"{values['entity']}/{values['chartName']}"}}}

    def _upsertView(self, values):
        self.views.append(values)
        project = {"id": "cA==", "name": values["projectName"], "entityName": values["entityName"]}
        view = {"id": "dmlldw==", "type": values["type"], "name": values["name"], "displayName": values["displayName"],
                "description": values["description"], "project": project, "spec": values["spec"],
                "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}  # fmt: skip
        return {"upsertView": {"view": view, "inserted": True}}

    def stream(self, run_id, body):
        run = self.runs[run_id]
        for name, chunk in body.get("files", {}).items():
            lines = run["streams"].setdefault(name, {})
            lines.update({chunk["offset"] + i: line for i, line in enumerate(chunk["content"])})
        if body.get("complete"):
            run["complete"] = body["exitcode"]

    def put(self, path, data):
        kind, _, name = path.lstrip("/").partition("/")
        (self.artifact_files if kind == "artifacts" else self.files)[name] = data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server.state
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = json.loads(data) if self.path == "/graphql" else {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", query.get("query", ""))
        operation = query.get("operationName") or (named[1] if named else self.path)
        with server.lock:
            server.operations.append(operation)
            server.bodies.append(data)
            server.authorizations.add(self.headers.get("Authorization"))
            status = server.status(operation, self.command)
        time.sleep(server.delay_s)
        if status is None:
            server.gate.wait()
            return
        answer = {"errors": [{"message": "refused"}], "error": "refused"}
        if status == 200:
            with server.lock:
                answer = {}
                if query:
                    answer = {"data": server.graphql(operation, query.get("variables") or {})}
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(data))
                elif self.command == "PUT":
                    server.put(self.path, data)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients that are killed hang up; that is what the tests are about."""


@contextmanager
def serving(state):
    """Serve a state on a free loopback port."""
    server = Server(("127.0.0.1", 0), Handler)
    server.state = state
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
