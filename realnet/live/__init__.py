"""Ports as a running role uses them: the thin IO around `delivery.py`, `custody.py` and `calls.py`.

    base.py      what every live port is, and what it needs of its actor's cell
    delivery.py  Delivery: one item in custody
    inlet.py     LiveInlet: the receiving end of share wires
    outlet.py    LiveOutlet: the sending end of share wires
    ask.py       LiveAsk: the calling end
    state.py     LiveStateIn, LiveStateOut: latest values

Knows nothing of sockets and processes. Made by `cell.py` from the declarations in `ports.py`.
"""

from realnet.live.ask import LiveAsk
from realnet.live.base import LivePort, Switch
from realnet.live.delivery import Delivery
from realnet.live.inlet import LiveInlet
from realnet.live.outlet import LiveOutlet
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
