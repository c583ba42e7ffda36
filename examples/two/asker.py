"""The judge's prompter: of each answer of the solver it asks whether it is right."""

from realnet.roles.messages import Scored
from realnet.roles.prompter.derived import DerivedPrompter, Question


class Asker(DerivedPrompter):
    """Asks about every answer that has a reward; while the judge is busy the newest waits."""

    def derive(self, scored: Scored) -> Question | None:
        """Return "003847+000925=4772?", whose answer is y or n."""
        if scored.reward is None:
            return None
        said = f"{scored.rollout.prompt}{scored.rollout.text}?"
        return Question(said, "y" if scored.reward > 0.5 else "n")
