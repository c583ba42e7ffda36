"""Keeps one copy of the newest weights on a host, for all generators there.

Joined by policy to the parameter server, which announces the copy. Knows nothing of models.
"""

from realnet.roles.relay.relay import Relay, RelayConfig

__all__ = ["Relay", "RelayConfig"]
