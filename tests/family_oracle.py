"""The oracle for any family: the unpruned model with the dropped tokens masked from layer 0 on.

Every real token keeps its own position. For recurrent layers, where masking is not removal, the
short sequence is built by hand and given to the language model itself.
"""

from inspect import signature

import torch
from tiny_families import IMAGE, SPECIAL, VIDEO
from torch import Tensor

MODALITIES = {"image": ("pixel_values", IMAGE), "video": ("pixel_values_videos", VIDEO)}


def placeholders(ids: Tensor, kept: list[Tensor], totals: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Which columns are dropped, `[B, L]`, and the kept places `[K, 2]` of each image.

    Images come first, then videos, as in a report.
    """
    drop = torch.zeros_like(ids, dtype=torch.bool)
    columns = torch.cat([(ids == token).nonzero() for token in (IMAGE, VIDEO)])
    places = []
    for place, rows in zip(columns.split(totals), kept, strict=True):
        drop[place[:, 0], place[:, 1]] = True
        drop[place[rows][:, 0], place[rows][:, 1]] = False
        places.append(place[rows])
    return drop, places


def full_positions(model, inputs: dict) -> Tensor:
    """Positions of the unpruned prompt, as the model's own generate prepares them."""
    return model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))


def encoder_outputs(model, inputs: dict) -> dict:
    """What the model's own generate encodes, by modality."""
    outputs = {}
    for name, (pixels, _) in MODALITIES.items():
        if pixels not in inputs:
            continue
        features_of = getattr(model.base_model, f"get_{name}_features")
        names = [key for key in signature(features_of).parameters if key in inputs]
        with torch.no_grad():
            outputs[name] = features_of(**{key: inputs[key] for key in names}, return_dict=True)
    return outputs


def without_pixels(inputs: dict) -> dict:
    """The text side of a call."""
    names = ("input_ids", "attention_mask", "position_ids", "mm_token_type_ids")
    return {name: inputs[name] for name in names if name in inputs}


def masked_call(
    model, inputs: dict, kept: list[Tensor], totals: list[int], given: dict | None = None
) -> dict:
    """A call of the stock model with dropped columns masked.

    Args:
        given: the pruned call, whose features (merged or not) take the kept places.
    """
    call = without_pixels(inputs)
    call["position_ids"] = full_positions(model, inputs)
    drop, _ = placeholders(inputs["input_ids"], kept, totals)
    call["attention_mask"] = inputs["attention_mask"].masked_fill(drop, 0)
    outputs, first = encoder_outputs(model, inputs), 0
    for name, output in outputs.items():
        token = MODALITIES[name][1]
        count = int((inputs["input_ids"] == token).sum())
        features = output.pooler_output
        tensor = isinstance(features, Tensor)
        flat = torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in features]).clone()
        assert len(flat) == count
        if given is not None:
            stays = ~drop[inputs["input_ids"] == token]
            pruned = given["mm_encoder_outputs"][name].pooler_output
            flat[stays] = torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in pruned])
        by_prompt = (inputs["input_ids"] == token).sum(1).tolist()
        rows = list(flat.split([n for n in by_prompt if n]))
        output.pooler_output = flat.view(features.shape) if tensor else rows
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [
                list(torch.cat(list(layer)).split([n for n in by_prompt if n]))
                for layer in output.deepstack_features
            ]
        first += count
    call["mm_encoder_outputs"] = outputs
    return call


@torch.no_grad()
def masked_greedy(model, call: dict, steps: int) -> tuple[Tensor, Tensor]:
    """Greedy tokens `[B, steps]` and logits `[B, steps, V]` by whole forward passes, no cache."""
    tokens, logits = [], []
    call = dict(call)
    for _ in range(steps):
        step = model(**call, use_cache=False).logits[:, -1]
        logits.append(step)
        step = step.clone()
        step[:, SPECIAL] = -torch.inf
        token = step.argmax(-1, keepdim=True)
        tokens.append(token)
        call["input_ids"] = torch.cat([call["input_ids"], token], 1)
        ones = torch.ones_like(token)
        call["attention_mask"] = torch.cat([call["attention_mask"], ones], 1)
        following = call["position_ids"][..., -1:] + 1
        call["position_ids"] = torch.cat([call["position_ids"], following], -1)
        if "mm_token_type_ids" in call:
            call["mm_token_type_ids"] = torch.cat([call["mm_token_type_ids"], ones * 0], 1)
    return torch.cat(tokens, 1), torch.stack(logits, 1)


@torch.no_grad()
def direct_greedy(
    model, inputs: dict, kept: list[Tensor], totals: list[int], steps: int
) -> tuple[Tensor, Tensor]:
    """The same from a short sequence built by hand, one prompt at a time, for models that recur."""
    drop, _ = placeholders(inputs["input_ids"], kept, totals)
    places = full_positions(model, inputs)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    outputs = encoder_outputs(model, inputs)
    for name, output in outputs.items():
        mask = inputs["input_ids"] == MODALITIES[name][1]
        embeds[mask] = torch.cat(list(output.pooler_output))
    tokens, logits = [], []
    for row in range(len(drop)):
        stays = (inputs["attention_mask"][row] != 0) & ~drop[row]
        short, at = embeds[row, stays][None], places[:, row : row + 1, stays]
        row_tokens, row_logits = [], []
        for _ in range(steps):
            hidden = model.base_model.language_model(
                inputs_embeds=short,
                position_ids=at,
                attention_mask=torch.ones_like(short[..., 0]).long(),
                use_cache=False,
            ).last_hidden_state
            step = model.lm_head(hidden[:, -1])
            row_logits.append(step)
            step = step.clone()
            step[:, SPECIAL] = -torch.inf
            token = step.argmax(-1, keepdim=True)
            row_tokens.append(token)
            short = torch.cat([short, model.get_input_embeddings()(token)], 1)
            at = torch.cat([at, at[..., -1:] + 1], -1)
        tokens.append(torch.cat(row_tokens, 1))
        logits.append(torch.stack(row_logits, 1))
    return torch.cat(tokens), torch.cat(logits)


@torch.no_grad()
def reference_generate(
    model,
    inputs: dict,
    kept: list[Tensor],
    totals: list[int],
    given: dict | None = None,
    **settings,
) -> Tensor:
    """New tokens of the stock model's own generate with dropped columns masked.

    Before 5.23 transformers mixes up features that are one tensor for beams, so they are put into
    embeddings; recurrent layers get the short sequence, which is padded as the prompts are.
    """
    call = masked_call(model, inputs, kept, totals, given)
    count = call["input_ids"].shape[1]
    recurs = "qwen3_5" in model.config.model_type
    outputs = call["mm_encoder_outputs"].values()
    if recurs or any(isinstance(output.pooler_output, Tensor) for output in outputs):
        embeds = model.get_input_embeddings()(call.pop("input_ids"))
        for name, output in call.pop("mm_encoder_outputs").items():
            rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in output.pooler_output])
            embeds[inputs["input_ids"] == MODALITIES[name][1]] = rows
        call = {**call, "inputs_embeds": embeds}
        call.pop("mm_token_type_ids", None)
        count = 0
    if recurs:
        call = shortened(call)
    return model.generate(**call, **settings)[:, count:]


def shortened(call: dict) -> dict:
    """A call without its masked columns, padded on the left."""
    mask = call["attention_mask"]
    width = int(mask.sum(1).max())
    columns = mask.int().argsort(dim=1, stable=True)[:, -width:]
    mask = mask.gather(1, columns)
    wide = columns[..., None].expand(-1, -1, call["inputs_embeds"].shape[-1])
    places = call["position_ids"].gather(2, columns.expand(4, -1, -1))
    places[0] = (mask.cumsum(1) - 1).clamp(min=0)
    return {
        "inputs_embeds": call["inputs_embeds"].gather(1, wide),
        "attention_mask": mask,
        "position_ids": places,
    }
