"""llama.cpp's server, README of build b8681: `/completion` with `n_probs`, `/v1/completions` without echo."""

from tests.servers.loopback import not_found
from tests.servers.vllm import usage

VERSION = "b8681"


class LlamaCpp:
    def __init__(self, model, name="tiny.gguf"):
        self.model, self.name = model, name

    def __call__(self, method, path, body):
        model = self.model
        if path == "/props":
            return {"build_info": VERSION, "model_path": self.name, "total_slots": 4}
        if path == "/v1/models":
            return {
                "object": "list",
                "data": [{"id": self.name, "owned_by": "llamacpp", "meta": {"n_ctx_train": 2048}}],
            }
        if path == "/tokenize":
            return {"tokens": self.model.ids(body["content"]) if "content" in body else []}
        if path == "/completion":
            ids = model.ids(body["prompt"])
            row = model.next(ids)
            top = model.top(row, body["n_probs"])
            named = [{"id": t, "token": model.text(t), "bytes": [], "logprob": float(row[t])} for t in top]
            first = {**named[0], "top_logprobs": named}
            return {"content": model.text(top[0]), "stop": True, "tokens_evaluated": len(ids), "tokens_predicted": 1,
                    "completion_probabilities": [first], "timings": {"cache_n": 0}}  # fmt: skip
        if path == "/v1/completions":
            ids = model.ids(body["prompt"])
            text, reason, tokens = model.write(ids, body["max_tokens"], body.get("stop") or ())
            choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
            return {"choices": [choice], "usage": usage(ids, tokens), "system_fingerprint": VERSION}
        raise not_found()
