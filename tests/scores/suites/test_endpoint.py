"""A server that doesn't say how likely a prompt is must be an error: its score would be that of guessing."""

import pytest
from scripted_teacher import Reply, scripted_teacher

from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites.backend import Ask
from alpaca_jax.scores.suites.endpoint import HttpBackend

ROWS = [([1, 2, 3, 4], 2), ([1, 2, 5], 2)]


def told(done):
    pass


def choice(token_logprobs, top_logprobs="the same", text="x"):
    top = [None if value is None else {"t": value} for value in token_logprobs] if top_logprobs == "the same" else top_logprobs
    logprobs = {"tokens": ["t"] * len(token_logprobs), "token_logprobs": token_logprobs, "top_logprobs": top, "text_offset": []}
    return {"index": 0, "finish_reason": "length", "text": text, "logprobs": logprobs}


def served(script):
    """A server whose one choice is what `script` makes of a request."""

    def reply(number, body):
        made = script(body)
        return (
            made
            if isinstance(made, Reply)
            else Reply({"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [made]})
        )

    return scripted_teacher(reply)


def backend(server, slots=2):
    return HttpBackend(server.base_url, 64, slots, model="m", retries=0)


def test_prompts_are_ids_and_their_log_probabilities_are_summed():
    def whole(body):
        values = [None, *[-0.5 * id for id in body["prompt"][1:]], -9.0]
        top = [None, *[{"a": value, "b": -1.0} for value in values[1:]]]
        return choice(values, top)

    with served(whole) as server:
        found = backend(server).likelihoods(ROWS, told)
    assert found == [(-3.5, False), (-2.5, False)]
    assert sorted(body["prompt"] for body in server.bodies) == sorted(ids for ids, _ in ROWS)
    assert all(body["echo"] and body["logprobs"] == 1 and body["max_tokens"] == 1 and body["temperature"] == 0 for body in server.bodies)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (choice([-1.0]), r"gives 1 log-probabilities for a prompt of \d tokens, so it can't say .* that of guessing"),
        ({"index": 0, "finish_reason": "stop", "text": "x", "logprobs": None}, "gives 0 log-probabilities"),
        (choice([None, -1.0, None, None, -1.0][:4]), "gives 4 log-probabilities for a prompt of 3|log-probabilities that are none"),
        (choice([None, -1.0, -1.0, -1.0], None), "gives 4 log-probabilities"),
        (choice([None, -1.0, 0.5, 0.5]), "log-probabilities that are none"),
        (Reply({"error": {"message": "echo: this parameter is not supported"}}, status=400), "refuses: .*echo"),
        (Reply(hang_up=True), "can't be reached"),
    ],
    ids=["only what it generated", "none", "gaps", "no likeliest", "positive", "refused", "hung up"],
)
def test_missing_log_probabilities_are_an_error(made, problem):
    with served(lambda body: made) as server, pytest.raises(UserError, match=problem):
        backend(server).likelihoods(ROWS, told)


def test_a_server_for_which_all_is_certain_has_no_log_probabilities():
    with (
        served(lambda body: choice([None, *[0.0] * len(body["prompt"])])) as server,
        pytest.raises(UserError, match="every answer is certain"),
    ):
        backend(server).likelihoods(ROWS, told)


def test_a_text_ends_before_its_stop_string():
    with served(lambda body: choice([], text="four\nQuestion: and")) as server:
        answers = backend(server).generate([Ask([1, 2], 8, ("Question:", "\n")), Ask([1], 4)], told)
    assert answers == ["four", "four\nQuestion: and"]
    assert {tuple(body.get("stop") or ()) for body in server.bodies} == {("Question:", "\n"), ()}
