"""Guests: processes that belong to somebody else and take part in a run for a while.

`node.py` is what a service uses (`realnet.Node`); `desk.py` is where the head receives guests,
`register.py` decides. Knows nothing of roles.
"""
