"""Questions, their secrets and a page over them, for the tests of the vote."""

from alpaca_jax.scores.people.questions import Question

MODELS = ("gpt-secret-4", "student-7b-mystery")
LEAKS = (*MODELS, "secret", "mystery", "student", "task_", "answers/")


def questions(count: int, models: tuple[str, str] = MODELS) -> list[Question]:
    """`count` questions; what the second model says is longer."""
    return [
        Question(f"task_{n}", (f"Request number {n}?",), models, ((f"Reply {n}.",), (f"A rather longer reply to {n}, with more words.",)))
        for n in range(count)
    ]
