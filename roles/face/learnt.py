"""Pictures of what was learnt: held-out problems solved, by sampled and by greedy answers.

The two are apart, since they improve for different reasons: an answer that hardly varies any more
makes pass@1 better and greedy not. Called by the report.

Knows what evaluations are called. Knows nothing of files or of HTML around a picture.
"""

from __future__ import annotations

from realnet.roles.face import words
from realnet.roles.face.canvas import standalone
from realnet.roles.face.charts import Series, line_chart
from realnet.roles.face.figures import NARROW, WIDE, Picture
from realnet.roles.face.rows import Rows
from realnet.roles.face.story import Story


def solved_curve(rows: Rows, what: str, width: int, height: int) -> str:
    """Return what share of each task was solved over steps; `what` is "pass@1" or "greedy"."""
    series = []
    for i, task in enumerate(rows.tasks()):
        points = [(float(m.step), m.share) for m in rows.measured(task, what)]
        series.append(Series(task, points, i % 6 + 1, dots=True))
    return line_chart(
        series,
        width=width,
        height=height,
        y_range=(0.0, 1.0),
        show=lambda v: f"{v or 0.0:.2f}",
        label=f"{what} on held-out problems over training steps",
    )


def curve_file(story: Story, width: int = 720, height: int = 300) -> str:
    """Return a standalone SVG of the pass@1 curve."""
    rows = story.rows
    lines = [words.task_line(rows, task, story.shared) for task in rows.tasks()]
    chart = solved_curve(rows, "pass@1", width, height)
    if len(lines) > 1:
        legend = [(line, i % 6 + 1) for i, line in enumerate(lines)]
        return standalone(chart, f"{story.title}: held-out problems", width, height, legend)
    title = lines[0] if lines else f"{story.title}: nothing measured yet"
    return standalone(chart, title, width, height)


def learnt(story: Story) -> list[tuple[str, Picture]]:
    """Return (title, picture) of what held-out problems say, for the top of the page."""
    rows = story.rows
    tasks = rows.tasks()
    legend = [(_named(story, task), i % 6 + 1) for i, task in enumerate(tasks)]
    kinds = [("pass@1", "Sampled answers (pass@1)", "share of held-out problems solved, by step")]
    if any(rows.measured(task, "greedy") for task in tasks):
        text = "the same with the likeliest token each time: what does not come of less chance"
        kinds.append(("greedy", "Greedy answers", text))
    wide, tall = (WIDE, 300) if len(kinds) == 1 else (WIDE // 2, 240)
    return [
        (
            title,
            Picture(
                solved_curve(rows, what, wide, tall),
                solved_curve(rows, what, NARROW, 210),
                legend,
                about,
            ),
        )
        for what, title, about in kinds
        if tasks
    ]


def _named(story: Story, task: str) -> str:
    """Return a task's name, and how it is asked when that is not how its kind is trained."""
    asked = words.asked_as(task, story.shared)
    return f'{task}, asked as "{asked}"' if asked else task
