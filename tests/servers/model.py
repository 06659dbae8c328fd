"""The embedded model as servers see it: log-probabilities of the next token, and greedy writing."""

import threading

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Model:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
        self._lock = threading.Lock()
        self._known = {}

    def ids(self, prompt):
        return self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)

    def logprobs(self, ids):
        """`(n_ids, vocabulary)`, nats: what follows each id."""
        key = tuple(ids)
        with self._lock, torch.inference_mode():
            if key not in self._known:
                self._known[key] = self.model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy().astype(float)
            return self._known[key]

    def next(self, ids):
        return self.logprobs(ids)[-1]

    def top(self, row, n):
        """The n likeliest tokens of a row, likeliest first."""
        return [int(token) for token in np.argsort(-row, kind="stable")[:n]]

    def text(self, token):
        return self.tokenizer.decode([token])

    def write(self, ids, most, stops=()):
        """Greedy text without the stop text, why it ended, and its tokens."""
        tokens = []
        while len(tokens) < most:
            token = int(self.next([*ids, *tokens]).argmax())
            if token == self.tokenizer.eos_token_id:
                return self.tokenizer.decode(tokens), "stop", tokens
            tokens.append(token)
            text = self.tokenizer.decode(tokens)
            for stop in stops:
                if stop in text:
                    return text.partition(stop)[0], "stop", tokens
        return self.tokenizer.decode(tokens), "length", tokens

    def chat(self, messages):
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
