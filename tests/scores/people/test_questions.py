"""Which question a voter gets, in which order, and what can be seen of it."""

from collections import Counter

from ballots import MODELS, questions

from alpaca_jax.scores.people.questions import Question, ballot, shared, shuffled, swapped


def test_a_key_depends_on_everything_that_a_voter_judges():
    base = questions(1)[0]
    others = [
        Question("task_1", base.turns, base.models, base.answers),
        Question(base.prompt, ("Another?",), base.models, base.answers),
        Question(base.prompt, base.turns, base.models[::-1], base.answers),
        Question(base.prompt, base.turns, base.models, (("Reply 0. ",), base.answers[1])),
        Question(base.prompt, base.turns, base.models, (base.answers[0] + base.answers[1], ())),
    ]
    assert len({question.key for question in [base, *others]}) == 6
    assert base.key == questions(1)[0].key


def test_order_and_sides_are_functions_of_voter_question_and_seed():
    asked = questions(40)
    assert shuffled(asked, "ada", 0) == shuffled(asked[::-1], "ada", 0)
    assert shuffled(asked, "ada", 0) != shuffled(asked, "bob", 0)
    assert shuffled(asked, "ada", 0) != shuffled(asked, "ada", 1)
    sides = {voter: [swapped(question, voter, 0) for question in asked] for voter in ("ada", "bob")}
    assert sides["ada"] != sides["bob"]
    assert sides["ada"] == [swapped(question, "ada", 0) for question in asked]


def test_each_side_is_as_likely_and_independent_of_the_place_in_the_order():
    asked = questions(400)
    count = Counter(swapped(question, voter, 3) for voter in ("ada", "bob", "eve") for question in asked)
    assert abs(count[True] - 600) < 70  # four standard deviations of 1,200 coins
    first = shuffled(asked, "ada", 3)[:200]
    assert abs(sum(swapped(question, "ada", 3) for question in first) - 100) < 30


def test_the_share_that_all_voters_get():
    asked = questions(50)
    assert len(shared(asked, 0.2, 0)) == 10
    assert shared(asked, 0, 0) == set()
    assert shared(asked, 1, 0) == {question.key for question in asked}
    assert shared(asked, 0.2, 0) < shared(asked, 0.4, 0)  # more overlap keeps what is shared already
    assert shared(asked, 0.2, 0) != shared(asked, 0.2, 1)


def test_an_id_says_nothing_and_is_another_for_each_voter():
    asked = questions(30)
    ids = {ballot(question, voter, 0) for question in asked for voter in ("ada", "bob")}
    assert len(ids) == 60
    assert not any(question.key in each or name in each for each in ids for question in asked for name in MODELS)
