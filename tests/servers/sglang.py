"""SGLang 0.5.23, "SGLang Native APIs" and "Sampling Parameters": `/generate` with `token_ids_logprob`."""

from tests.servers.loopback import Refusal, not_found
from tests.servers.vllm import usage

VERSION = "0.5.23"


class Sglang:
    def __init__(self, model, name="tiny"):
        self.model, self.name = model, name

    def __call__(self, method, path, body):
        model = self.model
        if path == "/get_server_info":
            return {"version": VERSION, "model_path": "/models/tiny"}
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.name, "owned_by": "sglang", "max_model_len": 2048}]}
        if path == "/generate":
            ids = body["input_ids"]
            row = model.next(ids)
            best = model.top(row, 1)[0]
            wanted = [[float(row[token]), token, None] for token in body["token_ids_logprob"]]
            meta = {"prompt_tokens": len(ids), "completion_tokens": 1, "cached_tokens": len(ids) // 2,
                    "finish_reason": {"type": "length", "length": 1},
                    "output_token_logprobs": [[float(row[best]), best, None]],
                    "output_token_ids_logprobs": [wanted]}  # fmt: skip
            return {"text": model.text(best), "meta_info": meta}
        if path == "/v1/completions":
            if body.get("logprob_token_ids") or body.get("prompt_logprobs"):
                raise Refusal(400, {"object": "error", "message": "unknown parameter", "code": 400})
            ids = model.ids(body["prompt"])
            text, reason, tokens = model.write(ids, body["max_tokens"], body.get("stop") or ())
            choice = {"index": 0, "text": text, "finish_reason": reason, "matched_stop": None}
            return {"object": "text_completion", "choices": [choice], "usage": usage(ids, tokens)}
        raise not_found()
