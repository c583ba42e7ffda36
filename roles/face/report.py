"""The report: one self-contained page that a run leaves behind.

`report.html` opens from a file, at any width, light or dark, and loads nothing. It is made of what
lies in the run's folder, also of a run that goes on or broke off. Everything that came from outside
(prompts, answers, events) is escaped by the template.

Called by `realnet run` and `realnet report`; `python -m realnet.roles.face.report FOLDER --curve
FILE.svg` writes the pass@1 curve alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import click

from realnet.roles.face import figures, words
from realnet.roles.face.canvas import CHART_CSS, DARK, LIGHT
from realnet.roles.face.learnt import curve_file, learnt
from realnet.roles.face.rows import Row, number
from realnet.roles.face.story import Story, shareable
from realnet.roles.face.warnings import warnings
from realnet.roles.samples import decoding_of

_EVENTS = 200
_BAD = ("died", "failed", "killed", "silent", "set aside", "not taken", "is gone", "cannot")


class Tile(NamedTuple):
    """One headline number."""

    label: str
    value: str
    about: str = ""


def write_report(folder: Path) -> Path:
    """Write report.html into a run's folder and return its path."""
    path = folder / "report.html"
    partial = folder / ".report.html.partial"
    partial.write_text(page(Story(folder)), encoding="utf-8")
    os.replace(partial, path)
    return path


def page(story: Story) -> str:
    """Return the text of the page."""
    import jinja2  # of the train extra: importing this module must work without it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(**_content(story))


def _content(story: Story) -> dict[str, Any]:
    rows = story.rows
    notes = story.notes()
    return {
        "title": story.title,
        "run": story.folder.resolve().name,
        "light": LIGHT,
        "dark": DARK,
        "chart_css": CHART_CSS,
        "outcome": story.outcome(),
        "ending": story.ending(),
        "tiles": [Tile(*(_together(text) for text in tile)) for tile in tiles(story)],
        "tasks": [words.task_line(rows, task, story.shared) for task in rows.tasks()],
        "origin": story.origin(),
        "learnt": learnt(story) if rows.evals else [],
        "signs": figures.signs(rows),
        "others": [
            words.other_line(p, r, r.closed or r.tickets()) for p, r in story.others.items()
        ],
        "warnings": warnings(rows, words.policy_of(story.shared)),
        "pairs": [_shown_pair(pair) for pair in story.pairs(3 if len(rows.tasks()) > 1 else 4)],
        "several_tasks": len(rows.tasks()) > 1,
        "overlap": story.overlap(),
        "timeline": figures.timeline(story),
        "zoom": figures.zoom(story),
        "work": figures.work(story),
        "balance": words.balance(story.tickets()),
        "states": _states(story),
        "reasons": _reasons(story),
        "events": [_shown_event(e) for e in notes[-_EVENTS:]],
        "events_left_out": max(0, len(notes) - _EVENTS),
        "several": len(rows.ended_s) > 1,
        "roles": _roles(story),
        "wires": [(w.kind, str(w), w.why) for w in story.plan.wires] if story.plan else [],
        "policy": ", ".join(_flat(words.policy_of(story.shared))),
        "topology": shareable(story.topology),
    }


def tiles(story: Story) -> list[Tile]:
    """Return the headline numbers."""
    rows, found = story.rows, []
    for task in rows.tasks()[:3]:
        measured = rows.measured(task)
        first, last = measured[0].share, measured[-1].share
        value = f"{first:.2f} → {last:.2f}" if len(measured) > 1 else f"{last:.2f}"
        about = words.how_measured(rows, task, story.shared)
        if greedy := words.greedy_words(rows, task, "→"):
            about = f"greedy {greedy}; {about}" if about else f"greedy {greedy}"
        found.append(Tile(f"{task} pass@1", value, about))
    planned = words.planned_steps(story.shared)
    found.append(Tile("steps", str(rows.step), f"of {planned} planned" if planned else ""))
    attempts = len(rows.ended_s)
    found.append(
        Tile("wall time", words.duration(rows.wall_s), f"{attempts} attempts" * (attempts > 1))
    )
    overlap = story.overlap()
    if overlap is not None:
        about = (
            f"generator busy {words.percent(overlap.generator_s / overlap.window_s)}, "
            f"trainer {words.percent(overlap.trainer_s / overlap.window_s)}"
        )
        found.append(Tile("overlap", words.percent(overlap.share), about))
    tokens = sum(value for _, value in rows.curve("tokens"))
    if tokens:
        found.append(Tile("tokens in batches", words.short(tokens), "written by the policy"))
    return found


def _together(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=[\w=]) (?=[%=\d]|min\b|s\b|h\b|[kM]\b)", "\u00a0", text)


def _states(story: Story) -> list[tuple[str, int]]:
    return [(state.replace("_", " "), count) for state, count in story.tickets().items()]


def _reasons(story: Story) -> list[tuple[str, str, int]]:
    """Return (state, reason, count) of tickets that were not trained on."""
    reasons = story.book.get("reasons")
    found = []
    for state, known in reasons.items() if isinstance(reasons, dict) else ():
        for reason in known if isinstance(known, dict) else ():
            count = number(known, reason)
            if count is not None:
                found.append((str(state).replace("_", " "), str(reason), int(count)))
    return sorted(found, key=lambda item: -item[2])[:20]


def _shown_pair(pair: Any) -> dict[str, Any]:
    answers = [pair.first] if pair.first is pair.last else [pair.first, pair.last]
    answers += pair.greedy
    return {
        "task": pair.task,
        "prompt": pair.prompt,
        "answer": pair.answer,
        "answers": [_shown_answer(row) for row in answers],
    }


def _shown_answer(row: Row) -> dict[str, Any]:
    reward = number(row, "reward")
    return {
        "step": int(row["step"]),
        "decoding": decoding_of(row),
        "text": str(row.get("text", "")),
        "reward": "no score" if reward is None else f"reward {words.short(reward)}",
        "good": reward is not None and reward >= 1.0,
        "stop": "cut at max_tokens" if row.get("stop") == "length" else "",
    }


def _shown_event(event: Row) -> dict[str, Any]:
    text = str(event.get("text", ""))
    return {
        "time": f"{number(event, 'time_s') or 0.0:.1f}",
        "attempt": int(number(event, "attempt") or 1),
        "actor": str(event.get("actor", "")),
        "text": text,
        "bad": "issued" not in event and any(word in text for word in _BAD),
    }


def _roles(story: Story) -> list[dict[str, Any]]:
    """Return what was running, one entry a role."""
    return [
        {
            "name": role.name,
            "count": role.count,
            "place": f"in the processes of {role.place}" if role.place else "",
            "config": ", ".join(_flat(role.config)),
        }
        for role in (story.plan.roles.values() if story.plan else ())
    ]


def _flat(table: dict[str, Any], prefix: str = "") -> list[str]:
    """Return "engine.kind = torch" for each value that says something."""
    found: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], ()):
            found.append(f"{prefix}{key} = {value}")
    return found


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--curve", type=click.Path(path_type=Path), help="Write only the pass@1 curve (SVG).")
def main(folder: Path, curve: Path | None) -> None:
    """Write the report of a run again, or its curve alone."""
    if curve is None:
        click.echo(write_report(folder))
        return
    curve.write_text(curve_file(Story(folder)), encoding="utf-8")
    click.echo(curve)


if __name__ == "__main__":
    main()
