"""Pure functions of policy-gradient training: advantages, losses, presets, micro-batches.

Each function states its shapes and where its equation comes from. Nothing here knows of actors,
records, models or files. Called by the trainer's learner. Only `losses` imports torch.
"""
