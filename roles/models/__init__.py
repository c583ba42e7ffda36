"""Library: tokenizers and models of a policy, their named weights, and the folder others can load.

Knows nothing of actors, versions or training. Imported lazily by roles: `build` needs torch and
transformers; `reference`, `shape` and `tokenizer` do not.
"""
