"""realnet under SLURM: one allocation, one agent on each node, the head in the batch script.

`submit`, `join`, `cancel` and `resume` run on the login node (see bin/); `job` is the batch script,
`task` what srun starts on every node, `element` one element of an array of elastic hosts. What they
agree on lies in the run's folder: slurm.json (what was asked for) and jobs.jsonl (what was
submitted). Nothing here knows roles.
"""
