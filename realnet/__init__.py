"""realnet: typed actors over ZeroMQ, wired by a topology file.

    message, config      records and tables
    actor, ports         what a role is written with
    topology             from a file to a plan
    head, member, node   what carries a plan out
    guest                Node: a run's actors inside a service of yours
    testing              run a topology in one loop

The names below are public; everything else may change. Importing realnet imports no torch.
"""

from realnet import compiled as compiled  # first: what is imported after it may be compiled
from realnet.actor import Actor, Clock, RunInfo
from realnet.address import Address
from realnet.config import Bytes, Config, Seconds, Shared, Steps, doc
from realnet.errors import (
    AskError,
    CheckpointError,
    ConfigError,
    DeadlineExceeded,
    LostReference,
    NoPeer,
    Overloaded,
    PeerDied,
    RealnetError,
    Refused,
    WireError,
    ensure,
    listed,
    nearest,
)
from realnet.guest.node import Node
from realnet.live import Delivery
from realnet.local import Local
from realnet.message import Message, Nothing, Request, StreamRequest
from realnet.ports import Ask, Inlet, Outlet, StateIn, StateOut, handles
from realnet.serving import Mailbox
from realnet.supervision import Restart
from realnet.watches import Death

__all__ = [
    "Actor",
    "Address",
    "Ask",
    "AskError",
    "Bytes",
    "CheckpointError",
    "Clock",
    "Config",
    "ConfigError",
    "DeadlineExceeded",
    "Death",
    "Delivery",
    "Inlet",
    "Local",
    "LostReference",
    "Mailbox",
    "Message",
    "NoPeer",
    "Node",
    "Nothing",
    "Outlet",
    "Overloaded",
    "PeerDied",
    "RealnetError",
    "Refused",
    "Request",
    "Restart",
    "RunInfo",
    "Seconds",
    "Shared",
    "StateIn",
    "StateOut",
    "Steps",
    "StreamRequest",
    "WireError",
    "doc",
    "ensure",
    "handles",
    "listed",
    "nearest",
]
