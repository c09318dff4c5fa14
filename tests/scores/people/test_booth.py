"""Voters at work: who gets what, going back, and going on after any kind of end."""

import json

import pytest
from ballots import MODELS, questions

from alpaca_jax.errors import UserError
from alpaca_jax.scores.people import votes
from alpaca_jax.scores.people.booth import HELD, Booth


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def booth(folder, count=10, overlap=0.4, clock=None):
    return Booth(questions(count), folder, overlap, 7, clock or Clock())


def vote_all(booth, name, level="tie"):
    """Votes to the end; returns the prompts in order."""
    place, seen = booth.enter(name), []
    while place.ballot:
        seen.append(place.ballot.turns[0])
        place = booth.vote(name, place.ballot.id, level)
    return seen


def test_all_meet_the_shared_ones_first_and_divide_the_rest(tmp_path):
    room = booth(tmp_path)
    seen = {"ada": [], "bob": []}
    for _ in range(10):
        for name, so_far in seen.items():
            if (place := room.enter(name)).ballot:
                so_far.append(place.ballot.turns[0])
                room.vote(name, place.ballot.id, "tie")
    assert set(seen["ada"][:4]) == set(seen["bob"][:4])
    assert not set(seen["ada"][4:]) & set(seen["bob"][4:])
    assert len(set(seen["ada"] + seen["bob"])) == 10
    assert len(seen["ada"]) == len(seen["bob"]) == 7


def test_what_one_voter_has_in_front_of_him_goes_to_no_other_until_he_has_gone(tmp_path):
    clock = Clock()
    room = booth(tmp_path, count=1, overlap=0, clock=clock)
    shown = room.enter("ada")
    waiting = room.enter("bob")
    assert shown.ballot is not None
    assert waiting.ballot is None and waiting.left == 1
    clock.now = HELD + 1
    assert room.enter("bob").ballot is not None
    # Ada is back and votes after all: two votes are better than one lost.
    room.vote("ada", shown.ballot.id, "tie")
    assert (room.enter("bob").left, room.enter("bob").done) == (0, 0)


def test_a_second_start_goes_on_where_the_first_ended(tmp_path):
    first = booth(tmp_path)
    straight = vote_all(booth(tmp_path / "other"), "ada")
    seen = []
    for _ in range(3):
        place = first.enter("ada")
        seen.append(place.ballot.turns[0])
        first.vote("ada", place.ballot.id, "first_much")
    pending = first.enter("ada")
    again = booth(tmp_path)  # a new process: all it has is the file
    assert again.enter("ADA  ") == pending
    assert seen + vote_all(again, "Ada") == straight
    assert len((tmp_path / "ada.jsonl").read_text().splitlines()) == 10


def test_the_file_says_what_was_shown_and_the_points_are_the_models(tmp_path):
    room = booth(tmp_path)
    place = room.enter("Ada Lovelace")
    room.vote("Ada Lovelace", place.ballot.id, "second_slightly")
    (line,) = (tmp_path / "ada lovelace.jsonl").read_text().splitlines()
    entry = json.loads(line)
    texts = {"gpt-secret-4": "Reply", "student-7b-mystery": "A rather longer reply"}
    assert place.ballot.a[0].startswith(texts[entry["first"]])
    assert place.ballot.b[0].startswith(texts[entry["second"]])
    (vote,) = room.votes()
    assert vote.points(entry["second"]) == 1.0
    assert vote.points(entry["first"]) == 0.0
    assert entry["voter"] == "Ada Lovelace"


def test_back_shows_the_earlier_vote_and_a_new_one_replaces_it(tmp_path):
    room = booth(tmp_path, count=4, overlap=1)
    ballots = []
    for level in ("first_much", "tie", "both_bad"):
        ballots.append(room.enter("ada").ballot)
        room.vote("ada", ballots[-1].id, level)
    back = room.back("ada", room.enter("ada").ballot.id)
    assert (back.ballot.id, back.ballot.level, back.done) == (ballots[2].id, "both_bad", 3)
    back = room.back("ada", back.ballot.id)
    assert (back.ballot.id, back.ballot.level) == (ballots[1].id, "tie")
    assert room.back("ada", ballots[0].id).ballot.level is None  # before the first there is nothing: the next page
    place = room.vote("ada", ballots[1].id, "second_much")
    assert place.done == 3
    assert [vote.level for vote in booth(tmp_path, count=4, overlap=1).votes()] == ["first_much", "second_much", "both_bad"]


def test_results_end_the_voting_for_good(tmp_path):
    room = booth(tmp_path, count=3, overlap=1)
    with pytest.raises(UserError, match="vote first"):
        room.close("ada")
    ballot = room.enter("ada").ballot
    room.vote("ada", ballot.id, "tie")
    assert room.close("ada").closed
    for again in (room, booth(tmp_path, count=3, overlap=1)):
        assert again.enter("ada").closed
        assert again.enter("ada").ballot is None
        with pytest.raises(UserError, match="has seen the results"):
            again.vote("ada", ballot.id, "first_much")
        with pytest.raises(UserError, match="has seen the results"):
            again.back("ada", None)
    assert room.enter("bob").ballot is not None


def test_votes_on_other_answers_do_not_count(tmp_path):
    vote_all(booth(tmp_path), "ada")
    changed = Booth(questions(10, (MODELS[0], "another-model")), tmp_path, 0.4, 7)
    assert changed.votes() == []
    assert changed.enter("ada").done == 0
    with pytest.raises(UserError, match="older than the answers"):
        changed.vote("ada", "0" * 20, "tie")


def test_names_are_files_and_nothing_else(tmp_path):
    room = booth(tmp_path / "votes")
    for name in ("../../etc/passwd", "Jürgen", "李雷", ".hidden", "a/b", "CON?*", "x" * 190):
        room.vote(name, room.enter(name).ballot.id, "tie")
    files = sorted(path.name for path in tmp_path.rglob("*.jsonl"))
    assert len(files) == 7
    assert all(path.parent == tmp_path / "votes" for path in tmp_path.rglob("*.jsonl"))
    assert not any(name.startswith(".") for name in files)
    assert {ledger.voter for ledger in votes.read(tmp_path / "votes")} >= {"Jürgen", "李雷", "a/b"}
    for name in ("", "  ", "...", "x" * 300):
        with pytest.raises(UserError, match="give a"):
            room.enter(name)


def test_a_torn_line_costs_that_vote_alone_and_a_broken_one_is_named(tmp_path):
    room = booth(tmp_path, overlap=1)
    for _ in range(2):
        room.vote("ada", room.enter("ada").ballot.id, "tie")
    path = tmp_path / "ada.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # the power went while the second was written
    again = booth(tmp_path, overlap=1)
    assert again.enter("ada").done == 1
    again.vote("ada", again.enter("ada").ballot.id, "first_much")
    assert [vote.level for vote in booth(tmp_path, overlap=1).votes()] == ["tie", "first_much"]
    path.write_bytes(whole.replace(b'"level": "tie"', b'"level": "maybe"', 1))
    with pytest.raises(UserError, match=r"ada\.jsonl, line 1: level='maybe' is none of first_much"):
        booth(tmp_path)
    path.write_text('{"voter": "ada"}\n')
    with pytest.raises(UserError, match=r"ada\.jsonl, line 1: a vote has the texts .* and question is not there"):
        booth(tmp_path)
