"""Shared by the tests of a teacher's client: requests, prices, and an entry of a log that remembers."""

import threading

from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.protocol import Request

CHAT = Request(endpoint="chat", prompt="Hello", max_tokens=16, temperature=1.0, top_p=1.0, seed=5)
RAW = Request(endpoint="completions", prompt="<s>user\n", max_tokens=16, temperature=0.5, top_p=0.9, seed=6, stop=("</s>",))
FREE = Prices(prompt=0.0, completion=0.0, source="test")
SECRET = "sk-very-secret-0123456789"
PAID = Prices(prompt=1.0, completion=1.0, source="test")


class Notes(list):
    """An entry of a log that remembers what it was told."""

    def may_cost(self, dollars):
        self.append(("may_cost", dollars))

    def cost_at_most(self, dollars):
        self.append(("cost_at_most", dollars))

    def not_sent(self):
        self.append(("not_sent",))

    def keep(self, reply):
        self.append(("keep", reply))


def ask(client, request=CHAT, entry=None):
    return client.ask(request, threading.Event(), Notes() if entry is None else entry)
