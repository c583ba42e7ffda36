"""Pure functions of policy-gradient training, and the table that chooses among them.

    presets          a name and the user's fields -> a rule, every field decided (no torch)
    shaping          rewards -> rewards: overlong answers; which groups are worth training on
    credit           rewards and group keys -> advantages, one for each token
    advantages, gae  the equations behind credit: groups, whole batches, a critic
    importance       log-probabilities -> ratios, proximal policies, bounded importance weights
    losses, kl       ratios and advantages -> the loss of each token
    objective        a rule and the tensors of a micro-batch -> its loss and what to watch
    normalise        token losses -> the share of each in the mean that is minimised
    batching         lengths -> micro-batches under a budget of tokens
    schedules        a step -> a learning rate

Each function states its shapes and where its equation comes from. n: answers; T: tokens of one or
more answers that may carry gradient, answer after answer. Nothing here knows of actors, records,
models or files. Called by the trainer's learner.
"""
