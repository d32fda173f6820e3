"""A second branch: an answer with other inputs that is fed the tokens of the real one.

In: inputs of `generate` without an image, or with noised pixels, and the tokens chosen so far. Out:
next-token logits `[R, V]`. The branch has its own KV cache, follows rows that beams move, and takes
back tokens that speculation rejects. Each step is a call of `generate` for one token, so that
pruning before the LLM is what it is for any user. M-RoPE positions are given to every step, since
the model remembers those of its last call only, which may be another thread's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from lvlm_prune.cache_columns import cut_columns
from lvlm_prune.splice import positions_of

TYPES = "mm_token_type_ids"
GRIDS = {"pixel_values": "image_grid_thw", "pixel_values_videos": "video_grid_thw"}
# Time, height and width; a plain count may stand before them.
MROPE_AXES = 3


@contextmanager
def rotary_state(model: Any) -> Iterator[None]:
    """Put the M-RoPE state of the model's last call back after the block."""
    base = model.base_model.__dict__
    kept = {name: base[name] for name in ("rope_deltas",) if name in base}
    try:
        yield
    finally:
        base.update(kept)


def without_images(ids: Tensor, mask: Tensor, placeholders: set[int], pad: int) -> dict[str, Any]:
    """The prompts without their placeholders, padded on the left.

    Args:
        ids: `[B, P]`.
        mask: `[B, P]`.
        placeholders: ids of placeholder tokens.
        pad: id of padding.

    Returns:
        `input_ids` and `attention_mask`, `[B, P']` each.
    """
    stays = mask != 0
    for token_id in placeholders:
        stays &= ids != token_id
    width = int(stays.sum(1).max())
    order = stays.int().argsort(dim=1, stable=True)[:, ids.shape[1] - width :]
    real = stays.gather(1, order)
    return {
        "input_ids": ids.gather(1, order).masked_fill(~real, pad),
        "attention_mask": real.long(),
    }


def with_noise(arguments: Mapping[str, Any], noised: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The inputs with each image noised by itself, so that neighbours do not matter.

    Args:
        arguments: of `generate`; pixels `[I, ...]`, packed patches with their grids, or
            `[..., C, H, W]` of several pictures a row: images of a prompt, tiles or frames. Blank
            pictures fill up a row, and models find them by that, so they stay blank.
        noised: pixels of one picture, to noised ones.
    """
    found = dict(arguments)
    for name, grid in GRIDS.items():
        pixels = found.get(name)
        if pixels is None:
            continue
        grids = found.get(grid)
        several = pixels.dim() > 4
        rows = pixels.flatten(0, -4) if several else pixels
        sizes = [1] * len(rows) if grids is None else grids.prod(-1).tolist()
        fresh = [
            one if several and not bool(one.any()) else noised(one) for one in rows.split(sizes)
        ]
        found[name] = torch.cat(fresh).view(pixels.shape)
    return found


def rotary_positions(model: Any, inputs: Mapping[str, Any]) -> Tensor | None:
    """Positions of a prompt for M-RoPE, `[4, B, P]` or `[3, B, P]`, and `[B, P]` for text.

    A prompt without pixels leaves the model's memory alone. One with pixels sets it to what the
    real prompt, which has the same grids, sets it to as well.

    Args:
        model: the model.
        inputs: `input_ids` and `attention_mask` `[B, P]`, and pixels with what belongs to them.

    Returns:
        The positions, or None where the model remembers none and transformers counts tokens.
    """
    if "rope_deltas" not in model.base_model.__dict__:
        return None
    if all(inputs.get(name) is None for name in GRIDS):
        return positions_of(inputs["attention_mask"])
    given = {name: value for name, value in inputs.items() if value is not None}
    positions: Tensor = model._prepare_position_ids_for_generation(inputs["input_ids"], given)
    return positions


def continued(positions: Tensor, real: Tensor, count: int) -> Tensor:
    """Positions of a prompt with `count` tokens of text behind it.

    Args:
        positions: `[..., B, P]`, see `rotary_positions`.
        real: `[B, P]` bool.
        count: new tokens t.

    Returns:
        `[..., B, P + t]`.
    """
    last = positions.masked_fill(~real, -1).amax(dim=-1, keepdim=True)
    if last.dim() > 2:
        highest = last[-MROPE_AXES:].amax(dim=0, keepdim=True)
        last = torch.cat([last[:-MROPE_AXES], highest.expand(MROPE_AXES, -1, -1)])
    return torch.cat([positions, last + torch.arange(1, count + 1, device=last.device)], -1)


class Branch:
    """One answer beside the real one.

    Args:
        model: the model.
        generate: the `generate` that it uses.
        inputs: `input_ids` and `attention_mask` `[B, P]`, and pixels with what belongs to them.
        pad: id of padding.
    """

    def __init__(
        self, model: Any, generate: Callable[..., Any], inputs: Mapping[str, Any], pad: int
    ) -> None:
        self.model = model
        self.generate = generate
        self.cache: Any = DynamicCache(config=model.config.get_text_config())
        self.prompt = {
            name: inputs[name]
            for name in ("input_ids", "attention_mask", TYPES)
            if inputs.get(name) is not None
        }
        self.positions = rotary_positions(model, inputs)
        self.answer = self.prompt["input_ids"][:, :0]
        self.prompts = len(self.answer)
        self.config = GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=pad,
        )
        self.last = self._pass(inputs, self.positions)

    def logits(self, answer: Tensor) -> Tensor:
        """Next-token logits behind the prompt and an answer.

        Args:
            answer: `[R, t]`, tokens of the real answer; R is a multiple of B.

        Returns:
            `[R, V]` float32.
        """
        self._expand(len(answer))
        if answer.shape[1] and self._follow(answer) < answer.shape[1]:
            self.answer = answer
            self.last = self._pass(self._inputs(), self._positions())
        return self.last

    def _expand(self, rows: int) -> None:
        """Repeat every prompt for beams, or for several answers."""
        times = rows // len(self.answer)
        if times == 1:
            return
        each = torch.arange(len(self.answer), device=self.answer.device)
        # Recurrent layers can only be reordered, which repeats just as well.
        self.cache.reorder_cache(each.repeat_interleave(times))
        self.prompt = {name: one.repeat_interleave(times, 0) for name, one in self.prompt.items()}
        self.answer = self.answer.repeat_interleave(times, 0)
        self.last = self.last.repeat_interleave(times, 0)
        if self.positions is not None:
            self.positions = self.positions.repeat_interleave(times, -2)

    def _follow(self, answer: Tensor) -> int:
        """Bring the cache to what an answer shares with the last one; the tokens that it holds."""
        held, count = self.answer.shape[1], answer.shape[1]
        if count > held:
            same = (answer[:, None, :held] == self.answer[None]).all(dim=-1)
            same &= self._same_prompt(len(answer))
            if bool(same.any(dim=1).all()):
                # A row that did not move stays where it is.
                moved = torch.where(same.diagonal(), 2, 0).diag() + same.int()
                self._reorder(moved.argmax(dim=1))
                return held
        shared = (answer[:, :held] == self.answer[:, :count]).int().cumprod(dim=1)
        kept = min(int(shared.sum(dim=1).min()), count - 1)
        if kept < held:
            # From the end: layers that dropped tokens are shorter.
            self.cache.crop(kept - held)
            cut_columns(self.cache)
        return kept

    def _same_prompt(self, rows: int) -> Tensor:
        """Which rows have the same prompt, `[R, R]` bool; they stand side by side."""
        owner = torch.arange(rows, device=self.answer.device) // (rows // self.prompts)
        return owner[:, None] == owner[None]

    def _reorder(self, index: Tensor) -> None:
        """Let rows change places."""
        if not torch.equal(index, torch.arange(len(index), device=index.device)):
            self.cache.reorder_cache(index)

    def _inputs(self) -> dict[str, Tensor]:
        """The prompt with the answer so far."""
        more = {
            "input_ids": self.answer,
            "attention_mask": torch.ones_like(self.answer),
            TYPES: torch.zeros_like(self.answer),
        }
        return {name: torch.cat([one, more[name].to(one)], 1) for name, one in self.prompt.items()}

    def _positions(self) -> Tensor | None:
        """Positions of the prompt with the answer so far, if they are given."""
        if self.positions is None:
            return None
        real = self.prompt["attention_mask"] != 0
        return continued(self.positions, real, self.answer.shape[1])

    def _pass(self, inputs: Mapping[str, Any], positions: Tensor | None) -> Tensor:
        """Logits of one call, `[R, V]`."""
        given = {} if positions is None else {"position_ids": positions}
        output = self.generate(
            **{**inputs, **given}, past_key_values=self.cache, generation_config=self.config
        )
        return output.logits[0]
