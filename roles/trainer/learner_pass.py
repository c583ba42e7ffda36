"""Forward passes: the log-probabilities of chosen tokens of some sequences under a model.

Sequences are laid end to end in one row (`packed_attention` keeps them apart), the answers to one
prompt behind one copy of it where attention allows; or they are right-padded to the longest: under
a causal model no token sees what stands after it, so padding needs no mask. Logits are made only
where a token is asked for: with a large vocabulary they are most of the memory of a step.

Knows models and token ids, not rewards or records. Called by the learner and its warm start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from realnet.errors import ConfigError
from realnet.roles.algorithms.batching import bundles, micro_batches
from realnet.roles.models.attention_kinds import Asked, choose, prepared
from realnet.roles.models.packed_attention import can_pack, use_packed_attention
from realnet.roles.models.packing import Beginning, pack
from realnet.roles.trainer.learner_part import Row

FORWARD = "realnet_logits_at"  # a model's own `logits_at`, for one that is cut over ranks


class Scorer:
    """A model, and how it is run. `packed` tells which way rows are laid out.

    `copied` tells whether attention copies what it reads; kernels of the model's own need not.
    `bf16` tells whether blocks compute in bf16 where the model's weights do not say it.
    """

    def __init__(
        self,
        model: Any,
        temperature: float = 1.0,
        rows: Literal["packed", "padded"] = "padded",
        micro_tokens: int = 4096,
        autocast: Literal["off", "bf16"] = "off",
        attention: Asked = "auto",
        bf16: bool | None = None,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.micro_tokens = micro_tokens
        self.autocast = autocast
        self.packed = rows == "packed" and can_pack(model)
        self.copied = True
        first = next(model.parameters())
        if bf16 is None:
            bf16 = autocast == "bf16" or first.dtype is torch.bfloat16
        self.attention = choose(attention, first.device.type, bf16=bf16)
        if self.packed:
            use_packed_attention(model)
        elif self.attention != "sdpa" and attention != "auto":
            raise ConfigError(
                f'[roles.trainer].attention = "{attention}" is for packed rows, and those of '
                f'{type(model).__name__} are padded: write "auto", or "sdpa"'
            )

    def logprobs(self, rows: Sequence[Row], temperature: float | None = None) -> torch.Tensor:
        """Return log pi(ids[t] | ids[:t]) at the positions asked for, row after row. Shape: [T].

        Each row is (ids [L], where), `where` ascending and >= 1; T is their number in all rows. The
        distribution is that of logits / temperature (the scorer's unless given), in fp32 (fp64 when
        the model is).
        """
        warmth = self.temperature if temperature is None else temperature
        place = _end_to_end(rows, self._beginnings(rows)) if self.packed else _side_by_side(rows)
        wanted = torch.from_numpy(np.concatenate([ids[where] for ids, where in rows]))
        device = next(self.model.parameters()).device
        with self._precision(device.type):
            logits = self._logits_at(place[0].to(device), place[1].to(device), place[2])
        if logits.dtype is not torch.float64:
            logits = logits.float()
        if warmth != 1.0:
            logits = logits / warmth
        return -torch.nn.functional.cross_entropy(logits, wanted.to(device), reduction="none")

    def parts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Cut rows into micro-batches; return positions in `rows`.

        Rows that share their beginning stay together as far as the budget allows.
        """
        lengths, beginnings = [width(row) for row in rows], self._beginnings(rows)
        if beginnings is None:
            return micro_batches(lengths, self.micro_tokens, packed=self.packed)
        together, sizes = bundles(lengths, beginnings, self.micro_tokens, copied=self.copied)
        parts = micro_batches(sizes, self.micro_tokens, packed=True)
        return [[i for b in part for i in together[b]] for part in parts]

    def _beginnings(self, rows: Sequence[Row]) -> list[Beginning] | None:
        """Return what each row shares with an earlier one: all that stands before its first token.

        None where attention cannot do with it.
        """
        if not self.packed or self.attention != "sdpa":
            return None
        first: dict[bytes, int] = {}
        found = []
        for i, (ids, where) in enumerate(rows):
            of = first.setdefault(ids[: where[0]].tobytes(), i)
            found.append(Beginning(of, int(where[0]) if of != i else 0))
        return found

    @torch.no_grad()
    def score(self, rows: Sequence[Row], temperature: float = 0.0) -> list[torch.Tensor]:
        """Return the log-probabilities of each row, without gradient. Shapes: [T_i].

        Temperature 0 is the scorer's.
        """
        result: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        for part in self.parts(rows):
            logp = self.logprobs([rows[i] for i in part], temperature or None)
            pieces = torch.split(logp, [len(rows[i][1]) for i in part])
            for i, piece in zip(part, pieces, strict=True):
                result[i] = piece
        return result

    def _precision(self, device: str) -> contextlib.AbstractContextManager[None]:
        if self.autocast == "off":
            return contextlib.nullcontext()
        return torch.autocast(device, torch.bfloat16)

    def _logits_at(
        self, ids: torch.Tensor, at: torch.Tensor, keywords: dict[str, Any]
    ) -> torch.Tensor:
        if "packing" in keywords:
            packing = prepared(keywords["packing"], ids.device, self.attention)
            keywords = {"packing": packing, "position_ids": packing.positions}
        run = getattr(self.model, FORWARD, None)
        if run is None:
            return logits_at(self.model, ids, at, **keywords)
        logits: torch.Tensor = run(ids, at, **keywords)
        return logits


def logits_at(model: Any, ids: torch.Tensor, at: torch.Tensor, **keywords: Any) -> torch.Tensor:
    """Return logits [T, vocabulary] at flat positions `at` [T] of `ids` [rows, width]."""
    config = model.config
    if getattr(config, "final_logit_softcapping", None) or getattr(config, "logit_scale", None):
        whole = model(input_ids=ids, use_cache=False, **keywords).logits
        return torch.Tensor(whole.flatten(0, 1)[at])  # the head does more than multiply
    hidden = model.base_model(input_ids=ids, use_cache=False, **keywords).last_hidden_state
    head = model.get_output_embeddings()
    return torch.nn.functional.linear(hidden.flatten(0, 1)[at], head.weight, head.bias)


def width(row: Row) -> int:
    """Return how many tokens the model must read to predict the last one asked for."""
    return int(row[1][-1])


Placed = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]


def _end_to_end(rows: Sequence[Row], beginnings: Sequence[Beginning] | None) -> Placed:
    """Return (ids [1, L], where logits are wanted in it [T], what else the model must know)."""
    lengths = [width(row) for row in rows]
    shared = np.array([b.length for b in beginnings or ()] or [0] * len(rows))
    starts = np.cumsum([0, *(lengths - shared)[:-1]]) - shared  # as if all of a row lay there
    ids = [ids[s:length] for (ids, _), s, length in zip(rows, shared, lengths, strict=True)]
    at = [start + where - 1 for start, (_, where) in zip(starts, rows, strict=True)]
    for mine, own, b in zip(at, shared, beginnings or (), strict=False):
        if own:  # the first token is predicted by the last of what is shared
            mine[0] = starts[b.of] + own - 1
    places = torch.from_numpy(np.concatenate(at))
    packing = pack(lengths, beginnings)
    return torch.from_numpy(np.concatenate(ids))[None], places, {"packing": packing}


def _side_by_side(rows: Sequence[Row]) -> Placed:
    """Return (ids [rows, width], where logits are wanted in them [T], nothing else)."""
    longest = max(width(row) for row in rows)
    padded = np.zeros((len(rows), longest), dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: width(row)] = row[0][: width(row)]
    at = np.concatenate([i * longest + where - 1 for i, (_, where) in enumerate(rows)])
    return torch.from_numpy(padded), torch.from_numpy(at), {}
