"""An agent with a tool: it answers a sum, or asks a calculator first and answers then."""

import re

from realnet.roles.driver.driver import Driver
from realnet.roles.driver.episode import Episode


class Calculator(Driver):
    """Plays episodes of up to two turns: "(003847+000925)", told ":4772:", then "4772"."""

    async def play(self, episode: Episode) -> None:
        """Let the model speak; when it calls the calculator, tell it the result and go on."""
        said = await episode.write()
        call = re.fullmatch(r"\((\d+)\+(\d+)\)", said)
        if call:
            episode.tell(f":{int(call[1]) + int(call[2])}:")
            await episode.write()
