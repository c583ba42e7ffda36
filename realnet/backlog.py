"""What waits at the sending end of a share wire, and for whom: queues, and which item is next.

Most items are for anybody. Related ones are for the member that their like went to; what was taken
back is for anybody but those who had it. Knows nothing of credit and leases. Called by
`delivery.py`, which keeps the items and the members.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from realnet.affinity import End, Homes
from realnet.held import Held, Member, Queue


class Backlog:
    """The items of one producer that nobody has."""

    def __init__(self, items: Mapping[int, Held], members: Mapping[End, Member]):
        self._items = items
        self._members = members
        self._homes = Homes()
        self._homeless = Queue()  # related work while nobody is up
        self.free = Queue()  # for anybody
        self.returned = Queue()  # taken back: for anybody but those who had it
        self.stalled: set[End] = set()  # a lease ran out; they have finished nothing since

    def house(self) -> None:
        """Somebody joined: what had no member to go to has one."""
        homeless, self._homeless = self._homeless, Queue()
        self.add_again(homeless)

    def add(self, item: int, held: Held) -> None:
        """An item waits: for anybody, or if it is related to others for the member they went to."""
        if not held.affinity:
            self.put(item, held, self.free)
        elif not self._members:
            self.put(item, held, self._homeless)
        else:
            able = self._members
            if self.stalled:
                able = {n: m for n, m in able.items() if n not in self.stalled} or able
            self.put(item, held, self._members[self._homes.of(held.affinity, able)].bound)

    def put(self, item: int, held: Held, queue: Queue) -> None:
        """An item waits in this queue."""
        held.queue = queue
        heapq.heappush(queue.heap, item)
        queue.count += 1
        queue.num_bytes += held.size

    def add_again(self, old: Queue) -> None:
        """What waits in a queue that is no more waits elsewhere."""
        for item in sorted(old.heap):
            held = self._items.get(item)
            if held is not None and held.queue is old:
                self.add(item, held)

    def take(self, held: Held) -> None:
        """An item waits no longer."""
        queue, held.queue = held.queue, None
        if queue is not None:  # its entry in the heap is skipped later
            queue.count -= 1
            queue.num_bytes -= held.size

    def _first(self, queue: Queue) -> int | None:
        if not queue.count:
            queue.heap.clear()
            return None
        heap, items = queue.heap, self._items
        while (held := items.get(heap[0])) is None or held.queue is not queue:
            heapq.heappop(heap)
        return heap[0]

    def next_for(self, member: Member) -> int | None:
        """Return the item that this member would get, the oldest that it may have."""
        first = self._first(self.free)
        if member.bound.count:
            bound = self._first(member.bound)
            first = bound if first is None or (bound is not None and bound < first) else first
        if self.returned.count:
            first = min(self._returned_for(member), default=first)
        return first

    def _returned_for(self, member: Member) -> list[int]:
        """Return what was taken back from others; if everybody had it, from anybody."""
        found = []
        for item in self.returned.heap:
            held = self._items.get(item)
            if held is not None and held.queue is self.returned:
                had = member.name in held.former
                if not had or all(name in held.former for name in self._members):
                    found.append(item)
        return found

    def waiting_for(self, member: Member) -> tuple[int, int]:
        """Return how many items this member may have, and their bytes together."""
        count = self.free.count + member.bound.count
        num_bytes = self.free.num_bytes + member.bound.num_bytes
        if self.returned.count:
            items = self._returned_for(member)
            count += len(items)
            num_bytes += sum(self._items[item].size for item in items)
        return count, num_bytes

    def unqueue(self, item: int, held: Held) -> None:
        """An item, which `next_for` returned, is handed out."""
        queue = held.queue
        if queue is None:
            return
        if queue.heap[0] == item:
            heapq.heappop(queue.heap)
        else:  # of those taken back, which are few
            queue.heap.remove(item)
            heapq.heapify(queue.heap)
        self.take(held)
