"""Ids against sentencepiece and transformers, and the round trip through a folder."""

import json
import random
from pathlib import Path

import pytest

from alpaca_jax.data import template
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.tokenizer import TextStream, Tokenizer

FRANCE = ("The capital of France is Paris.", [450, 7483, 310, 3444, 338, 3681, 29889])
TRICKY = ["", " ", "  two", "a\n\nb", "1234.5", "é🦙你好\u200d", "<s>", "</s>x", "### Response:", "\t tab", "▁", "<0x0A>", "x " * 50]


@pytest.fixture(scope="module")
def llama(data_dir: Path) -> Tokenizer:
    return Tokenizer.load(data_dir / "llama_tokenizer.model")


@pytest.fixture(scope="module")
def texts(request: pytest.FixtureRequest, data_dir: Path, llama: Tokenizer) -> list[str]:
    """Every Alpaca record as one text; every eighth unless `--prove` is given."""
    alpaca = template.get("alpaca", llama)
    records = json.loads((data_dir / "alpaca_data.json").read_text())
    assert len(records) == 52_002
    records = records[:: 1 if request.config.getoption("--prove") else 8]
    return [alpaca.prompt(record["instruction"], record["input"]) + record["output"] for record in records]


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Tokenizer:
    return pretrained.open(smollm2).tokenizer


def test_llama_vector(llama: Tokenizer) -> None:
    assert llama.encode(FRANCE[0]) == FRANCE[1]
    assert (llama.bos_id, llama.eos_id, llama.pad_id, llama.adds_bos, llama.vocab_size) == (1, 2, 2, True, 32000)


def test_text_that_goes_on_has_no_dummy_prefix(llama: Tokenizer) -> None:
    assert llama.decode(llama.encode("The")) == "The"
    assert llama.encode("The", start=False) == [1576]
    assert llama.encode(" capital", start=False) == [7483]


def test_special_tokens_only_where_asked_for(llama: Tokenizer, smol: Tokenizer) -> None:
    assert llama.encode("<s>a</s>", special=True) == [1, 263, 2]
    assert 1 not in llama.encode("<s>a</s>")
    assert smol.encode("<|im_start|>user", special=True)[0] == 1
    assert 1 not in smol.encode("<|im_start|>user")
    assert smol.decode(smol.encode("<|im_start|>user")) == "<|im_start|>user"


def test_tokenizer_json_of_a_sentencepiece_model_gives_its_ids(llama: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    llama.save(tmp_path)
    exported = Tokenizer.load(tmp_path / "tokenizer.json")
    chosen = [*TRICKY, *random.Random(0).sample(texts, 1000)]
    for start in (True, False):
        expected = llama.encode_batch(chosen, start=start)
        assert exported.encode_batch(chosen, start=start) == expected
    assert exported.encode_batch(TRICKY, special=True) == llama.encode_batch(TRICKY, special=True)
    for ids in expected:
        assert exported.decode(ids) == llama.decode(ids)
    assert (exported.bos_id, exported.eos_id, exported.adds_bos) == (1, 2, True)


@pytest.mark.prove_with_more
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_ids_of_alpaca_records_equal_a_reference_that_splits_digits(smol: Tokenizer, smollm2: Path, texts: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import pre_tokenizers

    reference = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name).backend_tokenizer
    # What transformers builds from a GGUF leaves out the digits of `pre=smollm`, and takes a special token's text for the token.
    reference.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), reference.pre_tokenizer])
    reference.encode_special_tokens = True
    for start in range(0, len(texts), 4000):
        part = texts[start : start + 4000]
        assert smol.encode_batch(part) == [encoding.ids for encoding in reference.encode_batch_fast(part, add_special_tokens=False)]


@pytest.mark.prove_with_more
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "smol"])
def test_transformers_gives_the_ids_of_alpaca_records_after_an_export(
    kind: str, request: pytest.FixtureRequest, texts: list[str], tmp_path: Path
) -> None:
    """Ours of LLaMA are those of the SentencePiece package itself; what transformers 5 makes of a bare .model differs in runs of spaces."""
    transformers = pytest.importorskip("transformers")
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for start in range(0, len(texts), 4000):
        part = texts[start : start + 4000]
        encoded = theirs.backend_tokenizer.encode_batch_fast(
            part, add_special_tokens=False
        )  # what theirs() calls, in two thirds of its time
        assert [each.ids for each in encoded] == tokenizer.encode_batch(part, special=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "smol"])
def test_transformers_loads_what_is_saved(kind: str, request: pytest.FixtureRequest, texts: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    if kind == "llama":
        tokenizer = tokenizer.with_chat_template(template.get("alpaca", tokenizer).chat_template())
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chosen = texts[:200]
    assert theirs(chosen, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(chosen, special=True)
    with_bos = theirs(chosen[0])["input_ids"]
    assert with_bos == [tokenizer.bos_id] * tokenizer.adds_bos + tokenizer.encode(chosen[0])
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    messages = [{"role": "user", "content": "Name a colour."}]
    assert theirs.chat_template == tokenizer.chat_template
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer.apply_chat(messages)
    if kind == "llama":  # a chat reads as the training prompt does
        assert ids == [1, *tokenizer.encode(template.get("alpaca", tokenizer).prompt("Name a colour."))]


@pytest.mark.parametrize("kind", ["llama", "smol"])
def test_saved_and_loaded_is_the_same(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    tokenizer.with_chat_template("{{ messages[0].content }}").save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.chat_template == "{{ messages[0].content }}"
    assert again.encode_batch(TRICKY) == tokenizer.encode_batch(TRICKY)
    assert (again.bos_id, again.eos_id, again.pad_id, again.adds_bos) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.adds_bos,
    )


@pytest.mark.parametrize("kind", ["llama", "smol"])
def test_stream_never_shows_half_a_character(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode("Ein Lama 🦙 trägt 你好, 12 kg. \n\n Ende ")
    stream = TextStream(tokenizer)
    parts = [stream.push(id) for id in ids]
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) + stream.rest() == tokenizer.decode(ids)
    cut = TextStream(tokenizer)
    llama_emoji = tokenizer.encode("a🦙")[:-1]
    assert "".join(cut.push(id) for id in llama_emoji).strip() == "a"
    assert cut.rest().strip("\ufffd") == ""


@pytest.mark.parametrize("kind", ["llama", "smol"])
def test_ids_beyond_the_vocabulary_are_no_text(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode("a b")
    assert tokenizer.decode([*ids, tokenizer.vocab_size, tokenizer.vocab_size + 99]) == "a b"


def test_chat_template_of_the_model(smol: Tokenizer) -> None:
    text = smol.render_chat([{"role": "user", "content": "Hi"}])
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_chat_template_runs_in_a_sandbox(smol: Tokenizer) -> None:
    evil = smol.with_chat_template("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(UserError, match="chat template refuses"):
        evil.render_chat([])
    picky = smol.with_chat_template("{{ raise_exception('one turn only') }}")
    with pytest.raises(UserError, match="one turn only"):
        picky.render_chat([])
    with pytest.raises(UserError, match="has no chat template"):
        smol.with_chat_template(None).render_chat([])


def test_bad_folders(tmp_path: Path, smol: Tokenizer) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not JSON"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"tokenizer\.model is not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").write_bytes(smol.backend.files()["tokenizer.json"])
    with pytest.raises(UserError, match="no EOS token is named"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "not a token"}')
    with pytest.raises(UserError, match="not a single token"):
        Tokenizer.load(tmp_path)
