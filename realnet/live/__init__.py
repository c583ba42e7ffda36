"""Ports as a running role uses them: the thin IO around `delivery.py` and `calls.py`.

    base.py    what every live port is, and what it needs of its actor's cell
    share.py   Delivery, LiveInlet, LiveOutlet: custody and grants
    ask.py     LiveAsk: the calling end
    state.py   LiveStateIn, LiveStateOut: latest values

Knows nothing of sockets and processes. Made by `cell.py` from the declarations in `ports.py`.
"""

from realnet.live.ask import LiveAsk
from realnet.live.base import LivePort, Switch
from realnet.live.share import Delivery, LiveInlet, LiveOutlet
from realnet.live.state import LiveStateIn, LiveStateOut

__all__ = [
    "Delivery",
    "LiveAsk",
    "LiveInlet",
    "LiveOutlet",
    "LivePort",
    "LiveStateIn",
    "LiveStateOut",
    "Switch",
]
