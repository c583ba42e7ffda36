"""Keeps a policy's versions and says which is the newest.

Knows slots, manifests and digests. Knows nothing of models or training. Joined by policy to the
trainer, which writes versions, and to generators and evaluators, which copy them out.
"""

from realnet.roles.parameter_server.parameter_server import ParameterServer, ParameterServerConfig

__all__ = ["ParameterServer", "ParameterServerConfig"]
