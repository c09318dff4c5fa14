"""The page in a real browser: keys, going back, reloading, two voters, strange answers, a phone."""

import contextlib
import json
import threading

import browser
import pytest
from ballots import LEAKS, MODELS, questions

from alpaca_jax import listening
from alpaca_jax.evaluate.vote.app import Page
from alpaca_jax.evaluate.vote.server import Server
from alpaca_jax.scores.people.booth import Booth
from alpaca_jax.scores.people.questions import Question
from alpaca_jax.terminal import Console

RESULTS = [
    {"title": "What people prefer", "note": "Said at the end.", "head": ["model", "votes"], "rows": [[MODELS[0], "3"]], "numbers": [1]}
]
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\n" + "long " * 4000
READY = "!document.getElementById('vote').hidden && !document.body.classList.contains('busy')"


@pytest.fixture(scope="module")
def chromium():
    with browser.running() as one:
        yield one


@contextlib.contextmanager
def serving(asked, folder, overlap=1.0):
    page = Page(Booth(asked, folder, overlap, 0), lambda: RESULTS)
    with listening.listen("127.0.0.1", 0) as listener:
        server = Server(page, "127.0.0.1", listener, Console(stderr=True, quiet=True))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server.url
        finally:
            server.should_exit = True
            thread.join(20)


def enter(tab, url, name):
    tab.open(url)
    tab.until("document.activeElement.id === 'name'")
    tab.type(name)
    tab.press("Enter")
    tab.until(READY)


def press(tab, key):
    """Presses a key that votes or goes back, and returns once the page has moved on."""
    before = tab.value("ballot.id")
    tab.press(key)
    tab.until(f"ballot === null || ballot.id !== {json.dumps(before)}")
    tab.until("!document.body.classList.contains('busy')")


def field(folder, name, key):
    """What each vote of a voter has there, in the order of the file."""
    entries = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
    return [entry[key] for entry in entries if key in entry]


def test_keys_back_reload_and_the_end(chromium, tmp_path):
    with serving(questions(7), tmp_path) as url:
        tab = chromium.tab()
        enter(tab, url, "Ada")
        assert tab.value("document.activeElement.id") == "asked"  # a screen reader begins with the request
        for key in "12345":
            press(tab, key)
        assert tab.value("at('count').textContent") == "5 of 7"
        assert tab.value("at('said').textContent").startswith("5 of 7 votes given")
        waiting = tab.value("ballot.id")
        press(tab, "Backspace")
        assert tab.value("document.querySelector('[aria-pressed=true]').dataset.level") == "second_much"
        press(tab, "b")
        assert tab.value("ballot.id") == waiting
        tab.open(url)  # reloaded: no name is asked for again, and the same page is there
        tab.until(READY)
        assert tab.value("ballot.id") == waiting
        press(tab, "0")
        tab.value("document.querySelector('[data-level=second_slightly]').click()")
        tab.until("!document.getElementById('end').hidden")
        expected = ["first_much", "first_slightly", "tie", "second_slightly", "second_much", "both_bad", "both_bad", "second_slightly"]
        assert field(tmp_path, "ada", "level") == expected
        assert not [leak for leak in LEAKS if leak in tab.value("document.documentElement.outerHTML")]
        tab.value("at('close').click()")
        tab.until("!document.getElementById('results').hidden")
        assert MODELS[0] in tab.value("at('results').innerText")
        assert tab.messages == []


def test_a_killed_server_comes_back_and_two_voters_share_it(chromium, tmp_path):
    asked = questions(6)
    ada, bob = chromium.tab(), chromium.tab()
    with serving(asked, tmp_path, overlap=0.5) as url:
        enter(ada, url, "ada")
        enter(bob, url, "bob")
        for tab in (ada, bob, ada):
            press(tab, "2")
        waiting = ada.value("ballot.id")
    ada.press("1")
    ada.until("!at('wrong').hidden")
    assert "does not answer" in ada.value("at('wrong').textContent")
    with serving(asked, tmp_path, overlap=0.5) as url:  # another port: the browser knows nothing, the server all
        enter(ada, url, "ada")
        enter(bob, url, "bob")
        assert ada.value("ballot.id") == waiting
        for tab in (ada, bob) * 3:
            if tab.value("ballot !== null"):
                press(tab, "3")
        while any(tab.value("ballot !== null") for tab in (ada, bob)):
            for tab in (ada, bob):
                if tab.value("ballot !== null"):
                    press(tab, "3")
    of_ada, of_bob = (field(tmp_path, name, "prompt") for name in ("ada", "bob"))
    assert len(set(of_ada) & set(of_bob)) == 3
    assert len(set(of_ada) | set(of_bob)) == 6


def test_answers_are_text_and_long_ones_scroll(chromium, tmp_path):
    asked = [Question("p", ("Say <b>this</b> & that.", "And then?"), MODELS, ((HOSTILE, "Then this."), (" ", "Then that.")))]
    with serving(asked, tmp_path) as url:
        tab = chromium.tab()
        tab.size(390, 780)
        enter(tab, url, "ada")
        long, empty = ("a", "b") if tab.value("at('b').querySelector('.empty') !== null") else ("b", "a")
        assert tab.value("document.title") == "Which answer is better?"
        assert tab.value(f"at('{long}').firstChild.textContent") == HOSTILE
        assert tab.value(f"at('{empty}').textContent") == "(an empty answer)Then that."
        assert tab.value("at('prompt').textContent") == "Say <b>this</b> & that.And then?"
        assert tab.value(f"at('{long}').scrollHeight > at('{long}').clientHeight + 1000")
        assert tab.value("document.documentElement.scrollWidth") == 390  # nothing is wider than the phone
        buttons = "[...document.querySelectorAll('.choices button')].map((each) => each.getBoundingClientRect())"
        assert tab.value(f"{buttons}.every((box) => box.bottom <= innerHeight && box.height >= 32)")  # in reach of a thumb
        assert tab.messages == []
