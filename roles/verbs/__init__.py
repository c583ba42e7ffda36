"""The verbs of `realnet` that need roles: try, samples, chat, fetch.

Each is a click command in a file of its own, named in pyproject's entry point group
"realnet.verbs" and imported when it is used. Beside them stand what they share: `setting` (what a
topology or a run says), `weights` (where weights come from without a run going on) and `writing`
(an engine in this process).

Knows roles and their libraries; no role knows this package.
"""
