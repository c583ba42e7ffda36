"""The torch engine against a naive full forward: batching, sampling, ends, swaps."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from realnet.compiled import SWITCH
from realnet.errors import ConfigError, RealnetError
from realnet.roles.generator.engine import EngineConfig, SwapUndone, make_core
from realnet.roles.generator.prefill import batches
from realnet.roles.generator.torch_engine import TorchEngine
from realnet.roles.messages import Delta, Generate, Sampling, Version
from realnet.roles.models.build import build_model, named_weights
from realnet.roles.models.reference import load_tokenizer
from realnet.roles.models.shape import shape_of
from realnet.roles.tables import Policy

CONTEXT = 48
# The compiled form has no kernels for the norms of heads of a Qwen3 (make test-compiled).
FAMILY = "llama" if os.environ.get(SWITCH) == "1" else "qwen3"
POLICY = Policy(
    model=f"new:{FAMILY}",
    tokenizer="new:chars",
    context=CONTEXT,
    shape={"num_key_value_heads": 2},
)
TOKENIZER = load_tokenizer(POLICY, Path())
VOCAB = TOKENIZER.vocab_size


def model(seed: int) -> PreTrainedModel:
    """A model whose distributions are far from flat, so that a mistake shows."""
    built = build_model(POLICY, TOKENIZER, Path(), seed)
    for name, weight in named_weights(built):
        if weight.dim() > 1:
            weight.mul_(4 if "embed" not in name else 6)
    return built


A, B = model(1), model(2)


def version(number: int) -> Version:
    return Version("policy", 0, number)


def arrays(source: PreTrainedModel) -> dict[str, Any]:
    return {name: weight.numpy() for name, weight in named_weights(source)}


def engine(*, first: PreTrainedModel | None = A, **config: Any) -> TorchEngine:
    shape = shape_of(POLICY, VOCAB, Path())
    table = {"slots": 4, "device": "cpu"} | config
    made = TorchEngine(shape, POLICY, EngineConfig(**table), seed=7)
    if first is not None:
        made.stage(arrays(first), version(0))
        made.swap()
    return made


def request(prompt: Iterable[int], *, so_far: Iterable[int] = (), **sampling: Any) -> Generate:
    return Generate(
        policy="policy",
        prompt_ids=np.array(list(prompt), np.int32),
        sampling=Sampling(**({"max_tokens": 12} | sampling)),
        tokens_so_far=np.array(list(so_far), np.int32),
    )


class Collected:
    """What an engine sent, by request."""

    def __init__(self) -> None:
        self.deltas: dict[int, list[Delta]] = defaultdict(list)

    def add(self, sent: Iterable[tuple[int, Delta]]) -> None:
        for request_id, delta in sent:
            assert not self.finish(request_id), "a delta after the last one"
            assert len(delta.token_ids) == len(delta.logprobs)
            assert (delta.token_ids.dtype, delta.logprobs.dtype) == (np.int32, np.float32)
            self.deltas[request_id].append(delta)

    def tokens(self, request_id: int) -> list[int]:
        return [int(t) for d in self.deltas[request_id] for t in d.token_ids]

    def logprobs(self, request_id: int) -> list[float]:
        return [float(p) for d in self.deltas[request_id] for p in d.logprobs]

    def spans(self, request_id: int) -> list[tuple[int, int]]:
        return [(d.version.number, len(d.token_ids)) for d in self.deltas[request_id]]

    def finish(self, request_id: int) -> str:
        return self.deltas[request_id][-1].finish if self.deltas[request_id] else ""


def drain(made: TorchEngine, into: Collected | None = None, block: int = 8) -> Collected:
    into = into or Collected()
    for _ in range(1000):
        if not made.num_running and not made.num_waiting:
            break
        into.add(made.step(block))
    assert made.num_running == made.num_waiting == 0
    return into


@torch.inference_mode()
def logits_of(source: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    return source(torch.tensor([ids])).logits[0]


def expected_logprobs(
    source: PreTrainedModel, prompt: list[int], tokens: list[int], temperature: float = 1.0
) -> list[float]:
    table = (logits_of(source, prompt + tokens) / temperature).log_softmax(-1)
    return [float(table[len(prompt) + i - 1, t]) for i, t in enumerate(tokens)]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.integers(4, VOCAB, rng.integers(1, 20)))) for _ in range(count)]


# ---------------------------------------------------------------- equality with the reference


@pytest.mark.parametrize("budget", [8192, 7])
@pytest.mark.parametrize("block", [1, 5])
def test_ragged_joins_and_leaves_equal_a_naive_forward(block: int, budget: int) -> None:
    made, sent = engine(prefill=budget, flush=3), Collected()
    asked = prompts(11)
    asked[4] = asked[3]  # a group: equal prompts share a prefill
    for number, prompt in enumerate(asked):
        made.submit(number, request(prompt, temperature=0.0, max_tokens=3 + 5 * (number % 4)))
        if number % 3 == 0:
            sent.add(made.step(block))
    drain(made, sent, block)
    for number, prompt in enumerate(asked):
        tokens = sent.tokens(number)
        assert len(tokens) == 3 + 5 * (number % 4)
        assert sent.finish(number) == "length"
        table = logits_of(A, prompt + tokens)
        greedy = table.argmax(-1).tolist()[len(prompt) - 1 : -1]
        assert tokens == greedy
        np.testing.assert_allclose(
            sent.logprobs(number), expected_logprobs(A, prompt, tokens), atol=1e-4
        )


def test_logprobs_are_of_the_heated_distribution_in_a_mixed_batch() -> None:
    made = engine(slots=3)
    heat = [0.0, 0.7, 1.0, 1.6, 1.0]
    asked = prompts(5)
    for number, prompt in enumerate(asked):
        made.submit(number, request(prompt, temperature=heat[number], seed=number))
    sent = drain(made)
    for number, prompt in enumerate(asked):
        wanted = expected_logprobs(A, prompt, sent.tokens(number), heat[number] or 1.0)
        np.testing.assert_allclose(sent.logprobs(number), wanted, atol=1e-4)


def test_truncated_logprobs_are_renormalised_in_the_set() -> None:
    made = engine()
    cuts: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.6}, {"top_k": 5, "top_p": 0.7}, {}]
    asked = prompts(4)
    for number, prompt in enumerate(asked):
        made.submit(number, request(prompt, temperature=1.3, seed=number, **cuts[number]))
    sent = drain(made)
    for number, prompt in enumerate(asked):
        tokens = sent.tokens(number)
        table = logits_of(A, prompt + tokens) / 1.3
        for i, (token, logprob) in enumerate(
            zip(tokens, sent.logprobs(number), strict=True), start=len(prompt) - 1
        ):
            order = table[i].argsort(descending=True)
            kept = order[: cuts[number].get("top_k", VOCAB)]
            inside = table[i][kept].softmax(-1)
            if "top_p" in cuts[number]:
                kept = kept[(inside.cumsum(-1) - inside) < cuts[number]["top_p"]]
            assert token in kept.tolist()
            wanted = table[i][token] - table[i][kept].logsumexp(-1)
            assert logprob == pytest.approx(float(wanted), abs=1e-4)


def test_draws_follow_the_distribution() -> None:
    made = engine(slots=64)
    prompt = [5, 9, 11]
    for number in range(4000):
        made.submit(number, request(prompt, max_tokens=1, temperature=2.0))
    sent = drain(made)
    counts = np.bincount([sent.tokens(n)[0] for n in range(4000)], minlength=VOCAB)
    wanted = (logits_of(A, prompt)[-1] / 2.0).softmax(-1).numpy() * 4000
    often = wanted > 5
    chi = float((((counts - wanted) ** 2) / wanted)[often].sum())
    freedom = int(often.sum())
    assert chi < freedom + 5 * (2 * freedom) ** 0.5


# ---------------------------------------------------------------- seeds, ends


def test_a_seed_decides_whatever_shares_the_batch_and_survives_a_move() -> None:
    prompt = [7, 8, 9]
    alone = engine(slots=1)
    alone.submit(1, request(prompt, seed=42))
    wanted = drain(alone).tokens(1)
    crowd = engine(slots=4)
    for number, other in enumerate(prompts(6)):
        crowd.submit(10 + number, request(other))
    crowd.step(3)
    crowd.submit(1, request(prompt, seed=42))
    crowd.submit(2, request(prompt, seed=43))
    crowd.submit(3, request(prompt, so_far=wanted[:5], seed=42))
    sent = drain(crowd)
    assert sent.tokens(1) == wanted
    assert sent.tokens(2) != wanted
    assert sent.tokens(3) == wanted[5:]


def test_stop_token_is_kept_and_ends() -> None:
    free = engine()
    free.submit(0, request([5, 6], temperature=0.0))
    tokens = drain(free).tokens(0)
    stop = tokens[6]
    first = tokens.index(stop)
    made = engine()
    made.submit(0, request([5, 6], temperature=0.0, stop_ids=(VOCAB + 5, stop)))
    made.submit(1, request([5, 6], temperature=0.0, stop_ids=(VOCAB + 5,)))
    sent = drain(made)
    assert sent.tokens(0) == tokens[: first + 1]
    assert sent.finish(0) == "stop"
    assert sent.tokens(1) == tokens
    assert sent.finish(1) == "length"


def test_an_answer_that_ends_with_its_last_token_is_not_truncated() -> None:
    """The longest answer of a batch, or one that just fits, ended by itself all the same."""
    free = engine()
    free.submit(0, request([5, 6], temperature=0.0))
    tokens = drain(free).tokens(0)
    first = tokens.index(tokens[6])
    made = engine()
    made.submit(0, request([5, 6], temperature=0.0, stop_ids=(tokens[6],), max_tokens=first + 1))
    sent = drain(made)
    assert (sent.tokens(0), sent.finish(0)) == (tokens[: first + 1], "stop")


def test_max_tokens_counts_the_tokens_so_far_and_context_ends() -> None:
    made = engine()
    made.submit(0, request([5, 6], so_far=[7] * 9, max_tokens=12))
    made.submit(1, request([5, 6], so_far=[7] * 12, max_tokens=12))
    made.submit(2, request([5] * (CONTEXT - 3), max_tokens=99))
    made.submit(3, request([5] * CONTEXT, max_tokens=99))
    sent = drain(made)
    assert [len(sent.tokens(n)) for n in range(4)] == [3, 0, 3, 0]
    assert [sent.finish(n) for n in range(4)] == ["length"] * 4


def test_abort_delivers_the_partial_and_frees_the_row() -> None:
    made, sent = engine(slots=2), Collected()
    for number, prompt in enumerate(prompts(3)):
        made.submit(number, request(prompt, temperature=0.0))
    sent.add(made.step(4))
    made.abort(0)
    made.abort(2)  # still waiting
    made.abort(77)  # unknown
    drain(made, sent)
    assert [sent.finish(n) for n in range(3)] == ["abort", "length", "abort"]
    assert [len(sent.tokens(n)) for n in range(3)] == [4, 12, 0]
    np.testing.assert_allclose(
        sent.logprobs(1), expected_logprobs(A, prompts(3)[1], sent.tokens(1)), atol=1e-4
    )


def test_poke_ends_a_step_early() -> None:
    made = engine()
    made.submit(0, request([5, 6]))
    made.poke()
    assert made.step(8) == []
    made.abort(0)
    ((_, delta),) = made.step(8)
    assert len(delta.token_ids) == 1


def test_flush_sends_parts() -> None:
    made = engine(flush=4)
    made.submit(0, request([5, 6], max_tokens=11))
    sent = drain(made, block=2)
    assert [length for _, length in sent.spans(0)] == [4, 4, 3]


def test_requests_wait_for_the_first_version() -> None:
    made = engine(first=None)
    made.submit(0, request([5, 6]))
    assert made.step(8) == []
    assert (made.num_running, made.num_waiting, made.version) == (0, 1, None)
    made.stage(arrays(A), version(3))
    assert made.version is None
    made.swap()
    assert drain(made).spans(0) == [(3, 12)]


def test_bad_requests_are_refused() -> None:
    made = engine()
    with pytest.raises(RealnetError, match="empty prompt"):
        made.submit(0, request([]))
    with pytest.raises(RealnetError, match="outside 0"):
        made.submit(0, request([VOCAB]))
    with pytest.raises(RealnetError, match="tokens_so_far"):
        made.submit(0, request([1], so_far=[-1]))


# ---------------------------------------------------------------- swaps


def swapped(kv: str) -> tuple[list[list[int]], Collected]:
    """Write 5 tokens with A, the rest with B, in rows of different age."""
    made, sent = engine(kv=kv, slots=3, prefill=16), Collected()
    asked = prompts(4, seed=3)
    for number in (0, 1):
        made.submit(number, request(asked[number], seed=number))
    sent.add(made.step(5))
    made.submit(2, request(asked[2], seed=2))
    made.submit(3, request(asked[3], seed=3, max_tokens=4))
    sent.add(made.step(2))
    made.stage(arrays(B), version(1))
    assert made.version == version(0)
    made.swap()
    assert made.version == version(1)
    return asked, drain(made, sent)


def test_spans_are_exact() -> None:
    _, sent = swapped("recompute")
    assert sent.spans(0) == [(0, 7), (1, 5)]
    assert sent.spans(1) == [(0, 7), (1, 5)]
    assert sent.spans(2) == [(0, 2), (1, 10)]
    assert sent.spans(3) == [(1, 4)]


def test_swap_with_recompute_is_the_pure_new_policy_on_the_whole_prefix() -> None:
    asked, sent = swapped("recompute")
    for number, prompt in enumerate(asked):
        tokens, got = sent.tokens(number), sent.logprobs(number)
        old = sum(n for v, n in sent.spans(number) if v == 0)
        np.testing.assert_allclose(got[:old], expected_logprobs(A, prompt, tokens)[:old], atol=1e-4)
        np.testing.assert_allclose(got[old:], expected_logprobs(B, prompt, tokens)[old:], atol=1e-4)


@torch.inference_mode()
def test_stale_swap_is_old_keys_under_new_weights() -> None:
    asked, sent = swapped("stale")
    for number, prompt in enumerate(asked):
        tokens, got = sent.tokens(number), sent.logprobs(number)
        old = sum(n for v, n in sent.spans(number) if v == 0)
        cache = DynamicCache()
        ids = torch.tensor([prompt + tokens])
        prefix = len(prompt) + old - 1  # tokens whose keys and values A wrote
        if old:
            # By its place: transformers 5.24 gave the cache another name.
            A(ids[:, :prefix], None, None, cache, use_cache=True)
            rest = B(ids[:, prefix:], None, None, cache, use_cache=True).logits[0]
        else:
            rest = B(ids).logits[0][len(prompt) - 1 :]
        wanted = [float(rest[i].log_softmax(-1)[t]) for i, t in enumerate(tokens[old:])]
        np.testing.assert_allclose(got[old:], wanted, atol=1e-4)
    pure = expected_logprobs(B, asked[0], sent.tokens(0))[7:]
    assert np.abs(np.array(sent.logprobs(0)[7:]) - pure).max() > 0.01


def test_many_swaps_lose_no_token() -> None:
    made, sent = engine(slots=5), Collected()
    asked = prompts(20, seed=9)
    for number, prompt in enumerate(asked):
        made.submit(number, request(prompt, seed=number, max_tokens=15))
    current = 0
    while made.num_running or made.num_waiting:
        sent.add(made.step(3))
        current += 1
        made.stage(arrays(B if current % 2 else A), version(current))
        made.swap()
    for number, prompt in enumerate(asked):
        spans = sent.spans(number)
        assert sum(n for _, n in spans) == 15
        assert [v for v, _ in spans] == sorted({v for v, _ in spans})
        by_model = [expected_logprobs(m, prompt, sent.tokens(number)) for m in (A, B)]
        writers = [v % 2 for v, n in spans for _ in range(n)]
        wanted = [by_model[w][i] for i, w in enumerate(writers)]
        np.testing.assert_allclose(sent.logprobs(number), wanted, atol=1e-4)


def test_a_swap_that_fails_half_way_is_undone_and_the_next_one_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys and values of some rows are the new version's already when the device has no room."""
    made, sent = engine(kv="recompute", prefill=8), Collected()
    asked = prompts(3, seed=4)
    for number, prompt in enumerate(asked):
        made.submit(number, request(prompt, seed=number, max_tokens=15))
    sent.add(made.step(5))
    made.stage(arrays(B), version(1))
    decoder, calls = made._decoder, 0
    plain = decoder.prefill

    def runs_out(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return plain(*given, **named)

    monkeypatch.setattr(decoder, "prefill", runs_out)
    with pytest.raises(SwapUndone, match=r"v0\.1 was not swapped in, .*v0\.0 goes on: out"):
        made.swap()
    assert made.version == version(0)
    sent.add(made.step(5))
    made.stage(arrays(B), version(2))
    made.swap()
    assert made.version == version(2)
    drain(made, sent)
    for number, prompt in enumerate(asked):
        spans = sent.spans(number)
        assert sum(n for _, n in spans) == 15
        assert {v for v, _ in spans} == {0, 2}
        old = sum(n for v, n in spans if v == 0)
        tokens, got = sent.tokens(number), sent.logprobs(number)
        np.testing.assert_allclose(got[:old], expected_logprobs(A, prompt, tokens)[:old], atol=1e-4)
        np.testing.assert_allclose(got[old:], expected_logprobs(B, prompt, tokens)[old:], atol=1e-4)


def test_a_failed_stage_leaves_the_running_weights() -> None:
    made = engine()
    broken = arrays(B)
    broken.pop("model.norm.weight")
    with pytest.raises(ConfigError, match=r"model\.norm\.weight"):
        made.stage(broken, version(1))
    made.submit(0, request([5, 6], seed=1))
    sent = drain(made)
    assert sent.spans(0) == [(0, 12)]
    np.testing.assert_allclose(
        sent.logprobs(0), expected_logprobs(A, [5, 6], sent.tokens(0)), atol=1e-4
    )


# ---------------------------------------------------------------- parts


def test_prefill_groups_stay_in_budget() -> None:
    lengths = {0: 3, 1: 9, 2: 1, 3: 8, 4: 40}
    groups = batches(lengths, 20)
    assert groups == [[4], [1, 3], [0, 2]]
    assert sorted(r for g in groups for r in g) == sorted(lengths)


def test_make_core_and_a_context_beyond_the_model(tmp_path: Path) -> None:
    made = make_core(EngineConfig(slots=2), POLICY, VOCAB, Path(), 0)
    assert isinstance(made, TorchEngine)
    model(1).save_pretrained(tmp_path / "m")
    far = Policy(model="./m", context=CONTEXT + 1)
    with pytest.raises(ConfigError, match=r"Lower \[policy\]\.context"):
        make_core(EngineConfig(slots=2), far, VOCAB, tmp_path, 0)


@pytest.mark.parametrize(("device", "seen"), [("cuda", "no"), ("cuda:2", "2")])
def test_a_gpu_that_is_not_there_is_refused_by_name(
    device: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if seen == "no" else int(seen))
    with pytest.raises(
        ConfigError, match=rf'device = "{device}", but this process sees {seen} GPU'
    ):
        engine(device=device)
