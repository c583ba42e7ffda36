"""Networks to learn from: small, whole, and run by the tests.

    words       a pool counts the words of a text (topology: words.toml, tutorial: docs/tutorial.md)

Written as any role is, against `realnet`'s public names. Nothing in realnet imports it.
"""
