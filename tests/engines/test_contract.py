"""What every engine promises, held against each: fake, torch, vLLM in this process and its own.

`make test` runs the first two, `make test-vllm` all.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_versions import Published, adapters_for, filled, merged
from engine_rig import (
    BOUND,
    CONTEXT,
    FAKE_VOCAB,
    VOCAB,
    Answer,
    Around,
    Rig,
    model,
    request,
    version,
)

from realnet.errors import RealnetError
from realnet.roles.messages import Announced
from realnet.roles.models.build import named_weights
from realnet.roles.weights.intake import Intake
from realnet.roles.weights.receiver import Receiver

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
PROMPT = [4, 9, 14, 23]


async def idle(engine: Rig) -> None:
    """Wait until nothing runs; the test's time limit ends it otherwise."""
    while engine.engine.num_running or engine.engine.num_waiting:
        await asyncio.sleep(0.002)


async def test_tokens_in_and_tokens_out(engine: Rig) -> None:
    answers = await asyncio.gather(
        *(engine.answer(request(PROMPT, max_tokens=n, seed=n)) for n in (1, 2, 7, 8, 9, 30))
    )
    for answer, count in zip(answers, (1, 2, 7, 8, 9, 30), strict=True):
        assert (len(answer.tokens()), answer.finish) == (count, "length")
        assert all(0 <= token < VOCAB for token in answer.tokens())
        engine.check(answer)


async def test_temperature_and_a_prompt_of_one_token(engine: Rig) -> None:
    engine.check(await engine.answer(request([5], temperature=0.6, seed=3)))
    engine.check(await engine.answer(request([5], temperature=1.7, seed=3)))


async def test_an_answer_ends_with_the_context(engine: Rig) -> None:
    long = [4 + i % 20 for i in range(CONTEXT - 3)]
    answer = await engine.answer(request(long, max_tokens=50))
    assert (len(answer.tokens()), answer.finish) == (3, "length")
    full = await engine.answer(request(long, so_far=[5, 6, 7], max_tokens=50))
    assert (full.tokens(), full.finish) == ([], "length")
    written = await engine.answer(request(PROMPT, so_far=[5, 6, 7], max_tokens=3))
    assert (written.tokens(), written.finish) == ([], "length")


async def test_a_stop_token_is_kept_and_has_a_logprob(engine: Rig) -> None:
    if engine.fake:
        answer = await engine.answer(request(PROMPT, max_tokens=120, stop_ids=(3,)))
        assert (answer.finish, answer.tokens()[-1], answer.tokens().count(3)) == ("stop", 3, 1)
        return
    free = await engine.answer(request(PROMPT, temperature=0.0, max_tokens=16))
    stop = free.tokens()[9]
    answer = await engine.answer(
        request(PROMPT, temperature=0.0, max_tokens=16, stop_ids=(stop, VOCAB - 1))
    )
    assert answer.finish == "stop"
    assert answer.tokens() == free.tokens()[: free.tokens().index(stop) + 1]
    engine.check(answer)


async def test_a_seed_repeats_itself_and_seeds_differ(engine: Rig) -> None:
    one, same, other = await asyncio.gather(
        *(engine.answer(request(PROMPT, seed=seed)) for seed in (11, 11, 12))
    )
    assert one.tokens() == same.tokens()
    assert one.tokens() != other.tokens()


async def test_an_answer_goes_on_after_tokens_that_another_engine_wrote(engine: Rig) -> None:
    whole = await engine.answer(request(PROMPT, temperature=0.0, seed=1, max_tokens=20))
    for cut in range(1, 20):
        so_far = whole.tokens()[:cut]
        rest = await engine.answer(
            request(PROMPT, so_far=so_far, temperature=0.0, seed=1, max_tokens=20)
        )
        assert so_far + rest.tokens() == whole.tokens()
        engine.check(rest)


async def test_a_seeded_answer_that_goes_on_is_not_its_beginning_again(engine: Rig) -> None:
    flat = {"temperature": 2.0, "seed": 5}
    first = await engine.answer(request(PROMPT, max_tokens=12, **flat))
    rest = await engine.answer(request(PROMPT, so_far=first.tokens(), max_tokens=24, **flat))
    assert rest.tokens() != first.tokens()


async def test_what_cannot_be_served_is_refused(engine: Rig) -> None:
    with pytest.raises(RealnetError, match="empty prompt"):
        await engine.answer(request([]))
    with pytest.raises(RealnetError, match="token ids outside"):
        await engine.answer(request([-1]))
    if "vllm" in engine.kind:
        with pytest.raises(RealnetError, match="temperature must be in"):
            await engine.answer(request(PROMPT, temperature=50.0))
    await idle(engine)


async def test_abort_gives_what_there_is(engine: Rig) -> None:
    begun = asyncio.Event()
    asked = request(PROMPT, max_tokens=100, seed=2)
    writing = asyncio.create_task(engine.answer(asked, begun.set))
    await begun.wait()
    await engine.engine.abort()
    answer = await writing
    assert answer.finish in ("abort", "length")  # it may have ended by itself meanwhile
    assert 0 < len(answer.tokens()) <= 100
    engine.check(answer)
    await idle(engine)
    engine.check(await engine.answer(request(PROMPT, max_tokens=4)))


async def test_closing_a_stream_ends_its_request(engine: Rig) -> None:
    stream = engine.engine.stream(request(PROMPT, max_tokens=100))
    await anext(stream)
    await stream.aclose()
    await idle(engine)


async def test_scores_are_the_models(engine: Rig) -> None:
    ids = [np.arange(4, 40, dtype=np.int32), np.array([9, 9, 4], np.int32)]
    running = asyncio.create_task(engine.answer(request(PROMPT, max_tokens=60)))
    scored = await engine.engine.score(ids)
    assert [len(s) for s in scored] == [35, 2]
    engine.check(await running)
    for row, sequence in zip(scored, ids, strict=True):
        if engine.fake:
            assert np.allclose(row, -np.log(FAKE_VOCAB))
            continue
        newest = model(engine.models[max(engine.models)])
        with torch.no_grad():
            logp = newest(torch.tensor(sequence.tolist())[None]).logits[0].log_softmax(-1)
        wanted = logp[:-1].gather(1, torch.tensor(sequence[1:].tolist())[:, None])[:, 0]
        assert np.abs(wanted.numpy() - row).max() < BOUND


async def test_a_version_is_swapped_in_mid_answer(engine: Rig) -> None:
    begun = asyncio.Event()
    answers = [
        asyncio.create_task(engine.answer(request([*PROMPT, n], max_tokens=90, seed=n), begun.set))
        for n in range(4, 10)
    ]
    await begun.wait()
    await engine.load(2)
    done = await asyncio.gather(*answers)
    for answer in done:
        assert len(answer.tokens()) == 90
        engine.check(answer)
    new = await engine.answer(request(PROMPT, max_tokens=20, seed=1))
    assert [number for number, _ in new.spans()] == [max(engine.models)]
    engine.check(new)


async def test_a_repeated_prompt_meets_no_keys_of_an_old_version(engine: Rig) -> None:
    long = [4 + i % 23 for i in range(80)]
    for seed in (1, 2, 1):
        await engine.load(seed)
        for _ in range(2):
            engine.check(await engine.answer(request(long, max_tokens=8, seed=1)))


async def test_weights_that_do_not_fit_leave_the_old_ones(engine: Rig) -> None:
    if engine.fake:
        return  # takes none
    await engine.load(1)
    good = engine.manifest(2, 99)
    import msgspec

    less = msgspec.structs.replace(good, tensors=good.tensors[1:])
    with pytest.raises(RealnetError):
        await engine.engine.stage(less, engine.room)
    engine.check(await engine.answer(request(PROMPT, max_tokens=12)))
    await engine.load(2)
    engine.check(await engine.answer(request(PROMPT, max_tokens=12)))


async def test_a_storm_of_updates_loses_and_doubles_nothing(engine: Rig) -> None:
    """64 requests in flight, a new version again and again until all have ended."""
    lengths = [60 + n % 40 for n in range(64)]

    async def one(n: int) -> Answer:
        prompt = [4 + (n + i) % 30 for i in range(6)]
        return await engine.answer(request(prompt, max_tokens=lengths[n], seed=n))

    first = max(engine.models)
    writing = asyncio.gather(*(one(n) for n in range(64)))
    updates = 0
    while not writing.done() and updates < 20:
        written = engine.engine.tokens
        await engine.load(1 + updates % 2)
        updates += 1
        while engine.engine.tokens == written and not writing.done():
            await asyncio.sleep(0.002)  # a version that writes nothing tests nothing
    answers = await writing
    for answer, length in zip(answers, lengths, strict=True):
        assert (len(answer.tokens()), answer.finish) == (length, "length")
        numbers = [number for number, _ in answer.spans()]
        assert numbers == sorted(numbers)
        assert all(number >= first for number in numbers)
        engine.check(answer)
    assert len({number for a in answers for number, _ in a.spans()}) > 1
    print(f"{engine.kind}: {updates} updates under {len(answers)} answers")


async def test_updates_in_a_row_starve_nobody(engine: Rig) -> None:
    """The next version is there as soon as one is swapped in; answers go on between them."""
    writing = asyncio.ensure_future(engine.answer(request([4, 9, 5], max_tokens=40, seed=3)))
    updates = 0
    while not writing.done():  # for ever, if nothing were written between two updates
        await engine.load(1 + updates % 2)
        updates += 1
    answer = await writing
    assert len(answer.tokens()) == 40
    engine.check(answer)


async def test_adapters_over_a_base_are_the_merged_weights(engine: Rig, tmp_path: Path) -> None:
    """The same bits as merged publication gives, swapped in amid an answer."""
    if engine.fake:
        return  # takes none
    base = {n: w.detach().clone() for n, w in named_weights(model(1))}
    published = Published(tmp_path, base)
    around: Any = Around()
    intake = Intake(around, Receiver(around, None, host="here"), host="here")
    for seed in (1, 2):
        adapters = adapters_for(base, seed, ["q_proj", "down_proj", "gate_proj"])
        whole, room = filled(version(len(engine.models)), merged(base, adapters, torch.float32))
        engine.room.make(len(room))[:] = room
        await engine.swap(whole)
        expected = await engine.greedy(PROMPT, 24)
        await engine.load(2)  # something else between
        assert (await engine.greedy(PROMPT, 24))[0] != expected[0]
        held = published.adapters(version(len(engine.models)), adapters, "float32")
        begun = asyncio.Event()
        writing = asyncio.create_task(
            engine.answer(request(PROMPT, max_tokens=100, seed=3), begun.set)
        )
        await begun.wait()
        manifest = await intake.take(held, Announced(held, bases=(published.base,)), engine.room)
        await engine.swap(manifest)
        assert engine.engine.version == held.manifest.version
        assert len((await writing).tokens()) == 100
        found = await engine.greedy(PROMPT, 24)  # alone: a batch has sums of another order
        assert found[0] == expected[0]
        for one, other in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(one, other)
    await engine.load(1)
    await intake.close()
    around.close()
