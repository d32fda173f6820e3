"""The oracle: the unpruned model with the dropped tokens masked from layer 0 on.

Every real token keeps its own position, so this is what exact pruning must equal.
"""

import torch
from transformers import set_seed


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions of the unpruned prompt, `[B, L]`."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def masked_inputs(inputs: dict, kept: list[torch.Tensor], image_token: int) -> dict:
    """The same call with the attention mask set to 0 at every dropped placeholder."""
    mask = inputs["attention_mask"].clone()
    ids = inputs["input_ids"]
    image, seen = 0, 0
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            if ids[row, column] != image_token:
                continue
            if seen not in kept[image].tolist():
                mask[row, column] = 0
            seen += 1
            if seen == 36:
                image, seen = image + 1, 0
    full = positions(inputs["attention_mask"])
    return {**inputs, "attention_mask": mask, "position_ids": full}


def overwrite_features(model, inputs: dict, kept: list, features: list) -> dict:
    """Give the unpruned model the features that a merging method made, at the kept rows."""
    inputs = dict(inputs)
    outputs = model.base_model.get_image_features(pixel_values=inputs.pop("pixel_values"))
    rows = [row.clone() for row in outputs.pooler_output]
    for row, index, new in zip(rows, kept, features, strict=True):
        row[index] = new
    inputs["mm_encoder_outputs"] = {"image": type(outputs)(pooler_output=rows)}
    return inputs


@torch.no_grad()
def masked_greedy(model, inputs: dict, steps: int, banned: list[int]) -> torch.Tensor:
    """Greedy decoding by whole forward passes, no cache: `[B, steps]` new tokens and all logits."""
    inputs = dict(inputs)
    tokens, logits = [], []
    for _ in range(steps):
        step = model(**inputs, use_cache=False).logits[:, -1]
        logits.append(step)
        step = step.clone()
        step[:, banned] = -torch.inf
        token = step.argmax(-1, keepdim=True)
        tokens.append(token)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
        ones = torch.ones_like(token)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], ones], 1)
        following = inputs["position_ids"][:, -1:] + 1
        inputs["position_ids"] = torch.cat([inputs["position_ids"], following], 1)
    return torch.cat(tokens, 1), torch.stack(logits, 1)


def masked_generate(model, inputs, kept, image_token=90, **settings):
    """The unpruned model's own generate with the dropped tokens masked."""
    masked = masked_inputs(inputs, kept, image_token)
    # One entry a prompt: transformers before 5.23 mixes the images of a prompt up for beams.
    features = model.model.get_image_features(masked.pop("pixel_values"))
    prompts_of = (masked["input_ids"] == image_token).sum(1).tolist()
    rows = torch.cat(list(features.pooler_output)).split([count for count in prompts_of if count])
    masked["mm_encoder_outputs"] = {"image": type(features)(pooler_output=list(rows))}
    set_seed(0)
    return model.generate(**masked, **settings)
