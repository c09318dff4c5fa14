"""Shared by the tests of a log of answers: a request, its reply, and a log in a folder."""

from replies import received

from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Answer, Request

REQUEST = Request(endpoint="chat", prompt="Hi", max_tokens=5, temperature=1.0, top_p=1.0, seed=3, stop=("x",))
ANSWER = Answer(text="Hö\u2028", finish_reason="stop", model="m", prompt_tokens=1, completion_tokens=2, seconds=0.5)
REPLY = received("Hö\u2028", usage=(1, 2))
SETTINGS = {"method": "magpie", "seed": 0, "magpie.stop": ("x",)}
PRICES = Prices(prompt=1e6, completion=1e6, source="a dollar a token")


def opened(folder, given=SETTINGS, older=None):
    return AnswerLog(folder, given, Bill(PRICES), older)


def first_shard(folder):
    return folder / "00000000.jsonl"
