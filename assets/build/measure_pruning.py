"""Measures POPE accuracy on the probe with fewer visual tokens, and with planted sinks.

In: a model folder with `metrics.json`. Out: the same file with the entries "pruning" and
"planted_sinks". Tokens are ranked by the CLS attention of the feature layer or of the last
layer, or drawn at random; kept tokens have their original or compacted positions. Answers are
the first token after the prompt; questions about one image are packed, which equals asking them
alone. It is a check of the model, not a pruning method.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from families import family
from packing import Packed, attention_mask, layout, pack
from PIL import Image
from probe_files import PROBE, SPLITS, pope, scenes
from questions import Question
from tokenizer import build_tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoProcessor, LlavaForConditionalGeneration

KEEP = (49, 24, 12)
NORM_RATIO = 3.0


class Probe:
    """The probe with every distinct POPE question packed per image."""

    def __init__(self, model: Path) -> None:
        """Reads images, questions and truth."""
        processor = AutoProcessor.from_pretrained(model)
        self.names = sorted(scenes())
        images = [Image.open(PROBE / "images" / name) for name in self.names]
        self.pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        labels = [scenes()[name]["patch_labels"] for name in self.names]
        self.labels = torch.tensor(labels).flatten(1)
        self.pope = {split: pope(split) for split in SPLITS}
        asked = {(q.image, q.text) for rows in self.pope.values() for q in rows}
        self.asked = [sorted(text for image, text in asked if image == n) for n in self.names]
        self.packed: Packed = pack([[Question("", t, "yes") for t in row] for row in self.asked])
        tokenizer = build_tokenizer()
        self.yes, self.no = tokenizer.convert_tokens_to_ids(["yes", "no"])

    def accuracy(self, said: dict[tuple[str, str], str]) -> dict[str, float]:
        """Accuracy per split and their mean."""
        out = {
            split: sum(said[q.image, q.text] == q.answer for q in rows) / len(rows)
            for split, rows in self.pope.items()
        }
        return out | {"mean": sum(out.values()) / len(SPLITS)}


@torch.no_grad()
def encode(model: LlavaForConditionalGeneration, pixels: Tensor) -> dict[str, Tensor]:
    """Features of the probe: raw and projected [I, 196, D], CLS attention rows [I, 196]."""
    model.set_attn_implementation("eager")
    parts: dict[str, list[Tensor]] = {"raw": [], "projected": [], "cls": [], "cls last": []}
    for batch in pixels.split(40):
        out = model.model.vision_tower(batch, output_hidden_states=True, output_attentions=True)
        raw = out.hidden_states[-2][:, 1:]
        parts["raw"].append(raw)
        parts["projected"].append(model.model.multi_modal_projector(raw))
        parts["cls"].append(out.attentions[-2].mean(1)[:, 0, 1:])
        parts["cls last"].append(out.attentions[-1].mean(1)[:, 0, 1:])
    model.set_attn_implementation("sdpa")
    return {name: torch.cat(found) for name, found in parts.items()}


@torch.no_grad()
def ask(
    model: LlavaForConditionalGeneration,
    probe: Probe,
    features: Tensor,
    kept: Tensor,
    compact: bool,
) -> dict[str, float]:
    """POPE accuracy with the visual tokens `kept`, int [I, K] ascending."""
    before = layout(family("llava")).before
    llm, said, n = model.model.language_model, {}, len(before)
    count = kept.shape[1]
    for rows in torch.arange(len(kept)).split(16):
        ids, branch = probe.packed.ids[rows], probe.packed.branch[rows]
        index = kept[rows, :, None].expand(-1, -1, features.shape[-1])
        head = llm.embed_tokens(torch.tensor(before)).expand(len(rows), -1, -1)
        embeds = torch.cat([head, features[rows].gather(1, index), llm.embed_tokens(ids)], 1)
        visual = torch.arange(count).expand(len(rows), -1) if compact else kept[rows]
        text = probe.packed.positions[rows, n + features.shape[1] :]
        text = text - (features.shape[1] - count if compact else 0)
        front = torch.arange(n).expand(len(rows), -1)
        out = llm(
            inputs_embeds=embeds,
            attention_mask=attention_mask(branch, n + count),
            position_ids=torch.cat([front, n + visual, text], 1),
        ).last_hidden_state[:, n + count :]
        for i, row in enumerate(rows.tolist()):
            hidden = out[i, probe.packed.first[row]]
            best = F.linear(hidden, llm.embed_tokens.weight).argmax(-1).tolist()
            for text_asked, token in zip(probe.asked[row], best, strict=True):
                answer = {probe.yes: "yes", probe.no: "no"}.get(token, "other")
                said[probe.names[row], text_asked] = answer
    return probe.accuracy(said)


def top(scores: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores per row, ascending."""
    return scores.topk(keep, 1).indices.sort(1).values


def pruning_table(
    model: LlavaForConditionalGeneration, probe: Probe, found: dict[str, Tensor]
) -> list[dict[str, Any]]:
    """Accuracy for every ranking, number of tokens and kind of positions."""
    features = found["projected"]
    everything = torch.arange(features.shape[1]).expand(len(features), -1)
    rows: list[dict[str, Any]] = [
        {"keep": 196, "ranking": "none", "positions": "original"}
        | ask(model, probe, features, everything, False)
    ]
    seed = torch.Generator().manual_seed(0)
    found = found | {"random": torch.rand(features.shape[:2], generator=seed)}
    for ranking in ("cls", "cls last", "random"):
        for keep in KEEP:
            kept = top(found[ranking], keep)
            for positions in ("original", "compact"):
                accuracy = ask(model, probe, features, kept, positions == "compact")
                rows.append({"keep": keep, "ranking": ranking, "positions": positions} | accuracy)
                print(rows[-1], flush=True)
    return rows


def sink_report(
    model: LlavaForConditionalGeneration, probe: Probe, keeps: tuple[int, ...] = (16, 8)
) -> dict[str, Any]:
    """What planting did: sinks per image, norms, place, accuracy, and CLS ranking with sinks."""
    found = encode(model, probe.pixels)
    norms = found["raw"].norm(dim=-1)
    sinks = norms > NORM_RATIO * norms.median(1, keepdim=True).values
    everything = torch.arange(sinks.shape[1]).expand(len(sinks), -1)
    report: dict[str, Any] = {"sinks_per_image": sinks.sum(1).float().mean().item()}
    report["images_without"] = int((sinks.sum(1) == 0).sum())
    if sinks.any():
        report["norm_ratio"] = (norms[sinks].mean() / norms[~sinks].median()).item()
        report["share_on_objects"] = (probe.labels[sinks] >= 0).float().mean().item()
    for name in ("cls", "cls last"):
        mass = (found[name] * sinks).sum(1) / found[name].sum(1)
        report[f"mass_on_sinks {name}"] = mass.mean().item()
    report["full"] = ask(model, probe, found["projected"], everything, False)["mean"]
    for keep in keeps:
        for name in ("cls", "cls last"):
            without = found[name].masked_fill(sinks, -1)
            for suffix, scores in (("", found[name]), (" without sinks", without)):
                kept = top(scores, keep)
                accuracy = ask(model, probe, found["projected"], kept, False)["mean"]
                report[f"{name}{suffix} @{keep}"] = accuracy
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = PROBE.parent / "models" / "llava-pictogram"
    parser.add_argument("--model", type=Path, default=default)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = LlavaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    probe = Probe(args.model)
    path = args.model / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["pruning"] = pruning_table(model, probe, encode(model, probe.pixels))
    metrics["natural_sinks"] = sink_report(model, probe)
    from lvlm_prune.assets.plant_sinks import plant_sinks

    metrics["planted_sinks"] = sink_report(plant_sinks(model), probe)
    print(json.dumps({k: metrics[k] for k in ("natural_sinks", "planted_sinks")}, indent=1))
    path.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
