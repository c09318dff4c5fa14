"""The sizes of the models to measure."""

from alpaca_jax.model.architecture import Architecture

SMOLLM2 = Architecture(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=100000.0,
    tie_embeddings=True,
)
LLAMA_1B = Architecture(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    rope_theta=500000.0,
    tie_embeddings=True,
)
LLAMA_7B = Architecture(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    norm_eps=1e-6,
)
# For trying out a script. Its vocabulary is LLaMA's, so that real tokens fit.
TINY = Architecture(
    vocab_size=32000,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    tie_embeddings=True,
)
SHAPES = {"smollm2": SMOLLM2, "1b": LLAMA_1B, "7b": LLAMA_7B, "tiny": TINY}
