"""Time passes of an LLM: the prefill, its attention modules, and decode steps.

In: a prompt whose image is encoded, and ways to make its model ready. Out: one row for each run, in
milliseconds on each clock there is:

- `prefill`: the whole pass of the prompt, from token ids to the logits of its last token.
- `attention`: the part of it inside attention modules, projections included.
- `decode`: a pass of one token behind the prompt's cache, the mean over all of them.

Runs come in groups that stand next to each other, so that both sides of a ratio see the same
machine. Marks are hooks that every variant carries alike.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from tqdm import tqdm

from lvlm_prune.eval.speed_clock import Stopwatch
from lvlm_prune.eval.speed_llm import LlmWork
from lvlm_prune.eval.speed_table import Spread, spread

PASSES = ("prefill", "attention", "decode")

# Makes a model ready for a variant, and undoes it.
Variant = Callable[[], AbstractContextManager[Any]]
Row = dict[str, Any]


def time_passes(work: LlmWork) -> dict[str, dict[str, float]]:
    """Run the prompt and the decode steps once.

    Args:
        work: model and prompt.

    Returns:
        For each clock (`wall`; on the CPU also `cpu`), the PASSES in milliseconds.
    """
    watch, device = Stopwatch(work.ids.device), work.ids.device
    _wait(device)
    with _marked(work.model, watch), torch.inference_mode():
        watch.mark("start")
        output = work.prefill()
        watch.mark("prefilled")
        work.decode(output.past_key_values)
        watch.mark("end")
    _wait(device)
    prefill, decode = watch.between("start", "prefilled"), watch.between("prefilled", "end")
    depth = work.case.llm.depth
    parts = [watch.between(f"layer {n} starts", f"layer {n} ends") for n in range(depth)]
    return {
        clock: {
            "prefill": prefill[clock],
            "attention": sum(part[clock] for part in parts),
            "decode": decode[clock] / work.steps.shape[1],
        }
        for clock in prefill
    }


@contextmanager
def _marked(model: Any, watch: Stopwatch) -> Iterator[None]:
    """Mark the borders of every attention module; the first pass counts."""
    hooks = []
    for number, layer in enumerate(model.get_decoder().layers):
        attention = layer.self_attn
        hooks.append(attention.register_forward_pre_hook(_marker(watch, f"layer {number} starts")))
        hooks.append(attention.register_forward_hook(_marker(watch, f"layer {number} ends")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _marker(watch: Stopwatch, name: str) -> Any:
    """A hook that marks an instant and changes nothing."""
    return lambda *_: watch.mark(name)


def _wait(device: torch.device) -> None:
    """Let the GPU finish what it has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shuffled_blocks(blocks: Sequence[Sequence[str]], draw: random.Random) -> list[tuple[int, str]]:
    """The order of one round: the blocks are shuffled, and the variants inside each.

    Args:
        blocks: variants that must run next to each other.
        draw: source of the order.

    Returns:
        (block, variant) pairs.
    """
    shuffled = [list(block) for block in blocks]
    draw.shuffle(shuffled)
    for block in shuffled:
        draw.shuffle(block)
    return [(number, name) for number, block in enumerate(shuffled) for name in block]


def run_passes(
    work: LlmWork,
    variants: Mapping[str, Variant],
    blocks: Sequence[Sequence[str]],
    repeats: int,
    seed: int = 0,
) -> list[Row]:
    """Time the interleaved rounds; whoever calls has warmed up.

    Args:
        work: model and prompt.
        variants: by name.
        blocks: the names of those that run next to each other, each block once a round.
        repeats: rounds.
        seed: of the order.

    Returns:
        One row a run: round, place, block, variant and the times on each clock.
    """
    draw, rows = random.Random(seed), []
    calls = repeats * sum(len(block) for block in blocks)
    with tqdm(total=calls, unit="run", disable=None) as bar:
        for number in range(repeats):
            for place, (block, name) in enumerate(shuffled_blocks(blocks, draw)):
                bar.set_postfix_str(f"{work.case.name}: {name}, round {number + 1}/{repeats}")
                with variants[name]():
                    times = time_passes(work)
                rows.append(
                    {"round": number, "place": place, "block": block, "variant": name, **times}
                )
                bar.update()
    return rows


def paired_ratio(rows: Sequence[Row], name: str, other: str, measure: str, clock: str) -> Spread:
    """A variant's time over that of another one in the same block, round by round.

    Args:
        rows: of `run_passes`.
        name: numerator; every run of it that has the other one in its block counts.
        other: denominator.
        measure: one of the PASSES.
        clock: `wall` or `cpu`.
    """
    below = {(row["round"], row["block"]): row for row in rows if row["variant"] == other}
    ratios = []
    for row in rows:
        partner = below.get((row["round"], row["block"]))
        if row["variant"] == name and partner is not None:
            ratios.append(row[clock][measure] / partner[clock][measure])
    return spread(ratios)


def median_times(rows: Sequence[Row], name: str, clock: str) -> dict[str, Spread]:
    """A variant's own times over all of its runs."""
    mine = [row[clock] for row in rows if row["variant"] == name]
    return {measure: spread([times[measure] for times in mine]) for measure in PASSES}
