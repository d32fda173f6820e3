"""The command line: run, inspect, eval, compare, score, benchmarks, speed and what else there is.

Commands live in `lvlm_prune.commands`, which import what they need when they run, so `--help`
answers at once. Mistakes of the user end in one sentence on stderr and exit code 1, never in a
traceback.
"""

import sys

import typer

from lvlm_prune.commands.benchmarks import benchmarks
from lvlm_prune.commands.build_pope import build_pope
from lvlm_prune.commands.calibrate import calibrate
from lvlm_prune.commands.compare import compare
from lvlm_prune.commands.demo import demo
from lvlm_prune.commands.eval import evaluate
from lvlm_prune.commands.inspect import inspect
from lvlm_prune.commands.listings import methods, models
from lvlm_prune.commands.run import run
from lvlm_prune.commands.score import score
from lvlm_prune.commands.speed import speed

app = typer.Typer(
    name="lvlm-prune",
    help="Prune the visual tokens of a vision-language model, and measure what it costs and saves.",
    epilog="Begin with: lvlm-prune eval --limit 40",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: aligned examples, and no time spent on importing a renderer.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(run)
app.command()(inspect)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(compare)
app.command()(score)
app.command()(benchmarks)
app.command("build-pope")(build_pope)
app.command()(speed)
app.command()(calibrate)
app.command()(methods)
app.command()(models)


def main() -> None:
    """Entry point: turn mistakes of the user into one sentence."""
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if type(error) is RuntimeError:
            raise
        typer.echo(f"lvlm-prune: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
