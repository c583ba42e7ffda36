"""The vocabulary of the roles: every record that two roles exchange.

The data model (policy in every key, versions with branches, rollouts as segments) is the one that
agents, tools and several policies need later; single-turn is one prompt and one answer segment.

Knows nothing of models, files or sockets. Roles and their libraries import this; it imports only
realnet's public names.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from realnet.message import Message, Nothing, Request, StreamRequest

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]
Origin = Literal["prompt", "model", "tool"]

# ---------------------------------------------------------------- names


class Version(Message):
    """One state of a policy's weights. The branch grows at every trainer resume, so that a number
    never names two states."""

    policy: str
    branch: int
    number: int

    def __str__(self) -> str:
        return f"{self.policy} v{self.branch}.{self.number}"


class TicketKey(Message):
    """Which ticket: the k-th of a policy, or, with `parent`, one derived from another's sample."""

    policy: str
    ticket: int
    parent: str = ""

    def __str__(self) -> str:
        return f"{self.policy}/{self.parent + ':' if self.parent else ''}{self.ticket}"


class SampleKey(Message):
    """Which answer to a ticket."""

    ticket: TicketKey
    sample: int

    def __str__(self) -> str:
        return f"{self.ticket}#{self.sample}"


# ---------------------------------------------------------------- work


class Sampling(Message):
    """How to draw tokens. `top_p = 1` and `top_k = 0` leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None


class Ticket(Message):
    """One prompt to be answered `group` times under one admission.

    `at_least` is the version that was out when it was issued: nothing older may answer it, which
    makes η = 0 exactly synchronous.
    """

    key: TicketKey
    task: str
    prompt_ids: Ints
    prompt: str
    answer: str
    group: int
    sampling: Sampling
    pinned: Version | None = None
    at_least: Version | None = None


class Span(Message):
    """`length` consecutive tokens of a segment that one version wrote."""

    version: Version
    length: int


class Segment(Message):
    """A run of tokens of one origin. `logprobs` and `spans` are empty unless a model wrote it.

    Shapes: token_ids [T], logprobs [T] (of the distribution that was sampled from).
    """

    origin: Origin
    token_ids: Ints
    logprobs: Floats
    spans: tuple[Span, ...] = ()
    learn: bool = False
    parent: int = -1


class Rollout(Message):
    """One answer to one ticket: its segments, and how it ended.

    `stop` is "stop" (a stop token) or "length" (max_tokens or context). `text` is the decoded
    answer without the stop token; `answer` is the ticket's reference answer.
    """

    key: SampleKey
    task: str
    prompt: str
    text: str
    answer: str
    segments: tuple[Segment, ...]
    stop: str
    generated_s: float = 0.0
    episode: str = ""


class Scored(Message):
    """A rollout with its reward; `reward` is None when it could not be judged (see `fault`)."""

    rollout: Rollout
    reward: float | None
    parts: dict[str, float] = {}
    fault: str = ""


class GroupClosed(Message):
    """No more samples of this ticket will come; it has `samples` of them.

    With `samples = 0` it could not be answered, and `reason` says why: what had come is not used.
    """

    key: TicketKey
    samples: int
    reason: str = ""


class Group(Message):
    """All answers to one ticket that will come, judged or not: what a trainer learns from."""

    key: TicketKey
    scored: tuple[Scored, ...]


# ---------------------------------------------------------------- generation


class Delta(Message):
    """The next tokens of a request; `finish` is "" until the last one, which has "stop", "length"
    or "abort" (the request was ended from outside; its tokens are valid).

    Shapes: token_ids [T], logprobs [T]; all T tokens were written by `version`.
    """

    token_ids: Ints
    logprobs: Floats
    version: Version
    finish: str = ""


class Generate(StreamRequest[Delta]):
    """Continue `prompt_ids + tokens_so_far`. A generator knows no tickets, groups or rewards.

    `sampling.max_tokens` counts the tokens so far. With `pinned` set, exactly that version writes;
    with `at_least`, writing begins when the generator has that version or a newer one.
    `session` names requests that share a prefix.
    """

    policy: str
    prompt_ids: Ints
    sampling: Sampling
    tokens_so_far: Ints
    session: str = ""
    pinned: Version | None = None
    at_least: Version | None = None


class Rollouts(Message):
    """The answers to one ticket."""

    rollouts: tuple[Rollout, ...]


class Attempt(Request[Rollouts]):
    """Answer this ticket and give the rollouts back to me (evaluators ask this of a driver)."""

    safe = True
    ticket: Ticket


class Judgement(Message):
    """The scores of the rollouts asked about, in their order."""

    scored: tuple[Scored, ...]


class Judge(Request[Judgement]):
    """Score these rollouts and give them back to me."""

    safe = True
    rollouts: tuple[Rollout, ...]


# ---------------------------------------------------------------- admission


class Standing(Message):
    """Mean reward of the newest groups of each task, as tickets from `first` on are dealt with."""

    first: int
    rewards: dict[str, float]


class Slots(Message):
    """Half-open intervals of ticket numbers that the asker now owns.

    `standings` are those that the asker did not know; of tickets that go out again, too.
    """

    intervals: tuple[tuple[int, int], ...]
    standings: tuple[Standing, ...] = ()


class TakeSlots(Request[Slots]):
    """A prompter asks for tickets to issue. The reply waits for room, up to the deadline.

    `first` is True in the first request of a prompter's life, and when it may have lost a reply:
    the reply then holds the tickets that were issued and not finished, for the prompter to issue
    again, as far as there is room; the rest comes with later replies. `asker` says who asks, over
    all its lives: where several issue tickets, each gets back its own.
    """

    policy: str
    want: int
    first: bool = False
    standings: int = -1  # how many the asker knows; -1: it needs none
    asker: str = ""


class ReportTickets(Request[Nothing]):
    """A prompter tells what became of tickets: handed to a driver, or set aside with a reason."""

    safe = True
    policy: str
    handed: tuple[int, ...] = ()
    set_aside: tuple[tuple[int, str], ...] = ()


# ---------------------------------------------------------------- weights


class Tensor(Message):
    """One slice of one tensor: where it lies in a version's bytes, and where in the whole tensor.

    `offset_bytes` is where the whole tensor begins in the version's bytes, in C order; `start` is
    the slice's offset in each dimension of the global `shape`, `size` its extent, `num_bytes` its
    own bytes. What is announced has one slice a tensor, all of it; a trainer's rank writes its own
    (`shard` says which), and the version is whole when slices tile every tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    offset_bytes: int
    num_bytes: int
    shard: int = 0


class Bucket(Message):
    """A run of a version's bytes: the tensors of neighbouring layers. It is checked, sent and
    received as one. `digest` is xxh3_128 (hex) of its bytes."""

    offset_bytes: int
    num_bytes: int
    digest: str = ""


class Canary(Message):
    """Token ids and the log-probabilities that the trainer gives them, at temperature 1.

    Shapes: sequences [n][T], logprobs [n][T - 1]. `exact` when both sides compute in fp32.
    """

    sequences: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    exact: bool = True


class Over(Message):
    """What a version of adapters is laid over, and how it becomes whole weights.

    X.weight of the whole is base X.weight + alpha / rank * X.lora_B.weight X.lora_A.weight, by sums
    that are the same everywhere (`weights/merging.py`), in `dtype`; what has no adapter is the
    base's. `digest` is the base's. `whole_digest`, if not empty, is that of the whole.
    """

    base: Version
    digest: str
    rank: int
    alpha: int
    dtype: str
    whole_digest: str = ""


class Manifest(Message):
    """What a version consists of. `digest` is xxh3_128 (hex) of its `num_bytes` bytes; with
    `buckets`, which cover all of them in order, of the buckets' digests one after another.

    With `over` it is of adapters alone. `key` is what the trainer knows a base by.
    """

    version: Version
    tensors: tuple[Tensor, ...]
    num_bytes: int
    digest: str
    buckets: tuple[Bucket, ...] = ()
    canary: Canary | None = None
    over: Over | None = None
    key: str = ""


class Location(Message):
    """Where a version's bytes lie in the arena of a host. `generation` is even when they are whole
    and changes when the slot is written again; `slot_bytes` is the size of every slot."""

    path: str
    slot: int
    generation: int
    slot_bytes: int = 0


class SlotOpened(Message):
    """Write the version's bytes into this slot, then ask `CommitVersion` (or `CommitPart`).

    The slot is in the memory of `host`; from another one, send `WriteRuns`. With `held` there is
    none: that base is there already, as this. `links` are those by which readers may have versions.
    """

    location: Location
    host: str = ""
    held: Manifest | None = None
    links: tuple[str, ...] = ()


class OpenSlot(Request[SlotOpened]):
    """A trainer wants to publish `num_bytes` bytes as `version`.

    With several `writers` (ranks), all ask, and all get the same slot. Who asks a second time has
    died meanwhile: the slot is begun again, and what the others wrote into it is void.

    With `key` it is a base that versions of adapters are laid over: it is written once, and nothing
    is written where one of this key is held.
    """

    version: Version
    num_bytes: int
    writers: int = 1
    writer: int = 0
    key: str = ""


class CommitVersion(Request[Nothing]):
    """The slot holds the whole version; check it and announce it."""

    manifest: Manifest
    location: Location


class Committed(Message):
    """What this writer wrote is as it said. `whole`: so is the version, and it is announced."""

    whole: bool
    missing: tuple[int, ...] = ()


class CommitPart(Request[Committed]):
    """One of several writers has written its slices into the slot; check them.

    `part.tensors` are its slices, `part.digest` the xxh3_128 (hex) of their bytes in this order,
    each in C order. When the last writer's part is checked the version is announced.
    """

    part: Manifest
    location: Location
    writers: int
    writer: int


class WriteRuns(Request[Nothing]):
    """A writer on another host fills an open slot: runs of bytes, one after another in `data`.

    Shapes: offsets_bytes [R], lengths_bytes [R], data [sum of lengths].
    """

    version: Version
    location: Location
    offsets_bytes: Longs
    lengths_bytes: Longs
    data: Octets


class Source(Message):
    """One way to have a version.

    `link`: "shm" (map or copy `location` on `host`), "stream" (ask `at`, an actor), "disk" (the
    safetensors file `at`, on a disk that all see or on `host`), "gloo" or "nccl" (join the update
    that `at` leads), "cuda_ipc" (borrow it on the GPU `at`; `location` is the guard). `host` is
    empty for what every host can use.
    """

    link: str
    host: str = ""
    at: str = ""
    location: Location | None = None


class Held(Message):
    """One version that the parameter server holds, and where.

    `sources` say by which links it can be had; with none, it is at `location` on this host.
    """

    manifest: Manifest
    location: Location
    sources: tuple[Source, ...] = ()


class Announced(Message):
    """State of a parameter server: the newest whole version and the older ones still held.

    `relays` are the hosts with a living relay: who is there waits for its copy. `bases` are what
    versions of adapters are laid over.
    """

    newest: Held | None
    older: tuple[Held, ...] = ()
    relays: tuple[str, ...] = ()
    bases: tuple[Held, ...] = ()


class Chunk(Message):
    """Bytes of a version, from `offset_bytes` on. Shape: data [bytes]."""

    offset_bytes: int
    data: Octets


class FetchVersion(StreamRequest[Chunk]):
    """Stream the bytes of a version that is held, from `offset_bytes` on, in order.

    Refused when that version, with this digest, is not held, or no longer.
    """

    bulk = True
    version: Version
    digest: str
    offset_bytes: int = 0


class Turn(Message):
    """Your place in a collective update; with rank 0 there is none for you: see `why`.

    The group of `epoch` has `size` ranks, of which 0 sends, and finds itself at `store`
    (host and port).
    """

    epoch: int
    rank: int
    size: int
    store: tuple[str, int] = ("", 0)
    timeout_s: float = 0.0
    why: str = ""


class JoinUpdate(Request[Turn]):
    """A generator has room for a version and wants it by a collective.

    The reply is a barrier: it comes when all members of the group are ready, or are waited for no
    longer.
    """

    version: Version
    member: str
    link: str


class UpdateEnded(Request[Nothing]):
    """How a collective update ended for a member; `error` is empty when its copy is whole."""

    safe = True
    version: Version
    member: str
    epoch: int
    error: str = ""


class CopyHeld(Request[Nothing]):
    """A relay says which whole, checked copies it has on its host: these, and no others.

    Asked of the parameter server, which announces them until the relay dies or says otherwise.
    With `awaited`, readers on that host wait for its copies. A trainer that lends versions on its
    GPU says so before it commits them, and is not awaited.
    """

    safe = True
    relay: str
    host: str
    sources: tuple[tuple[Version, Source], ...] = ()
    awaited: bool = True


class PolicyStatus(Message):
    """State of a trainer: the version its next batch will be trained with, and its room."""

    version: Version
    step: int
    room: int
    finished: bool = False


# ---------------------------------------------------------------- measurement


class Measured(Message):
    """What held-out problems say of one version; `values` by name, as "eval/TASK/pass@1"."""

    version: Version
    values: dict[str, float]


class Measurements(Message):
    """State of an evaluator: its newest measurements, oldest first."""

    newest: tuple[Measured, ...] = ()


# ---------------------------------------------------------------- from outside


class Finished(Message):
    """One episode that somebody's service has finished, as `Episode` made it, with its reward."""

    segments: tuple[Segment, ...]
    text: str
    stop: str
    reward: float


class Collected(Message):
    """The group is on the trainer's disk, under this ticket."""

    ticket: TicketKey


class Collect(Request[Collected]):
    """Have these episodes, all of one prompt, trained on as one group. `key` is the asker's own."""

    safe = True
    key: str
    prompt: str
    episodes: tuple[Finished, ...]
    task: str = "given"
