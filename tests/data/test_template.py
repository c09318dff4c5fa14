"""Templates: the published formats, what of them is learnt, and jinja that `transformers` renders to the same ids."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bytewise import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from alpaca_jax.data import template
from alpaca_jax.data.chat import Piece
from alpaca_jax.data.example import Recipe, prompt_ids, tokenize
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import Json

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONE, TWO = Record("Q1", "", "A1"), Record("Q1", "", "A1", turns=(("Q2", "A2"),))
SAID = Record("Q1", "", "A1", system="Be brief.", turns=(("Q2", "A2"),))
CHATS = tuple(name for name in template.NAMES if name != "text")
HARD = ["Name three fruits.", 'It\'s "quoted"\\n with {{ braces }} {% raw %}', "  spaces and\n\nlines  \n", "日本語 é \ue0f10\ue0f1"]

# What is learnt stands in brackets: two turns without, and with, a system text.
PUBLISHED = {
    "alpaca": (
        ALPACA + "### Instruction:\nQ1\n\n### Response:[A1</s>]\n\n### Instruction:\nQ2\n\n### Response:[A2</s>]",
        "Be brief.\n\n" + ALPACA + "### Instruction:\nQ1\n\n### Response:[A1</s>]\n\n### Instruction:\nQ2\n\n### Response:[A2</s>]",
    ),
    "plain": ("Q1\n[A1</s>]\nQ2\n[A2</s>]", "Be brief.\nQ1\n[A1</s>]\nQ2\n[A2</s>]"),
    "chatml": (
        "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[A1<|im_end|>]\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[A2<|im_end|>]",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[A1<|im_end|>]\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[A2<|im_end|>]",
    ),
    "llama2": (
        "<s>[INST] Q1 [/INST][ A1 </s>]<s>[INST] Q2 [/INST][ A2 </s>]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nQ1 [/INST][ A1 </s>]<s>[INST] Q2 [/INST][ A2 </s>]",
    ),
    "llama3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[A1<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[A2<|eot_id|>]",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[A1<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[A2<|eot_id|>]",
    ),
    "vicuna": (
        VICUNA + "USER: Q1 ASSISTANT:[ A1</s>]USER: Q2 ASSISTANT:[ A2</s>]",
        "Be brief. USER: Q1 ASSISTANT:[ A1</s>]USER: Q2 ASSISTANT:[ A2</s>]",
    ),
}
PUBLISHED["chat"] = PUBLISHED["chatml"]


def get(name: str, **more: Any) -> template.Template:
    return template.get(name, tokenizer(chat_template=CHATML, **more))


def shown(made: template.Template, record: Record) -> str:
    """The record's text with its end tokens, what is learnt in brackets."""
    end = tokenizer().decode([made.end_id], skip_special=False)
    return "".join(f"[{piece.text}{end}]" if piece.learnt else piece.text for piece in made.pieces(record))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_format(name: str) -> None:
    without, with_system = PUBLISHED[name]
    assert shown(get(name), TWO) == without
    assert shown(get(name), SAID) == with_system
    first = without[: without.index("]", without.index("A1")) + 1]
    assert shown(get(name), ONE) == first
    assert get(name).prompt("Q1") == first[: first.rindex("[")]


def test_every_name_is_tried() -> None:
    assert {*PUBLISHED, "text", "auto"} == {*template.NAMES}
    assert {f"{name}.jinja" for name in template.BUILT_IN} == {file.name for file in template.FOLDER.iterdir()}


def test_the_text_of_stanford_with_an_input() -> None:
    assert get("alpaca").prompt("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert get("plain").prompt("Add.", "1 2") == "Add.\n1 2\n"


@pytest.mark.parametrize("name", ["chat", "chatml", "llama2", "llama3", "vicuna"])
def test_where_a_format_knows_no_input_it_stands_below_the_instruction(name: str) -> None:
    assert get(name).prompt("Add.", "1 2") == get(name).prompt("Add.\n\n1 2")


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("bos", [False, True])
def test_transformers_makes_the_same_ids(name: str, bos: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is installed on Python 3.11 only")
    plain = tokenizer(adds_bos=bos, chat_template=CHATML)
    made = template.get(name, plain)
    plain.with_chat_template(made.chat_template()).save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in HARD:
        record = Record(text, "", text, system="Be brief.", turns=((text, ""), ("Q2", text)))
        (example,) = tokenize([record], Recipe(made, plain, 4096))[0].take([0])
        messages = [{"role": "system", "content": "Be brief."}]
        for user, assistant in ((text, text), (text, ""), ("Q2", text)):
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        ids = theirs.apply_chat_template(messages)["input_ids"]
        assert ids[: len(example.ids)] == example.ids.tolist()
        assert theirs.decode(ids[len(example.ids) :]).strip() == ""  # a line's end behind the last token
        asked = theirs.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        assert asked == prompt_ids(made, plain, text)
        assert plain.with_chat_template(made.chat_template()).apply_chat(messages, add_generation_prompt=False) == ids


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ASKED = TEXT.filter(str.strip)


@settings(deadline=None)
@given(st.sampled_from(template.BUILT_IN[:-1]), ASKED, TEXT, TEXT, TEXT, st.lists(st.tuples(ASKED, TEXT), max_size=3))
def test_a_record_reads_as_its_own_rendering(
    name: str, instruction: str, input: str, output: str, system: str, turns: list[tuple[str, str]]
) -> None:
    record = Record(instruction, input, output, system=system, turns=tuple(turns))
    assert CACHED[name].pieces(record) == CACHED[name].rendered(record)


CACHED: dict[str, Any] = {name: get(name, adds_bos=True) for name in template.BUILT_IN[:-1]}


@pytest.mark.parametrize(("name", "special"), [("alpaca", False), ("plain", False), ("vicuna", False), ("chatml", True), ("llama2", True)])
def test_where_a_template_writes_no_special_token_a_record_has_none(name: str, special: bool) -> None:
    assert get(name, adds_bos=True).special == special


@pytest.mark.parametrize("name", template.BUILT_IN[:-1])
@pytest.mark.parametrize("bos", [False, True])
def test_a_model_trained_with_one_goes_on_with_it_as_its_own(name: str, bos: bool) -> None:
    first = template.get(name, tokenizer(adds_bos=bos))
    again = template.get("chat", tokenizer(adds_bos=bos, chat_template=first.chat_template()))
    record = Record("Say </s>.", "<s>", "A <|im_end|>")
    assert again.pieces(record) == first.pieces(record)
    assert (again.special, again.end_id, again.chat_template()) == (first.special, first.end_id, first.chat_template())


def test_the_template_of_a_published_model(smollm2: Path) -> None:
    source = pretrained.open(smollm2)
    made = template.get("chat", source.tokenizer)
    asked = source.tokenizer.render_chat([{"role": "user", "content": "Add.\n\n1 2"}])
    assert made.pieces(Record("Add.", "1 2", "3")) == [Piece(asked, False), Piece("3", True)]
    assert source.tokenizer.decode([made.end_id], skip_special=False) == "<|im_end|>"
    assert made.chat_template() == source.tokenizer.chat_template


def test_text_is_learnt_as_it_is() -> None:
    made = get("text", adds_bos=True)
    assert made.pieces(Record("", output=" A text.\n")) == [Piece(" A text.\n", True)]
    assert (made.prompt("Once"), made.end_id) == ("Once", 1)
    chat = tokenizer(adds_bos=True).with_chat_template(made.chat_template())
    assert chat.render_chat([{"role": "user", "content": " A text.\n"}]) == "<s> A text.\n"
    with pytest.raises(UserError, match=r"has an instruction, and data\.template=text is for plain texts"):
        made.pieces(ONE)
    with pytest.raises(UserError, match=r"is a text without an instruction: give data\.template=text"):
        get("alpaca").pieces(Record("", output="A text."))


# --- templates of others ----------------------------------------------------------------------------------------------------------


def user_file(tmp_path: Path, jinja: str, **more: Any) -> template.Template:
    file = tmp_path / "mine.jinja"
    file.write_text(jinja)
    return template.get(str(file), tokenizer(**more))


# What templates in the wild do with a message's content.
EXPRESSIONS = {
    "content | trim": str.strip,
    "('' + content).lstrip()": str.lstrip,
    "content.split('</think>')[-1]": lambda text: text.split("</think>")[-1],
    "(content if 'b' not in content else 'none')": lambda text: "none" if "b" in text else text,
    "(content if content else 'none')": lambda text: text or "none",
    "content[:20]": lambda text: text[:20],
    "content | upper": str.upper,
    "content | tojson": lambda text: json.dumps(text, ensure_ascii=False),
    "content.strip('ab ')": lambda text: text.strip("ab "),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_a_template_does_with_a_text_is_done_with_each(expression: str, tmp_path: Path) -> None:
    jinja = "{% for m in messages %}{% set content = m.content %}{{ m.role + ':' }}{{ EXPRESSION }}{{ '</s>' if m.role == 'assistant' }}"
    jinja = jinja.replace("EXPRESSION", expression) + "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    made, change = user_file(tmp_path, jinja), EXPRESSIONS[expression]
    for text in ("a", "b", " \n", "x</think> <y> &", ' "quoted"\\n ', "Aab\n", "\ta b"):
        assert made.pieces(Record(text, "", text)) == [Piece(f"user:{change(text)}assistant:", False), Piece(change(text), True)]


def test_a_template_of_ours_is_rendered_once_for_records_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made = get("alpaca")
    first = made.pieces(Record("Q", "", "A"))
    monkeypatch.setattr(Tokenizer, "render_chat", None)
    assert made.pieces(Record(" Q1\n", "", "A1"))[1].text == "A1"
    assert made.pieces(Record("Q", "", "A")) == first


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}{{ m.role[0] + ':' + m.content | trim + ('</s>' if m.role == 'assistant' else '') + '|' }}{% endfor %}"
    made = user_file(tmp_path, jinja + "{% if add_generation_prompt %}a:{% endif %}", adds_bos=True)
    assert shown(made, SAID) == "s:Be brief.|u:Q1|a:[A1</s>]|u:Q2|a:[A2</s>]"
    assert shown(made, Record(" Q\n", "", " A ")) == "u:Q|a:[A</s>]"
    assert made.chat_template().startswith("{{ bos_token }}{% for")


def test_where_nothing_ends_an_answer_eos_does(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    assert shown(user_file(tmp_path, jinja), TWO) == "u:Q1\na:[A1</s>]\nu:Q2\na:[A2</s>]"


def test_what_ends_the_chat_alone_is_not_learnt_with_a_turn(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% else %}{{ eos_token }}{% endif %}"
    )
    asked = "<|im_start|>user{}<|im_end|><|im_start|>assistant[{}<|im_end|>]"
    assert shown(user_file(tmp_path, jinja), TWO) == asked.format("Q1", "A1") + asked.format("Q2", "A2")


def test_what_a_template_writes_before_an_answer_is_learnt_and_may_be_special(tmp_path: Path) -> None:
    jinja = CHATML.replace("message['content'] +", "('<|eot_id|>' if message.role == 'assistant' else '') + message['content'] +")
    made = user_file(tmp_path, jinja)
    assert shown(made, ONE) == "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[<|eot_id|>A1<|im_end|>]"
    assert made.special_answer and not get("chat").special_answer


def test_a_template_that_shortens_earlier_answers_serves_one_turn(tmp_path: Path) -> None:
    jinja = CHATML.replace("message['content'] +", "(message['content'] if loop.last or message.role == 'user' else '...') +")
    made = user_file(tmp_path, jinja)
    assert shown(made, ONE) == "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n[A1<|im_end|>]"
    with pytest.raises(UserError, match="writes earlier turns in another way once there are later ones: give records of one turn"):
        made.pieces(TWO)


@pytest.mark.parametrize(
    ("jinja", "said"),
    [
        ("{{ messages[0].content }}", "has no place for the response"),
        ("{% for m in messages %}{% if m.role != 'user' %}{{ m.content }}{% endif %}{% endfor %}", "has no place for the instruction"),
        ("{{ messages[-1].content + messages[0].content }}", "a chat with its answer must begin with the chat that asks for it"),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "has no place for the instruction"),
        ("{% for m in messages %}", "the chat template refuses these messages"),
        ("{{ raise_exception('no') }}", "the chat template refuses these messages: no"),
    ],
)
def test_a_template_that_cannot_serve_is_said(tmp_path: Path, jinja: str, said: str) -> None:
    with pytest.raises(UserError, match=r"data\.template=\S*mine\.jinja") as raised:
        user_file(tmp_path, jinja)
    assert said in str(raised.value)


def test_a_system_text_is_not_dropped_silently(tmp_path: Path) -> None:
    made = user_file(tmp_path, "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}")
    assert shown(made, TWO) == "Q1[A1</s>]Q2[A2</s>]"
    with pytest.raises(UserError, match=r"leaves out the system text of record \w+"):
        made.pieces(SAID)


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_a_format_whose_tokens_the_tokenizer_lacks_is_said(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.template={name} ends an answer with <\|\w+\|>, which is no token of this tokenizer"):
        template.get(name, tokenizer(["<s>", "</s>"]))


def test_what_is_no_template_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.template=alpacca: .*did you mean alpaca\?"):
        get("alpacca")
    with pytest.raises(UserError, match=r"data\.template=chat: this tokenizer has no chat template; give data\.template=alpaca"):
        template.get("chat", tokenizer())
    with pytest.raises(UserError, match=r"none\.jinja: can't be read .*does not exist"):
        get(str(tmp_path / "none.jinja"))
    with pytest.raises(UserError, match="can't be read"):
        get(str(tmp_path))


def test_any_tokenizer_takes_the_formats_that_need_no_tokens(data_dir: Path) -> None:
    llama = Tokenizer.load(data_dir / "llama_tokenizer.model")
    for name in ("alpaca", "plain", "llama2", "vicuna", "text"):
        made = template.get(name, llama)
        rendered = llama.with_chat_template(made.chat_template()).render_chat([{"role": "user", "content": "Hi"}])
        assert rendered == "<s>" + made.prompt("Hi")


# --- blocks of {% generation %} ---------------------------------------------------------------------------------------------------

TRACKED = (
    "{% for m in messages %}{{ m.role[0] + ':' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ (m.reasoning_content or '') + m.content + '</s>' }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def learnt(record: Record, jinja: str = TRACKED) -> str:
    """What of the record is learnt in the tokenizer's own template."""
    own = tokenizer(chat_template=jinja)
    (example,) = tokenize([record], Recipe(template.get("chat", own), own, 999))[0].take([0])
    return own.decode(example.ids[example.learnt], skip_special=False)


def test_what_is_generated_is_learnt_but_not_what_is_only_shown() -> None:
    turns = (("Q2", "A2"), ("Q3", "A3"))
    assert learnt(Record("Q1", "", "A1", turns=turns)) == "A1</s>A2</s>A3</s>"
    assert learnt(Record("Q1", "", "A1", turns=turns, shown=(0, 2))) == "A2</s>"
    assert learnt(Record("Q1", "", "A1", reasoning=("Hm. ",))) == "Hm. A1</s>"
    only_last = TRACKED.replace("== 'assistant' %}", "== 'assistant' and loop.last %}")
    assert learnt(Record("Q1", "", "A1", turns=turns), only_last) == "A3</s>"
    with pytest.raises(UserError, match="marks 1 texts of 3 answers as generated"):
        learnt(Record("Q1", "", "A1", turns=turns, shown=(0,)), only_last)


def test_what_a_template_with_generation_blocks_leaves_out_is_said() -> None:
    with pytest.raises(UserError, match=r"does not write the reasoning"):
        learnt(Record("Q1", "", "A1", reasoning=("Hm.",)), TRACKED.replace("(m.reasoning_content or '') + ", ""))
    with pytest.raises(UserError, match=r"leaves out the system text"):
        learnt(Record("Q1", "", "A1", system="Be brief."), TRACKED.replace("in messages", "in messages if m.role != 'system'"))
    with pytest.raises(UserError, match=r"is a text without an instruction"):
        learnt(Record("", output="A text."))


def test_a_token_that_ends_turns_need_not_be_special() -> None:
    made = Library.from_str(tokenizer(["<s>", "</s>"]).files()["tokenizer.json"].decode())
    made.add_tokens([AddedToken("<|im_end|>", normalized=False), AddedToken("  ", normalized=False)])
    own = dataclasses.replace(tokenizer(["<s>", "</s>"], chat_template=CHATML), backend=Json(made.to_str()))
    assert template.get("chat", own).end_id == made.token_to_id("<|im_end|>")
