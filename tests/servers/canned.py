"""A server that computes nothing: every label is as likely as its id says. For timing."""

import sys

from tests.servers.loopback import Loopback, not_found


def answer(method, path, body):
    if path == "/v1/models":
        return {"data": [{"id": "canned"}]}
    if path != "/v1/completions":
        raise not_found()
    named = {f"token_id:{token}": -1.0 - token / 1e4 for token in body.get("logprob_token_ids", [0])}
    prompt = body["prompt"]
    return {
        "choices": [{"text": "", "logprobs": {"tokens": ["token_id:0"], "top_logprobs": [named]}}],
        "usage": {"completion_tokens": 1, **({"prompt_tokens": len(prompt)} if isinstance(prompt, list) else {})},
    }


if __name__ == "__main__":
    print(Loopback(answer, seconds=float(sys.argv[1])).url, flush=True)
    sys.stdin.read()
