"""An append-only journal of records that must survive the death of their owner.

Knows files, digests and fsync. Knows nothing of tickets, rollouts or actors: a record is a kind and
bytes. Used by the trainer, which journals what it acknowledges; the segments are plain MessagePack
behind a header, so any reader can open them.
"""

from realnet.roles.journal.frames import JournalDamaged
from realnet.roles.journal.journal import Journal, JournalBroken, JournalFull, Record

__all__ = ["Journal", "JournalBroken", "JournalDamaged", "JournalFull", "Record"]
