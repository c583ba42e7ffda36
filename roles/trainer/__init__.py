"""The trainer: scored groups in, new versions of a policy out.

`trainer.py` is the actor; `store.py` is what it knows durably, `assembly.py` and `checkpoint.py`
are parts of that, `publisher.py` hands versions to the parameter server, and `learner*.py` hold the
model and the gradients. Importing this package imports no torch. Knows nothing of generators.
"""
