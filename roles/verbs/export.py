"""`realnet export RUN[@step]`: a checkpoint as a folder that others load as a Hugging Face model.

Knows runs, checkpoints and models; reads them only. Called by the command line.
"""

from __future__ import annotations

from pathlib import Path

import click

from realnet.cli_runs import RUNS
from realnet.config import read_table
from realnet.errors import ConfigError
from realnet.roles.checkpoints.meta import check_tokens
from realnet.roles.checkpoints.origin import ONLY, Origin, locate
from realnet.roles.tables import Policy


@click.command()
@click.argument("run", metavar="RUN[@STEP]")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="The folder to write. Default: exports/RUN-STEP.",
)
@click.option("--policy", default=ONLY, help="Which policy, of a run that trains several.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
def export(run: str, to: Path | None, policy: str, runs: Path) -> None:
    """Write a checkpoint as a Hugging Face folder: the newest of RUN, of a step, or RUN@best.

    transformers' AutoModelForCausalLM and AutoTokenizer load it, and so do engines that read such
    folders. Adapters are merged into it; as they are, for peft, they lie in its folder adapter/.
    """
    origin = locate(run, runs, policy)
    name = f"{origin.run.name}-{origin.found.step}"
    folder = to or Path("exports") / (name if policy == ONLY else f"{name}-{policy}")
    write_export(origin, folder)
    click.echo(f"{folder}: {origin}")


def write_export(origin: Origin, folder: Path) -> None:
    """Write a checkpoint's model and tokenizer into a folder that is not there yet.

    Raises ConfigError when the folder holds something, CheckpointError when the weights do not
    fit the policy that the run's plan describes.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already: name another folder with --to")
    import transformers

    from realnet.roles.models.build import build_model, export_hf, load_named_weights
    from realnet.roles.models.reference import described, load_tokenizer
    from realnet.roles.trainer.learner_lora import write_adapters
    from realnet.roles.trainer.learner_saved import Saved

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base = Path(origin.plan.base)
    table = origin.plan.shared["policy"][origin.policy]
    policy = read_table(Policy, table, f"{origin.run}/plan.json: [policy]")
    tokenizer = load_tokenizer(policy, base)
    policy = described(policy, base)  # its weights are the checkpoint's, whatever it began as
    check_tokens(origin.meta, tokenizer.digest(), origin.found.folder)
    model = build_model(policy, tokenizer, base, policy.seed)
    saved = Saved(origin.found.folder / "learner")
    load_named_weights(model, saved.whole(policy, tokenizer, base))

    def more(fresh: Path) -> None:
        if saved.lora.rank:
            write_adapters(saved.raw, saved.lora, policy.model, fresh / "adapter")

    export_hf(model, tokenizer, folder, more)
