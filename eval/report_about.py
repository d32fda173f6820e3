"""What was run: model, versions, prompt, generation, data, command; and what was left out.

In: the values of `results.json`. Out: parts of a report.
"""

from collections.abc import Mapping
from typing import Any

from lvlm_prune.eval.report_document import Bullets, Code, Facts, Heading, Part
from lvlm_prune.eval.report_numbers import counted

# Settings of a model's generation config that do not decide what a stock `generate` answers.
UNTOLD = frozenset(
    {
        *("_from_model_config", "transformers_version", "use_cache", "cache_implementation"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "do_sample", "max_length", "max_new_tokens"),
    }
)
SAMPLING = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "top_h"),
        *("epsilon_cutoff", "eta_cutoff"),
    }
)
# The value with which a setting does nothing; of others it is null.
USUAL = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "length_penalty"), 1.0),
    **dict.fromkeys(("temperature", "top_p", "typical_p"), 1.0),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("diversity_penalty", "epsilon_cutoff", "eta_cutoff"), 0.0),
    **dict.fromkeys(("early_stopping", "remove_invalid_values", "renormalize_logits"), False),
    **{"top_k": 50, "is_assistant": False, "disable_compile": False, "token_healing": False},
}


def about_parts(results: Mapping[str, Any], title: str = "What was run") -> list[Part]:
    """The facts that a reader needs to run it again.

    Args:
        results: values of `results.json`.
        title: heading of the part.
    """
    rows = [("Model", _model(results)), ("Versions", _versions(results))]
    rows.append(("Prompt", f"`{_visible(results.get('prompt'))}`"))
    rows.append(("Generation", generation_words(results.get("generation") or {})))
    rows.append(("Device", str(results.get("device"))))
    if results.get("timing"):
        rows.append(("Timing", str(results["timing"])))
    rows.append(("Seed", str(results.get("seed"))))
    for name, about in results["benchmarks"].items():
        rows.append((f"Data: {name}", _data(about)))
    parts: list[Part] = [Heading(2, title), Facts(tuple(rows))]
    if results.get("command"):
        parts.append(Code(str(results["command"])))
    return parts


def _model(results: Mapping[str, Any]) -> str:
    """The model, and whether it was changed."""
    planted = "; ViT sinks planted for a demonstration" if results.get("planted_sinks") else ""
    return f"{results['model']} (fingerprint `{results.get('fingerprint')}`){planted}"


def _versions(results: Mapping[str, Any]) -> str:
    """The packages that decide about answers."""
    names = {"lvlm_prune": "lvlm-prune", "torch": "torch", "transformers": "transformers"}
    return ", ".join(f"{shown} {results.get(name)}" for name, shown in names.items())


def generation_words(values: Mapping[str, Any]) -> str:
    """How answers were generated: what every run says, and what is not the usual value.

    Args:
        values: `generation` of `results.json`.
    """
    stored = values.get("generation_config")
    config = stored if isinstance(stored, dict) else {}
    sampled = bool(values.get("do_sample", config.get("do_sample")))
    told = {name: each for name, each in values.items() if name != "generation_config"}
    ignored = UNTOLD if sampled else UNTOLD | SAMPLING
    told |= {
        name: each
        for name, each in config.items()
        if name not in told and name not in ignored and each != USUAL.get(name)
    }
    parts = (f"`{name}={_visible(_setting(each))}`" for name, each in told.items())
    return ", ".join(parts) or "as the model has it"


def _setting(value: Any) -> str:
    """A value on one line; of one for each benchmark a single one where all are the same."""
    if not isinstance(value, dict) or not value:
        return str(value)
    if len({str(each) for each in value.values()}) == 1:
        return str(next(iter(value.values())))
    return " ".join(f"{name}:{each}" for name, each in value.items())


def _data(about: Mapping[str, Any]) -> str:
    """What was asked, and from which files."""
    counts = [
        counted(int(about[name]), noun)
        for name, noun in (("lines", "line"), ("prompts", "distinct prompt"), ("images", "image"))
        if about.get(name) is not None
    ]
    broken = about.get("unreadable_images") or []
    if broken:
        images = counted(len(broken), "image")
        counts.append(f"{images} that cannot be read ({', '.join(map(str, broken[:5]))})")
    version = ", ".join(f"{name} `{value}`" for name, value in about["version"].items())
    source = str(about.get("source", "")).rstrip(".")
    return f"{', '.join(counts)}. {source}. Version: {version or 'none'}."


def _visible(text: Any) -> str:
    """A template on one line, its line breaks written out."""
    return str(text).replace("\n", "\\n").replace("`", "'")


def left_out_parts(results: Mapping[str, Any]) -> list[Part]:
    """What was asked for and not run."""
    found = results.get("left_out") or {}
    if not found:
        return []
    texts = tuple(
        f"`{name}`: {', '.join(map(str, why)) if isinstance(why, list) else why}"
        for name, why in found.items()
    )
    return [Heading(2, "Left out"), Bullets(texts)]
