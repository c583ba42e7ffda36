"""The shape of a dense decoder: sizes, rope, biases; from `policy.shape` or a model's config.json.

Knows which architectures realnet decodes by itself and refuses others by name. Knows nothing of
torch, so that a generator learns its shape without importing transformers. Called by `build` and by
the torch engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from realnet.errors import ConfigError, listed, nearest
from realnet.roles.models.reference import NEW, described, model_folder
from realnet.roles.tables import Policy

Family = Literal["llama", "qwen2", "qwen3"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "qwen3")
ROPES = ("default", "llama3")

# What `policy.shape` may say, and what it is without: the smallest model that learns arithmetic.
DEFAULTS: dict[str, int | float | bool] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 0,  # 0: hidden_size / num_attention_heads
    "intermediate_size": 192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A dense Llama-like decoder. `rope` holds the numbers of a scaled rope, else it is empty."""

    family: Family
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    initializer_range: float = 0.02
    max_positions: int = 0
    rope: dict[str, Any] = {}

    @property
    def group(self) -> int:
        """How many query heads share a key-value head."""
        return self.num_attention_heads // self.num_key_value_heads


def shape_of(policy: Policy, vocab_size: int, base: Path) -> Shape:
    """Return the shape of a policy's model. A new model's vocabulary is the tokenizer's."""
    policy = described(policy, base)
    if policy.model.startswith(NEW):
        return _new_shape(policy, vocab_size)
    folder = model_folder(policy, base)
    if policy.shape:
        raise ConfigError(
            f'[policy].shape: "{policy.model}" has its own shape. Remove [policy].shape, or start '
            f'from "new:llama"'
        )
    path = folder / "config.json"
    try:
        return read_config(json.loads(path.read_text(encoding="utf-8")), str(folder))
    except KeyError as error:
        raise ConfigError(
            f"[policy].model: {path} does not say {error}: is it a model's?"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"[policy].model: {path} does not read: {error}") from None


def _new_shape(policy: Policy, vocab_size: int) -> Shape:
    family = policy.model.removeprefix(NEW)
    if family not in FAMILIES:
        known = [NEW + f for f in FAMILIES]
        raise ConfigError(
            f'[policy].model = "{policy.model}": no such new model.'
            f"{nearest(policy.model, known)} There are {listed(known)}"
        )
    for key in policy.shape:
        if key not in DEFAULTS:
            raise ConfigError(
                f"[policy].shape.{key}: no such key.{nearest(key, DEFAULTS)} "
                f"A new model knows: {listed(DEFAULTS)}"
            )
        _check_size(key, policy.shape[key])
    table: dict[str, Any] = DEFAULTS | policy.shape
    heads, kv_heads = int(table["num_attention_heads"]), int(table["num_key_value_heads"])
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ConfigError(
            f"[policy].shape: num_attention_heads = {heads} is not a multiple of "
            f"num_key_value_heads = {kv_heads}"
        )
    if int(table["hidden_size"]) % heads:
        raise ConfigError(
            f"[policy].shape: hidden_size = {table['hidden_size']} is not a multiple of "
            f"num_attention_heads = {heads}"
        )
    head_dim = int(table["head_dim"]) or int(table["hidden_size"]) // heads
    if head_dim % 2:
        raise ConfigError(f"[policy].shape: head_dim = {head_dim} is odd; rope turns pairs")
    return Shape(
        family=family,
        vocab_size=vocab_size,
        hidden_size=int(table["hidden_size"]),
        num_hidden_layers=int(table["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=int(table["intermediate_size"]),
        rms_norm_eps=float(table["rms_norm_eps"]),
        rope_theta=float(table["rope_theta"]),
        tie_word_embeddings=bool(table["tie_word_embeddings"]),
        initializer_range=float(table["initializer_range"]),
        max_positions=policy.context,
    )


def _check_size(key: str, value: float) -> None:
    """Refuse what would be cut to a whole number in silence, or be no size at all."""
    kind = type(DEFAULTS[key])
    if kind is bool:
        fits, what = isinstance(value, bool), "true or false"
    elif kind is int:
        least = 0 if DEFAULTS[key] == 0 else 1
        fits = type(value) is int and value >= least
        what = f"a whole number, at least {least}"
    else:
        fits, what = not isinstance(value, bool) and 0 < value < float("inf"), "a number above 0"
    if not fits:
        raise ConfigError(f"[policy].shape.{key} = {value!r}: must be {what}")


def read_config(config: Mapping[str, Any], where: str) -> Shape:
    """Return the shape that a Hugging Face config.json tells.

    Raises ConfigError, naming it, for an architecture or option that realnet does not decode.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ConfigError(
            f'{where}: architecture "{family}" is not one that the torch engine decodes. '
            f"It knows dense {listed(FAMILIES)} models"
        )
    layers = config.get("layer_types") or []
    if config.get("use_sliding_window") or "sliding_attention" in layers:
        raise ConfigError(f"{where}: sliding-window attention is not decoded by the torch engine")
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"{where}: hidden_act = {config['hidden_act']!r}; only silu is decoded")
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPES:
        raise ConfigError(f"{where}: rope of type {kind!r} is not decoded; {listed(ROPES)} are")
    theta = rope.get("rope_theta", config.get("rope_theta", 1e4))
    heads = int(config["num_attention_heads"])
    return Shape(
        family=family,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        num_hidden_layers=int(config["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        intermediate_size=int(config["intermediate_size"]),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(theta),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        max_positions=int(config.get("max_position_embeddings", 0)),
        rope=rope if kind != "default" else {},
    )
