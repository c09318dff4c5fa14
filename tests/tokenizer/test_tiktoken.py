"""Llama 3's rank file against the `tiktoken` package, on ranks trained here."""

import base64
import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import TextStream, Tokenizer, tiktoken

TEXTS = [
    "",
    " ",
    "The 3 quick foxes\n\tjumped over 12345678 lazy dogs' tails; they'll HAVEN'T I'Ve.",
    "naïve café, ſ'ſ 北京大学 🦙🦙 👩\u200d👩\u200d👧 e\u0301 Ελληνικά हिन्दी ١٢٣ ²³ Ⅷ",
    "def f(x):\n    return {'a': x**2,\n\n\n            'b': [x for x in range(10)]}\r\n\r\n",
    "a\u00a0b\u0085c\u2028d\u3000e\u200bf\ufeffg\x1ch\x1fi\u180ej\x00k",
    "    \t\t  \n \n\n   trailing   ",
    "<|begin_of_text|>system<|eot_id|>",
    "aaaaaaaaaaaaaaaa abababababa hahahahaha ======= ---------- !!!!!\n\n\n",
    "x" * 1000,
]


def _trained(texts: list[str], count: int) -> dict[bytes, int]:
    """The ranks of a small byte-level BPE: the bytes, and the pairs that occur most often."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    parts = [[bytes([byte]) for byte in text.encode()] for text in texts]
    while len(ranks) < count:
        pairs: dict[tuple[bytes, bytes], int] = {}
        for part in parts:
            for pair in itertools.pairwise(part):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(sorted(pairs), key=pairs.__getitem__)
        ranks.setdefault(best[0] + best[1], len(ranks))
        parts = [_joined(part, best) for part in parts]
    return ranks


def _joined(part: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    made: list[bytes] = []
    for piece in part:
        if made and (made[-1], piece) == pair:
            made[-1] += piece
        else:
            made.append(piece)
    return made


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    source = Path(tiktoken.__file__).read_text()
    return _trained([*TEXTS, *source.splitlines(keepends=True)], 800)


@pytest.fixture(scope="module")
def folder(ranks: dict[bytes, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama3")
    lines = (base64.b64encode(token) + b" " + str(rank).encode() for token, rank in ranks.items())
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def theirs(ranks: dict[bytes, int], ours: Tokenizer) -> Any:
    reference = pytest.importorskip("tiktoken")
    return reference.Encoding("llama3", pat_str=tiktoken.SPLIT, mergeable_ranks=ranks, special_tokens=ours.backend.specials)


def _random_texts(count: int) -> list[str]:
    chooser = random.Random(0)
    letters = [*"aab  hH'sStT19\n\r\t=-.", "é", "ſ", "北", "🦙", "\u0301", "\u00a0", "\u2003", "١", "ab" * 5, "    ", "==", "the "]
    return ["".join(chooser.choices(letters, k=chooser.randrange(1, 60))) for _ in range(count)]


def test_ids_equal_those_of_tiktoken(ours: Tokenizer, theirs: Any) -> None:
    texts = [*TEXTS, *_random_texts(3000)]
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids == theirs.encode_ordinary(text), text
        assert ours.encode(text, start=False) == ids
        assert ours.decode(ids) == text
        assert ours.encode(text, special=True) == theirs.encode(text, allowed_special="all"), text


def test_special_tokens_are_those_of_llama_3(ours: Tokenizer, ranks: dict[bytes, int]) -> None:
    specials, first = ours.backend.specials, len(ranks)
    assert sorted(specials.values()) == list(range(first, first + 256))
    known = {  # as tokenizer.json of Llama 3.1 has them, where the first is 128000
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|reserved_special_token_1|>": 3,
        "<|finetune_right_pad_id|>": 4,
        "<|reserved_special_token_2|>": 5,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eom_id|>": 8,
        "<|eot_id|>": 9,
        "<|python_tag|>": 10,
        "<|reserved_special_token_3|>": 11,
        "<|reserved_special_token_247|>": 255,
    }
    assert {name: specials[name] - first for name in known} == known
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (first, first + 1, first + 4)
    assert ours.adds_bos and ours.vocab_size == first + 256 and ours.chat_template is None
    assert ours.encode("<|eot_id|>", special=True) == [first + 9]


def test_saved_and_loaded_is_the_same(ours: Tokenizer, folder: Path, tmp_path: Path) -> None:
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == ours.fingerprint
    assert (again.bos_id, again.eos_id, again.pad_id, again.adds_bos) == (ours.bos_id, ours.eos_id, ours.pad_id, True)
    assert again.encode_batch(TEXTS) == ours.encode_batch(TEXTS)
    # Beside a tokenizer.json, which names the special tokens of its model, the rank file says nothing new.
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    assert Tokenizer.load(tmp_path).fingerprint == ours.fingerprint
    assert Tokenizer.load(folder / "tokenizer.model").fingerprint == ours.fingerprint


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_transformers_reads_what_is_saved(ours: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[2:]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, special=True)
        assert theirs(text)["input_ids"] == [ours.bos_id, *ours.encode(text, special=True)]


def test_stream_never_shows_half_a_character(ours: Tokenizer) -> None:
    text = "Ein Lama 🦙 trägt 你好, 12 kg. \n\n Ende "
    stream = TextStream(ours)
    parts = [stream.push(id) for id in ours.encode(text)]
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) + stream.rest() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:300] + lines[301:], "cut off"),
        (lambda lines: [*lines, b"===== 800"], "line 801"),
        (lambda lines: [*lines, b"YWJj"], "line 801"),
        (lambda lines: [b"YWJjZGVm 0", *lines[1:]], "byte 0 has no rank"),
    ],
)
def test_damaged_rank_files(change: Any, message: str, folder: Path, tmp_path: Path) -> None:
    lines = (folder / "tokenizer.model").read_bytes().splitlines()
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(change(lines)))
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)
