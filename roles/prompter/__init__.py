"""The prompter: asks for room, and issues tickets for it.

Knows tasks and the tokenizer. Knows nothing of answers, rewards or steps, and keeps no state that
matters: the ledger's owner tells it what to issue.
"""

from realnet.roles.prompter.prompter import Prompter, PrompterConfig

__all__ = ["Prompter", "PrompterConfig"]
