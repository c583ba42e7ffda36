"""What vLLM draws by: its parameters from ours, and the proof that it keeps them.

vLLM fills gaps in a request from the model's generation_config.json: a temperature, a top-k, more
stop tokens. Training on such answers is quietly off-policy, so one request is sent through vLLM's
own input processor at the start, and what comes out is compared.

Knows vLLM's SamplingParams. Called by `engine` and `core`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind

from realnet.errors import ConfigError, RealnetError
from realnet.roles.messages import Generate, Sampling

_PROBE = Sampling(temperature=0.75, top_p=0.9, top_k=7, max_tokens=5, stop_ids=(3,), seed=11)
_NEUTRAL = {
    "n": 1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": True,
    "logprobs": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "stop": None,
}


def params_of(sampling: Sampling, *, max_tokens: int, before: int) -> SamplingParams:
    """Return vLLM's parameters. `before` tokens of the answer are written already.

    Raises RealnetError for what vLLM does not draw by, such as a temperature above 2.
    """
    try:
        return _params(sampling, max_tokens, before)
    except (VLLMClientError, ValueError) as error:
        raise RealnetError(f"vLLM refuses this request: {error}") from None


def _params(sampling: Sampling, max_tokens: int, before: int) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=max_tokens,
        seed=seed_of(sampling.seed, before),
        stop_token_ids=list(sampling.stop_ids),
        ignore_eos=True,  # an answer ends where `stop_ids` says, not where a folder says
        logprobs=0,  # of the token that was drawn
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def seed_of(seed: int | None, before: int) -> int | None:
    """Return the seed for an answer from its `before`-th token on.

    vLLM counts draws from where a request begins: with the same seed, an answer that goes on here
    would draw the numbers of its first tokens again.
    """
    if seed is None or before == 0:
        return seed if seed is None else seed % 2**63
    digest = hashlib.blake2b(f"{seed}+{before}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def score_params() -> SamplingParams:
    """Return parameters that score a prompt."""
    return SamplingParams(
        temperature=1.0,
        max_tokens=1,  # vLLM always writes one
        prompt_logprobs=0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def check_effective(input_processor: Any, logprobs_mode: str) -> None:
    """Raise ConfigError, naming it, when vLLM would draw by something else than it is told."""
    wrong = []
    if logprobs_mode != "processed_logprobs":
        wrong.append(f'logprobs_mode = "{logprobs_mode}", not "processed_logprobs"')
    asked = params_of(_PROBE, max_tokens=5, before=0)
    request = input_processor.process_inputs(
        "probe", {"prompt_token_ids": [0, 1]}, asked.clone(), supported_tasks=("generate",)
    )
    kept = request.sampling_params
    wanted = _NEUTRAL | {
        "temperature": _PROBE.temperature,
        "top_p": _PROBE.top_p,
        "top_k": _PROBE.top_k,
        "max_tokens": _PROBE.max_tokens,
        "seed": _PROBE.seed,
        "stop_token_ids": list(_PROBE.stop_ids),
    }
    for name, value in wanted.items():
        found = getattr(kept, name)
        if found != value and (found or value):  # None and [] both say: none
            wrong.append(f"{name} = {found!r}, asked for {value!r}")
    if wrong:
        raise ConfigError(
            f"vLLM does not draw by what it is told: {'; '.join(wrong)}. Look at the model's "
            "generation_config.json and at variables that begin with VLLM_"
        )


def tokens_of(request: Generate) -> list[int]:
    """Return the prompt of a request: what vLLM goes on after."""
    return [*request.prompt_ids.tolist(), *request.tokens_so_far.tolist()]
