"""The driver role: turns a ticket into rollouts by asking a generator, one answer segment each.

Knows tickets, groups and text; knows nothing of models, weights or rewards.
"""
