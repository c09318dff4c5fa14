"""Eight virtual CPU devices, strict dtype promotion, and the fixtures that several tests share."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports JAX; a child process inherits these.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# LLVM's optimizer takes most of the time in which small programs are compiled, and changes nothing that is tested here.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# So do XLA's newer emitters, and many small LLVM modules: with older ones and a single module a tiny step takes 0.4 s instead of 2.4.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
# All processes of a run (the workers of pytest-xdist, the verbs that tests start) compile each program once between them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="alpaca-jax-xla-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import jaxtyping
import pytest
import skip_guard
from skip_guard import pytest_configure  # noqa: F401 - a hook

# In a shell's background job Ctrl-C is ignored, and children would inherit that; but tests send it to them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
signal.signal(signal.SIGINT, signal.default_int_handler)

# Not through XLA_FLAGS, which children would inherit: with eight devices on two cores their steps take 4-5 times as long.
jax.config.update("jax_num_cpu_devices", 8)

# The shapes that these rooms declare are checked at every call, in tests only.
jaxtyping.install_import_hook([f"alpaca_jax.{room}" for room in ("model", "trainer", "decode", "scores")], "array_shapes.checked")

TINY_WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away", "from", "it", "again"]
# Optax multiplies its integer step count by floats, so tests that take optimizer steps can't be strict.
TAKES_STEPS = ("train", "trainer/test_step.py", "trainer/test_assemble.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    skip_guard.pytest_addoption(parser)
    parser.addoption("--prove", action="store_true", help="only the tests marked `prove` or `prove_with_more`, in full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Which tests run, and in which order: files with slow ones first, so that no worker begins one when the others are about to end."""
    if config.getoption("--prove"):
        items[:] = [item for item in items if item.get_closest_marker("prove") or item.get_closest_marker("prove_with_more")]
    else:
        items[:] = [item for item in items if not item.get_closest_marker("prove")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def dtype_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mixing dtypes without a cast is an error; module scope, so that a module's own fixtures compile only once."""
    path = request.path.relative_to(Path(__file__).parent)
    relaxed = any(path.is_relative_to(each) for each in TAKES_STEPS)
    with jax.numpy_dtype_promotion("standard" if relaxed else "strict"):
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; its README describes the files."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ALPACA_JAX_TEST_DATA", beside))
    if not (folder / "alpaca_data.json").is_file():
        pytest.skip(f"the shared data is not there: {folder} (or set ALPACA_JAX_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, fetched once into the user's cache."""
    from alpaca_jax.formats.source import resolve

    return resolve("smollm2-135m-instruct", None)


@pytest.fixture
def tiny_architecture():
    """Two layers with grouped-query attention, small enough to trace in a second."""
    from alpaca_jax.model.architecture import Architecture

    return Architecture(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rope_theta=10000.0,
        norm_eps=1e-5,
        max_positions=128,
        tie_embeddings=True,
    )


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of a few words."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    from alpaca_jax.tokenizer import Tokenizer
    from alpaca_jax.tokenizer.backends import Json

    made = tokenizers.Tokenizer(
        models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 3 + n for n, word in enumerate(TINY_WORDS)}, "<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer(Json(made.to_str()), bos_id=1, eos_id=2, pad_id=2, adds_bos=True).save(folder)
    return folder
