"""vLLM 0.33, "OpenAI-Compatible Server": completions with `logprob_token_ids`, `prompt_logprobs` and `echo`."""

from tests.servers.loopback import Refusal, not_found

VERSION = "0.33.0"


class Vllm:
    """Args: model; name: served; without: parameters that this (older) version passes over."""

    def __init__(self, model, name="tiny", without=(), version=VERSION):
        self.model, self.name, self.without, self.version = model, name, without, version

    def __call__(self, method, path, body):
        if path == "/version":
            return {"version": self.version}
        if path == "/v1/models":
            entry = {"id": self.name, "object": "model", "owned_by": "vllm", "root": "/models/tiny",
                     "max_model_len": 2048, "created": 1}  # fmt: skip
            return {"object": "list", "data": [entry]}
        if path == "/tokenize" and path not in self.without:
            ids = self.model.ids(body["prompt"])
            return {"tokens": ids, "count": len(ids), "max_model_len": 2048}
        if path not in ("/v1/completions", "/v1/chat/completions"):
            raise not_found()
        if body["model"] != self.name:
            message = f"The model `{body['model']}` does not exist."
            raise Refusal(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
        body = {key: value for key, value in body.items() if key not in self.without}
        return self.chat(body) if path.endswith("chat/completions") else self.complete(body)

    def complete(self, body):
        model = self.model
        ids = model.ids(body["prompt"])
        text, reason, tokens = model.write(ids, body["max_tokens"], body.get("stop") or ())
        choice = {"index": 0, "text": text, "finish_reason": reason, "stop_reason": None, "logprobs": None}
        whole = [*ids, *tokens] if body.get("echo") else tokens
        if body.get("logprobs") is not None:
            rows = model.logprobs([*ids, *tokens])
            begin = 0 if body.get("echo") else len(ids)
            choice["logprobs"] = self.logprobs(whole, rows, begin, body)
        if body.get("echo"):
            choice["text"] = model.tokenizer.decode(ids) + text
        if body.get("prompt_logprobs") is not None:
            rows = model.logprobs(ids)
            choice["prompt_logprobs"] = [None] + [
                {
                    str(token): {"logprob": float(rows[i - 1][token]), "rank": 1, "decoded_token": model.text(token)}
                    for token in [*model.top(rows[i - 1], body["prompt_logprobs"]), ids[i]]
                }
                for i in range(1, len(ids))
            ]
        return {"object": "text_completion", "model": self.name, "choices": [choice], "usage": usage(ids, tokens)}

    def logprobs(self, tokens, rows, begin, body):
        model = self.model
        as_ids = body.get("return_tokens_as_token_ids")
        name = (lambda token: f"token_id:{token}") if as_ids else model.text
        offsets, at = [], 0
        for token in tokens:
            offsets.append(at)
            at += len(model.text(token))
        values, tops = [], []
        for place, token in enumerate(tokens):
            if begin + place == 0:
                values.append(None)
                tops.append(None)
                continue
            row = rows[begin + place - 1]
            shown = body.get("logprob_token_ids") or model.top(row, body["logprobs"])
            values.append(float(row[token]))
            tops.append({name(t): float(row[t]) for t in dict.fromkeys([token, *shown])})
        return {"tokens": [name(t) for t in tokens], "token_logprobs": values, "top_logprobs": tops,
                "text_offset": offsets}  # fmt: skip

    def chat(self, body):
        return chat_answer(self.model, self.name, body, {})


def usage(ids, tokens):
    return {"prompt_tokens": len(ids), "completion_tokens": len(tokens), "total_tokens": len(ids) + len(tokens)}


def chat_answer(model, name, body, more):
    """OpenAI's chat completion, "Create chat completion", as of 2026-11: up to 20 `top_logprobs`."""
    if body.get("top_logprobs", 0) > 20:
        raise Refusal(400, {"error": {"message": "top_logprobs must be at most 20"}})
    ids = model.chat(body["messages"])
    text, reason, tokens = model.write(ids, body["max_tokens"], body.get("stop") or ())
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason, "logprobs": None}
    if body.get("logprobs"):
        rows = model.logprobs([*ids, *tokens])[len(ids) - 1 :]
        choice["logprobs"] = {
            "content": [
                {"token": model.text(token), "logprob": float(row[token]), "top_logprobs": [
                    {"token": model.text(t), "logprob": float(row[t])} for t in model.top(row, body["top_logprobs"])
                ]}
                for token, row in zip(tokens or [model.top(rows[0], 1)[0]], rows, strict=False)
            ]
        }  # fmt: skip
    return {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage(ids, tokens), **more}
