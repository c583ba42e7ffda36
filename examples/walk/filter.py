"""A filter of problems: what is too easy is set aside before anybody answers it."""

from realnet import Actor, Config, Delivery, Inlet, Outlet
from realnet.roles.messages import Ticket


class FilterConfig(Config):
    """`[roles.filter]`."""

    digits: int = 3


class Filter(Actor[FilterConfig]):
    """Lets problems through whose answer has enough digits."""

    asked = Inlet(Ticket)
    tickets = Outlet(Ticket)

    @asked.handler
    async def look(self, item: Delivery[Ticket]) -> None:
        """Hand a ticket on, or set it aside with a reason."""
        if len(item.body.answer) < self.config.digits:
            item.set_aside(f"fewer than {self.config.digits} digits")
        else:
            await self.tickets.send(item.body, caused_by=item, key=item.key)
