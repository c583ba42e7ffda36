"""A new job that goes on with a run, where jobs are not requeued.

Knows nothing of how a run ended. Called by the job itself (`job.py`), and by what is left of one
that has lost its head (`task.py`).
"""

from __future__ import annotations

from pathlib import Path

from realnet.slurm import commands
from realnet.slurm.records import Job, note_job


def submit_successor(folder: Path, job: str) -> int:
    """Submit the run again, to begin when `job` has ended; return the number of the new one.

    Raises RealnetError.
    """
    script = (folder / "job.sh").read_text(encoding="utf-8")
    note_job(folder, Job("run"))
    words = ["sbatch", "--parsable", f"--dependency=afterany:{job}"]
    number = int(commands.call(words, text=script, shielded=True).partition(";")[0])
    note_job(folder, Job("run", number))
    return number
