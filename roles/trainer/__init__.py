"""The trainer: scored groups in, new versions of a policy out.

`trainer.py` is the actor, `beginning.py` and `ending.py` the two ends of its life; `store.py` is
what it knows durably, `assembly.py`, `batches.py` and `checkpoint.py` are parts of that; `best.py`,
`origin.py` and `tape.py` read runs from outside. `publisher.py` hands versions to the parameter
server, `reading.py` writes answers down to be read, and `learner*.py` hold the model and the
gradients. Importing this package imports no torch. Knows nothing of generators.
"""
