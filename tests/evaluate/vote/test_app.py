"""The page over HTTP: blind in every response until a voter has ended, and closed to other web pages."""

import json

import pytest
from ballots import LEAKS, questions
from starlette.testclient import TestClient

from alpaca_jax.evaluate.vote.app import MAX_BODY_BYTES, Page
from alpaca_jax.scores.people.booth import Booth
from alpaca_jax.scores.people.votes import LEVELS

RESULTS = [{"title": "Results", "note": "", "head": ["model", "votes"], "rows": [["gpt-secret-4", "3"]]}]


@pytest.fixture
def client(tmp_path):
    """A browser's view of a page over six questions, all shared."""
    page = Page(Booth(questions(6), tmp_path, 1.0, 0), lambda: RESULTS)
    return TestClient(page.app("127.0.0.1"), base_url="http://127.0.0.1:8100", raise_server_exceptions=False)


def test_no_response_names_a_model_before_the_end(client):
    heard = [client.get(path) for path in ("/", "/page.css", "/page.js", "/nowhere", "/vote", "/enter")]
    shown = set()
    for name in ("ada", "bob"):
        heard.append(client.post("/enter", json={"voter": name}))
        heard.append(client.post("/close", json={"voter": name}))  # too early: refused
        while ballot := heard[-1].json().get("ballot") or client.post("/enter", json={"voter": name}).json()["ballot"]:
            shown |= {(name, ballot["a"][0].split()[0])}
            level = LEVELS[len(heard) % len(LEVELS)]
            heard.append(client.post("/vote", json={"voter": name, "ballot": ballot["id"], "level": level}))
            heard.append(client.post("/vote", json={"voter": name, "ballot": ballot["id"], "level": "best"}))  # refused
            heard.append(client.post("/back", json={"voter": name, "ballot": None}))
            heard.append(client.post("/enter", json={"voter": name}))
    assert len(heard) == 6 + 2 * (2 + 6 * 4)
    for response in heard:
        everything = response.text + json.dumps(dict(response.headers)) + str(response.url)
        assert not [leak for leak in LEAKS if leak in everything], everything
    assert len(shown) == 4  # both voters have met both models' answers as A
    assert client.post("/enter", json={"voter": "ada"}).json()["results"] is None
    ended = client.post("/close", json={"voter": "ada"}).json()
    assert ended["results"] == RESULTS
    assert client.post("/enter", json={"voter": "bob"}).json()["results"] is None


def test_a_vote_moves_on_and_progress_counts(client):
    place = client.post("/enter", json={"voter": "Ada"}).json()
    assert (place["done"], place["left"], place["closed"]) == (0, 6, False)
    after = client.post("/vote", json={"voter": "Ada", "ballot": place["ballot"]["id"], "level": "first_much"}).json()
    assert (after["done"], after["left"]) == (1, 5)
    assert after["ballot"]["id"] != place["ballot"]["id"]
    assert client.post("/enter", json={"voter": "ada"}).json() == after


def test_answers_travel_as_data_and_the_policy_lets_no_script_of_theirs_run(client, tmp_path):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "<script>" not in page.text and " on" + "click" not in page.text and "style=" not in page.text
    script = client.get("/page.js").text
    assert "innerHTML" not in script and "textContent" in script
    response = client.post("/enter", json={"voter": "ada"})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "content", "status", "says"),
    [
        ({"Content-Type": "text/plain"}, b'{"voter": "ada"}', 415, "Content-Type: application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"voter=ada", 415, "application/json"),
        ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, b'{"voter": "ada"}', 403, "own page"),
        ({"Content-Type": "application/json"}, b'{"voter": 3}', 400, "voter: Input should be a valid string"),
        ({"Content-Type": "application/json"}, b'{"voter": "ada", "as": "bob"}', 400, "as: Extra inputs"),
        ({"Content-Type": "application/json"}, b"{", 400, "Invalid JSON"),
        ({"Content-Type": "application/json"}, b" " * (MAX_BODY_BYTES + 1), 413, "larger than"),
        ({"Content-Type": "application/json"}, b'{"voter": " "}', 409, "give a name"),
        ({"Content-Type": "application/json", "Host": "evil.example"}, b'{"voter": "ada"}', 400, "Invalid host"),
    ],
)
def test_what_another_web_page_or_a_mistake_would_send_is_refused(client, headers, content, status, says):
    response = client.post("/enter", content=content, headers=headers)
    assert response.status_code == status
    assert says in response.text


def test_a_failure_tells_the_page_nothing(client, tmp_path, monkeypatch):
    monkeypatch.setattr(Booth, "enter", lambda *_: 1 / 0)
    response = client.post("/enter", json={"voter": "ada"})
    assert response.status_code == 500
    assert response.json() == {"error": "the server failed on this request; its terminal says why"}
