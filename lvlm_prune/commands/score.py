"""`lvlm-prune score`: score answers that are already there."""

import json
from pathlib import Path
from typing import Annotated

import typer


def score(
    benchmark: Annotated[
        str,
        typer.Option(
            help="pope, mme, chair, amber, hallusionbench, mmvp, do-you-see-me or probe; what each "
            "needs: lvlm-prune benchmarks."
        ),
    ],
    answers: Annotated[
        Path,
        typer.Option(help="File of answers; for MME the folder of <task>.txt; or a run's folder."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="The benchmark's questions and labels, a file or a folder. MME's <task>.txt hold "
            "their labels, and the probe is bundled."
        ),
    ] = None,
    parser: Annotated[
        str,
        typer.Option(
            help="How answers are read: official, lmms-eval, vlmevalkit, vcd (POPE), first-word, "
            "or all, side by side."
        ),
    ] = "official",
    subset: Annotated[
        str | None, typer.Option(help="A part of the benchmark, such as hallucination (MME).")
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Score what is there, and say n/N: missing and failed answers."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Score a file of answers by the official rule, and by other harnesses' rules beside it.

    Formats are told apart by what a file holds: POPE ({"question", "answer"}), LLaVA
    ({"question_id", "text"}), lmms-eval samples, VLMEvalKit tables (.xlsx, .tsv, .csv), MME's
    folder of text files, AMBER ({"id", "response"}), HallusionBench (records or a list of texts),
    captions ({"image_id", "caption"}), answers by id, and runs of `lvlm-prune eval`.

    Answers are joined by id. POPE's own files have no ids: each line's question must be that of the
    labels. Missing and repeated answers and failed calls are refused, or counted as n/N with
    --allow-partial. What an official script crashes on has a name: {"error": {"name", "message"}}
    with --json, and exit code 1.

    \b
    Examples:
      lvlm-prune score --benchmark pope --labels coco_pope_random.json --answers answers.jsonl
      lvlm-prune score --benchmark pope --labels output/coco --answers POPE.xlsx --parser all
      lvlm-prune score --benchmark mme --answers eval_tool/my_model --subset hallucination
      lvlm-prune score --benchmark chair --labels objects.json --answers captions.jsonl --json
      lvlm-prune score --benchmark amber --labels AMBER/data --answers amber.json --allow-partial
    """
    from lvlm_prune.eval.score import Request, score
    from lvlm_prune.eval.score_error import ScoreError
    from lvlm_prune.eval.score_table import score_text

    request = Request(benchmark, answers, labels, parser, subset, allow_partial)
    try:
        result = score(request)
    except ScoreError as error:
        if as_json:
            typer.echo(json.dumps({"error": {"name": error.name, "message": str(error)}}))
        typer.echo(f"lvlm-prune: {error} ({error.name})", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(result) if as_json else score_text(result))
