"""A `results.json` of several runs on the made-up benchmark, as `eval` writes it."""

import json

from made_up_runs import benchmark, rows_of

from lvlm_prune.config import PruneConfig
from lvlm_prune.eval.paired import paired
from lvlm_prune.eval.scored import scored

# Share of wrong answers and ms of the prefill, for each method and budget.
RUNS = {
    ("visionzip", 49): (0.10, 40), ("visionzip", 12): (0.22, 28),
    ("cls", 49): (0.12, 36), ("cls", 12): (0.24, 24),
    ("random", 49): (0.30, 35), ("random", 12): (0.42, 23),
}  # fmt: skip


def results_of(bench, runs=None, failed=(), base_wrong=0.08):
    """The values of a result file."""
    base = rows_of(bench, base_wrong, seed=0)
    found = [_run("unpruned", "identity", 196, base, bench, None, 90)]
    for number, ((method, kept), (wrong, ms)) in enumerate((runs or RUNS).items(), 1):
        bad = failed if number == 1 else ()
        rows = rows_of(bench, wrong, seed=number, odd=(7,), failed=bad)
        found.append(_run(method, method, kept, rows, bench, base, ms))
    prompts = len({(item.image, item.question) for item in bench.items})
    headlines = {
        key: {
            "metric": scoring.headline,
            "scale": scoring.scale,
            "lower_is_better": scoring.lower_is_better,
        }
        for key, scoring in bench.scorings.items()
    }
    return {
        "model": "llava-<made|up>",
        "fingerprint": "00ff00ff00ff00ff",
        "planted_sinks": False,
        "lvlm_prune": "0.3.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "seed": 0,
        "prompt": "{question}\nAnswer with one word.",
        "generation": {"do_sample": False, "max_new_tokens": 8},
        "device": "cpu",
        "timing": "cpu with 1 thread, batch of 8, 5 rounds",
        "command": "lvlm-prune eval --benchmark haunted --method visionzip,cls,random",
        "benchmarks": {
            bench.name: {
                "version": dict(bench.version),
                "lines": len(bench.items),
                "prompts": prompts,
                "images": len(bench.images),
                "source": bench.source,
                "headlines": headlines,
            }
        },
        "left_out": {"divprune": "needs features that this model does not give"},
        "runs": found,
    }


def _run(label, method, kept, rows, bench, base, ms):
    """One run."""
    against = None if base is None else {bench.name: paired(bench, rows, base).to_dict()}
    name = label if base is None else f"{label}-{kept}"
    times = {"encode": 30.0, "select": 1.0 if base else 0.0, "splice": 0.5, "prefill": float(ms)}
    return {
        "run": name,
        "label": label,
        "config": PruneConfig(method, kept).to_dict(),
        "method": method,
        "hash": "ab" * 8,
        "kept": float(kept),
        "total": 196.0,
        "seconds": 12.5,
        "errors": sum(row.error is not None for row in rows),
        "prefill": {"times": times, "llm_ratio": ms / 90, "total_ratio": (30 + ms) / 120},
        "baseline": base is None,
        "benchmarks": {bench.name: scored(bench, rows).to_dict()},
        "against_baseline": against,
    }


def write_results(folder, **changes):
    """A folder as `eval` leaves it, with some values changed."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {**results_of(benchmark(images=12), {("cls", 49): (0.1, 36)}), **changes}
    (folder / "results.json").write_text(json.dumps(values), encoding="utf-8")
    return folder
