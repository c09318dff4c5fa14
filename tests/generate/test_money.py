"""What the verb does with answers that were paid for, and with a teacher that gives nothing, on a server on loopback."""

import contextlib
import json
import threading

import pytest
from scripted_teacher import Reply, answer, error, scripted_teacher, text_for

from alpaca_jax import records
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.generate import run as verb
from alpaca_jax.generate.config import Budget, Config, Filters, Magpie, Sampling, SelfInstruct
from alpaca_jax.records import Manifest
from alpaca_jax.teacher import log
from alpaca_jax.teacher.config import Prices, TeacherConfig

PRICES = Prices(prompt=1.0, completion=2.0, source="a list")


def config(tmp_path, server, count=10, method="magpie", prices=PRICES, concurrency=4, **more):
    endpoint = "completions" if method == "magpie" else "chat"
    teacher = TeacherConfig(
        base_url=server.base_url, model="m", endpoint=endpoint, max_retries=0, timeout=5.0, prices=prices, concurrency=concurrency
    )
    magpie = Magpie(prefix="<user>", stop=("<end>",))
    return Config(dir=str(tmp_path / "run"), count=count, method=method, magpie=magpie, teacher=teacher, **more)


def shard(tmp_path):
    return tmp_path / "run" / "records" / "answers" / "00000000.jsonl"


ODD = [
    lambda body: json.dumps(answer("half \ud83d of it", body)),
    lambda body: '{"choices": ' + "[" * 100_000 + "]" * 100_000 + "}",
    lambda body: b"\xff\xfe\x00" * 50,
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_paid_once(tmp_path, odd):
    with scripted_teacher(lambda number, body: Reply(odd(body)) if number == 3 else None) as server:
        manifest = verb.run(config(tmp_path, server, concurrency=1))
        asked = len(server.bodies)
        assert manifest.requests == asked and manifest.records == 10
        again = verb.run(config(tmp_path, server, concurrency=1))
        assert len(server.bodies) == asked
    assert (again.dollars, again.counts) == (manifest.dollars, manifest.counts)


def test_a_full_disk_loses_no_answer_in_flight(tmp_path, monkeypatch, capsys):
    """All eight are on their way when the disk fills; all are kept in the room that was reserved for them."""
    all_sent, real = threading.Barrier(8, timeout=10), log.append_line

    def append(path, line):
        if (path.parent / ".reserve").exists() and '"answer"' in line:
            raise UserError(f"{path}: the disk is full (0.0 MB to write, 0.0 MB free); make room, or give another dir=")
        return real(path, line)

    def script(number, body):
        if number < 8:
            all_sent.wait()
        return

    monkeypatch.setattr(log, "append_line", append)
    with scripted_teacher(script) as server:
        with pytest.raises(UserError, match=r"the disk is full.*Nothing more was asked since"):
            verb.run(config(tmp_path, server, concurrency=8))
        assert len(server.bodies) == 8
        monkeypatch.setattr(log, "append_line", real)
        manifest = verb.run(config(tmp_path, server, concurrency=8))
        seeds = [body["seed"] for body in server.bodies]
        assert len(set(seeds)) == len(seeds) == manifest.requests
    assert manifest.doubtful_dollars == 0


TASK = "{0}. Instruction: {1}\n{0}. Input: <noinput>\n{0}. Output: {2}\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda body: answer("I'd rather talk about the weather.", body), "no task"),
        (lambda body: answer("", body, "length"), "no text before limit.*larger self_instruct.max_tokens"),
        (lambda body: answer(None, body, "length"), "no text before limit.*larger self_instruct.max_tokens"),
        (lambda body: answer("", body), "no task"),
        (
            lambda body: answer(TASK.format(4, "Name the rivers of Asia.", "I'm sorry, but I can't help with that."), body),
            "refusal.*refuses",
        ),
        (lambda body: answer("4. Instruction: Name the rivers of Asia.\n", body), "no output"),
    ],
)
def test_a_teacher_that_gives_nothing_ends_the_run(tmp_path, script, said):
    with scripted_teacher(lambda number, body: Reply(script(body))) as server:
        with pytest.raises(
            UserError, match=rf"(?s)not one record was kept \(stopped by patience.*in a row gave no record.*{said}.*patience=20"
        ):
            verb.run(config(tmp_path, server, method="self_instruct", patience=20))
        assert 20 <= len(server.bodies) < 40


def test_a_teacher_that_repeats_itself_ends_the_run_with_what_it_gave(tmp_path, capsys):
    def script(number, body):
        return Reply(answer(TASK.format(4, "Name the rivers of Asia.", "The Ob and the Lena."), body, usage=(400, 40)))

    with scripted_teacher(script) as server:
        with pytest.raises(UserError, match=r"near duplicate 20.*higher sampling.temperature.*The 1 records of 10 so far are in"):
            verb.run(config(tmp_path, server, method="self_instruct", patience=20, concurrency=1))
        assert len(server.bodies) == 21
        assert len(records.read(tmp_path / "run").records) == 1
        assert Manifest.read(tmp_path / "run" / "records" / "manifest.json").stopped_by == "patience"
        patient = config(tmp_path, server, method="self_instruct", patience=None, concurrency=1, budget=Budget(requests=50))
        assert verb.run(patient).stopped_by == "requests"
        assert len(server.bodies) == 50


def test_a_teacher_that_is_not_there_is_lost_at_once(tmp_path):
    with scripted_teacher() as server:
        pass
    with pytest.raises(Lost, match="can't be reached"):
        verb.run(config(tmp_path, server))


def test_damaged_lines_are_named_counted_and_asked_again(tmp_path, capsys):
    with scripted_teacher() as server:
        whole = verb.run(config(tmp_path, server, concurrency=1))
        before, requests = records.read(tmp_path / "run"), len(server.bodies)
        lines = shard(tmp_path).read_text().split("\n")
        place = next(number for number, line in enumerate(lines) if '"index": 4, "step": 0, "request"' in line)
        lines[place] = lines[place][:-40]
        shard(tmp_path).write_text("\n".join(lines))
        replayed = verb.run(config(tmp_path, server, replay=True))
        assert (replayed.counts["unanswered"], replayed.damaged_lines, replayed.records) == (1, 1, 9)
        assert len(server.bodies) == requests
        capsys.readouterr()
        again = verb.run(config(tmp_path, server, concurrency=1))
        assert len(server.bodies) == requests + 1  # the answer after it answers the same request as before
    assert records.read(tmp_path / "run") == before
    assert again.dollars + again.doubtful_dollars >= whole.dollars + 20e-6
    error = " ".join(capsys.readouterr().err.split())
    assert f"00000000.jsonl, line {place + 1}: not JSON" in error and "1 lines of the log of answers can't be read" in error


def test_a_usage_that_cannot_be_true_is_counted(tmp_path, capsys):
    with scripted_teacher(lambda number, body: Reply(answer(text_for(body), body, usage=(20, -(10**9))))) as server:
        manifest = verb.run(config(tmp_path, server, budget=Budget(dollars=0.02)))
    assert manifest.unbelieved_answers == manifest.requests
    assert 0 < manifest.dollars <= 0.02 and manifest.completion_tokens == 0
    captured = capsys.readouterr()
    assert "answers came without token counts that can be true" in " ".join(captured.out.split())
    assert "charged the most" in captured.err


def test_loopback_needs_a_price_or_its_word_that_it_is_free(tmp_path):
    with scripted_teacher() as server:
        with pytest.raises(UserError, match=r"teacher\.prices(?s:.)*teacher\.free=true"):
            verb.run(config(tmp_path, server, prices=None))
        assert not server.bodies
        verb.run(config(tmp_path, server))
        mapping = to_mapping(config(tmp_path, server, prices=None, replay=True))
        assert verb.run(parse(Config, mapping)).prices == {"prompt": 1.0, "completion": 2.0, "source": "a list"}


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("cls", "key"),
    [(Budget, "dollars"), (Sampling, "temperature"), (Sampling, "top_p"), (Filters, "rouge_l"), (Sampling, "instruction_temperature")],
)
def test_a_number_that_is_none_is_refused(cls, key, value):
    with pytest.raises(ValueError, match=key):
        cls(**{key: value})


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (Budget, "requests", 0),
        (Sampling, "max_tokens", 0),
        (Sampling, "instruction_max_tokens", -1),
        (SelfInstruct, "max_tokens", 0),
        (Filters, "min_words", -1),
        (Filters, "max_words", 0),
    ],
)
def test_a_size_that_is_none_is_refused(cls, key, value):
    with pytest.raises(ValueError, match=key):
        cls(**{key: value})


def test_a_key_in_the_address_of_the_environment_reaches_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1?key=sk-very-secret-0123456789")
    monkeypatch.setenv("TEST_KEY", "sk-another-0123456789")
    made = Config(dir=str(tmp_path / "run"), teacher=TeacherConfig(model="m", key_env="TEST_KEY", free=True), method="self_instruct")
    with pytest.raises(Lost, match=r"at http://127\.0\.0\.1:9/v1 can't be reached"):
        verb.run(made)
    written = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert "sk-" not in written and "teacher" in written


def test_a_budget_of_requests_counts_those_of_earlier_starts(tmp_path):
    free = Prices(prompt=0.0, completion=0.0, source="free")
    with scripted_teacher(lambda number, body: error(429) if number % 2 else None) as server:
        for sent in (2, 4, 6, 7):
            with contextlib.suppress(Lost, UserError):
                verb.run(config(tmp_path, server, prices=free, concurrency=1, budget=Budget(requests=7)))
            assert len(server.bodies) == sent
        with pytest.raises(UserError, match="stopped by requests"):
            verb.run(config(tmp_path, server, prices=free, concurrency=1, budget=Budget(requests=7), filters=Filters(min_words=100)))
        assert len(server.bodies) == 7
