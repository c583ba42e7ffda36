"""Library: checkpoints of trainers on disk, and how one is named: "RUN@step".

Knows folders, manifests and what meta.json says; nothing of tensors or actors. Used by the trainer,
which writes them, by `models`, for a policy that begins as another run's, and by the verbs.
"""
