"""The generator role: serves `Generate` with a stream of `Delta`, and follows a policy's versions.

Knows engines, requests and weights; knows nothing of tickets, groups or rewards.
"""
