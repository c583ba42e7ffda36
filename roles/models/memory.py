"""How much memory a policy's model takes, from its config alone: nothing is loaded.

Weights, gradients and moments are counted exactly; activations are what a decoder block keeps for
its backward pass, token by token; keys and values are of every slot at the longest context. What a
library allocates for itself (about 1 GiB of a GPU for CUDA and its kernels) is not in it.

Knows shapes and tables, not torch. Called by the roles' `needs`, for `realnet plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from realnet.actor import Beside, Need, Place
from realnet.errors import ConfigError
from realnet.roles.models.reference import NEW, described, load_tokenizer
from realnet.roles.models.shape import Shape, shape_of
from realnet.roles.tables import Lora, Policy

WIDTH = {"fp32": 4, "bf16": 2}  # bytes of a number
FINE = 4  # bytes of a number that the optimizer moves
UNREAD = "memory of its model: not counted, for its config.json is not here yet"
Parts = dict[str, int]


def known_shape(policy: Policy, base: Path) -> Shape | None:
    """Return the shape of a policy's model; None where it is not here to be read."""
    try:
        policy = described(policy, base)
        new = policy.model.startswith(NEW)
        return shape_of(policy, load_tokenizer(policy, base).vocab_size if new else 0, base)
    except ConfigError:
        return None


def block_weights(shape: Shape) -> int:
    """Return how many weights a decoder block has."""
    hidden, head = shape.hidden_size, shape.head_dim
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    matrices = hidden * (2 * queries + 2 * keys) + 3 * hidden * shape.intermediate_size
    biases = queries + 2 * keys if shape.family == "qwen2" else 0
    norms = 2 * hidden + (2 * head if shape.family == "qwen3" else 0)
    return matrices + biases + norms


def outer_weights(shape: Shape) -> int:
    """Return how many weights are in no block: embedding, last norm, a head that is not tied."""
    tables = 1 if shape.tie_word_embeddings else 2
    return tables * shape.vocab_size * shape.hidden_size + shape.hidden_size


def num_weights(shape: Shape) -> int:
    """Return how many weights the model has."""
    return shape.num_hidden_layers * block_weights(shape) + outer_weights(shape)


def num_adapters(shape: Shape, rank: int, targets: Collection[str]) -> int:
    """Return how many weights adapters of a rank have; without `targets`, at every matrix."""
    hidden, head, wide = shape.hidden_size, shape.head_dim, shape.intermediate_size
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    sides = {
        "q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys,
        "o_proj": queries + hidden, "gate_proj": hidden + wide, "up_proj": hidden + wide,
        "down_proj": wide + hidden,
    }  # fmt: skip
    chosen = [n for name, n in sides.items() if name in targets or not targets]
    return shape.num_hidden_layers * rank * sum(chosen)


def trained_adapters(beside: Mapping[str, Beside]) -> Lora | None:
    """Return the adapters that one of these roles trains, if one does."""
    tables = [getattr(role.config, "lora", None) for role in beside.values()]
    return next((t for t in tables if isinstance(t, Lora) and t.rank), None)


def shelf_need(policy: Policy, place: Place, slots: int) -> Need:
    """Return what a role needs that keeps so many versions in memory.

    Versions of adapters are small; what they are laid over is kept once.
    """
    shape = known_shape(policy, place.base)
    if shape is None:
        return Need(unknown=UNREAD)
    whole = num_weights(shape) * WIDTH[policy.dtype]
    lora = trained_adapters(place.beside)
    if lora is None:
        return Need(slots * whole, parts={"versions": slots * whole})
    versions = slots * num_adapters(shape, lora.rank, lora.targets) * WIDTH[policy.dtype]
    return Need(versions + whole, parts={"versions": versions, "their base": whole})


def kept_a_token(shape: Shape) -> int:
    """Return how many numbers a block keeps of each token for its backward pass."""
    head = shape.head_dim
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    norms, attention = 4 * shape.hidden_size, 2 * (queries + 2 * keys) + queries
    return norms + attention + 4 * shape.intermediate_size


def activations(shape: Shape, tokens: int, width: int, *, recompute: bool) -> int:
    """Return the bytes that one micro-batch keeps between forward and backward, logits apart."""
    layers, inside = shape.num_hidden_layers, kept_a_token(shape)
    numbers = layers * shape.hidden_size + inside if recompute else layers * inside
    return tokens * numbers * width


def logits(shape: Shape, tokens: int, width: int) -> int:
    """Return the bytes of a micro-batch's logits: as computed, in fp32, and their gradient."""
    return tokens * shape.vocab_size * (width + 4 + 4)


def kv_cache(shape: Shape, tokens: int, width: int) -> int:
    """Return the bytes of keys and values of so many tokens."""
    heads = shape.num_key_value_heads * shape.head_dim
    return tokens * 2 * shape.num_hidden_layers * heads * width


def whole_training(shape: Shape, dtype: str, adapters: int = 0) -> Parts:
    """Return what a model in one process takes, without activations.

    With `adapters`, so many weights are trained, and no others.
    """
    count, width = num_weights(shape), WIDTH[dtype]
    trained, coarse = adapters or count, width != FINE
    return {
        "weights": (count + adapters) * width,
        "gradients": trained * (width + FINE * coarse),  # those of bf16 are added up in fp32
        "optimizer": trained * (2 * FINE + FINE * coarse),  # two moments; fp32 copies of bf16
    }


def cut_training(shape: Shape, width: int, ranks: int, adapters: int = 0) -> Parts:
    """Return what a rank of a cut model takes, without activations.

    Beside its shards in fp32 it holds, whole and as wide as it computes: two blocks and what is in
    no block, and the gradients of one block and of that. With `adapters`, so many weights are
    trained, and no others.
    """
    held = -(-(num_weights(shape) + adapters) // ranks)
    trained = -(-adapters // ranks) or held
    block, outer = block_weights(shape), outer_weights(shape)
    blocks, outers = (2, 1) if adapters else (3, 2)
    return {
        "weights": held * FINE,
        "gradients": trained * FINE,
        "optimizer": trained * 2 * FINE,
        "gathered": (blocks * block + outers * outer) * width,
    }
