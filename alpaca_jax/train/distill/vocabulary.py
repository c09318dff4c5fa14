"""Whether the ids of a student's tokenizer mean the same to its teacher."""

from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer


def shared(student: Tokenizer, teacher: Tokenizer, name: str) -> int:
    """How many ids, from 0 on, both tokenizers have; a UserError where one of them is another token in each.

    Tokens are compared, not the rows of the models' tables: those are often padded, and to other numbers in models of one family.
    """
    count = min(student.vocab_size, teacher.vocab_size)
    if student.fingerprint == teacher.fingerprint:
        return count
    for id in range(count):
        one, other = student.backend.token(id), teacher.backend.token(id)
        if one != other:
            raise UserError(
                f"objective: the teacher {name} has another tokenizer than the student: token {id} is {other!r} there and {one!r} here. "
                "Give a teacher of the student's own family, or have it write the texts (alpaca-jax generate) and train on them"
            )
    return count
