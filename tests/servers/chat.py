"""A plain chat API, after OpenAI's reference of 2026-11: chat completions alone, at most 20 likeliest tokens."""

from tests.servers.loopback import Refusal, not_found
from tests.servers.vllm import chat_answer


class Chat:
    """Args: model; names_tokens: whether it gives log-probabilities; fingerprint: of its system; key: that it wants."""

    def __init__(self, model, name="tiny", names_tokens=True, fingerprint="fp_1", key=None):
        self.model, self.name, self.names_tokens = model, name, names_tokens
        self.fingerprint, self.key = fingerprint, key

    def __call__(self, method, path, body):
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self.name, "owned_by": "organization"}]}
        if path != "/v1/chat/completions":
            raise not_found()
        if not self.names_tokens and body.get("logprobs"):
            raise Refusal(400, {"error": {"message": "logprobs are not supported with this model", "code": None}})
        return chat_answer(self.model, self.name, body, {"system_fingerprint": self.fingerprint})
