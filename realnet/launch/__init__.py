"""How the processes of a plan come and go: `local` starts them on this machine, `inline` puts all
of them into one loop (tests, and looking at a topology with a debugger).

Knows nothing of roles or records.
"""
