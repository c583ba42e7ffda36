"""The roles of asynchronous reinforcement learning, written on realnet's public names."""

if __name__ != "realnet.roles":
    raise ImportError(
        "import realnet.roles, not roles: the folder roles/ is the package realnet.roles "
        "(realnet/roles is a link to it), and one import name keeps every class one class"
    )
