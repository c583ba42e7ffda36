"""What a topology names of the Hugging Face hub: pinned in a lock file, found in the cache.

`realnet fetch` brings things and writes `realnet.lock` beside the topology; everything else only
looks into the cache, without network. Knows references and the cache's layout. Knows nothing of
models, tasks or rows. Used by the libraries `models` and `tasks`, and by the verb `fetch`.
"""

from realnet.roles.hub.lock import LOCK, Pin, Pins, read_lock, write_lock
from realnet.roles.hub.place import locate_dataset, locate_model

__all__ = ["LOCK", "Pin", "Pins", "locate_dataset", "locate_model", "read_lock", "write_lock"]
