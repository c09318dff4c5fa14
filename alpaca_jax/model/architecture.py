"""The sizes that define one LLaMA."""

from alpaca_jax.config import configclass


@configclass
class Architecture:
    """The sizes and switches of a LLaMA decoder (Touvron et al. 2023, arXiv:2302.13971), read from its checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    max_positions: int = 2048
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads}): each key/value head "
                "serves a whole group of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs of dimensions")

    @property
    def num_parameters(self) -> int:
        """Weights in the model, the vocabulary counted unpadded and tied embeddings once."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        layer = self.hidden_size * (self.head_dim * heads + 3 * self.intermediate_size + 2)
        tables = 1 if self.tie_embeddings else 2
        return self.num_layers * layer + tables * self.vocab_size * self.hidden_size + self.hidden_size


def stored_vocab_size(vocab_size: int, multiple: int) -> int:
    """The rows kept for `vocab_size` tokens so that a mesh can divide them: the next multiple of `multiple`."""
    return -(-vocab_size // multiple) * multiple
