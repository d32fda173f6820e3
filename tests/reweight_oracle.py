"""The oracle of reweighting: eager attention whose rows are edited one prompt at a time.

Whole passes without a cache, over full `[B, H, T, S]` weights. Which rows change, which columns are
visual, and which are LLM sinks is found here, from token ids, masks and hidden states, by plain
loops; each prompt's rows are cut out with its real columns only. The pure function of the method,
which has loop references of its own, is then called on them. Answer tokens are given.
"""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from family_oracle import full_positions
from tiny_families import IMAGE, VIDEO
from torch import Tensor

from lvlm_prune.reweight.contract import AttentionRows, Reweighter


@dataclass
class Prompt:
    """One prompt of the batch.

    Args:
        columns: real columns, ascending, those of the answer included.
        visual: for each of them whether it is a visual token.
        asked: how many of them are the prompt's.
        marks: of the columns, `[n]` each.
        sinks: for each layer, of the prompt's columns.
        dropped: for each layer, columns (as places in `columns`) that it does not have.
    """

    columns: list[int]
    visual: list[bool]
    asked: int
    marks: dict[str, Tensor]
    sinks: dict[int, list[bool]] = field(default_factory=dict)

    def text(self) -> list[int]:
        """Places of text behind the last image, of the prompt."""
        if True not in self.visual:
            return []
        last = max(place for place, one in enumerate(self.visual) if one)
        return list(range(last + 1, self.asked))


@dataclass
class Oracle:
    """A reweighted model.

    Args:
        model: with eager attention.
        method: the reweighter.
        options: complete.
        ratio: of the norm rule for LLM sinks, from layer 0 on.
        observing: whether answer rows are shown to the method and nothing is edited.
        hidden: for a layer, columns that no other row sees, `[B, P]`.
        final: columns whose marks are no longer changed.
    """

    model: object
    method: Reweighter
    options: dict
    ratio: float = 3.0
    observing: bool = False
    hidden: dict[int, Tensor] = field(default_factory=dict)
    final: int = 0

    def __post_init__(self):
        self.layers = list(self.model.get_decoder().layers)
        self.depth = len(self.layers)
        self.numbers = {
            id(layer.self_attn): number
            for number, layer in enumerate(self.layers)
            if hasattr(layer, "self_attn")
        }
        self.edited = set(self.method.layers(self.options, self.depth))
        observed = self.method.observed
        self.observed = set(observed(self.options, self.depth)) if observed else set()

    @torch.no_grad()
    def logits(self, inputs: dict, answer: Tensor, marks: dict | None = None) -> Tensor:
        """Logits of each step, `[B, steps, V]`, given the tokens `[B, steps - 1]` before them."""
        self.prompts = self._prompts(inputs, answer, marks or {})
        call = with_answer(self.model, inputs, answer)
        with self._patched():
            found = self.model(**call, use_cache=False).logits
        return found[:, inputs["input_ids"].shape[1] - 1 :]

    def _prompts(self, inputs: dict, answer: Tensor, marks: dict) -> list[Prompt]:
        """What is known of each prompt."""
        found = []
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            real = [n for n in range(len(ids)) if inputs["attention_mask"][row, n] == 1]
            columns = real + [len(ids) + n for n in range(answer.shape[1])]
            visual = [n < len(ids) and ids[n] in (IMAGE, VIDEO) for n in columns]
            own = {}
            for name, values in marks.items():
                whole = torch.zeros(len(ids) + answer.shape[1])
                whole[: values.shape[1]] = values[row]
                own[name] = whole[columns]
            found.append(Prompt(columns, visual, len(real), own))
        return found

    @contextmanager
    def _patched(self):
        """Eager attention of the LLM with edited rows."""
        attention = next(layer.self_attn for layer in self.layers if hasattr(layer, "self_attn"))
        module = sys.modules[type(attention).__module__]
        plain = module.eager_attention_forward

        def edited(attention, query, key, value, attention_mask, scaling, **settings):
            if id(attention) not in self.numbers:
                return plain(attention, query, key, value, attention_mask, scaling, **settings)
            number = self.numbers[id(attention)]
            return self._attention(number, query, key, value, attention_mask, scaling), None

        def sinks_of(number):
            def hook(layer, args, kwargs):
                hidden = args[0] if args else kwargs["hidden_states"]
                for row, prompt in enumerate(self.prompts):
                    gone = self.hidden[number][row] if number in self.hidden else []
                    prompt.sinks[number] = self._sinks(hidden[row], prompt, gone)

            return hook

        handles = [
            layer.register_forward_pre_hook(sinks_of(number), with_kwargs=True)
            for number, layer in enumerate(self.layers)
        ]
        module.eager_attention_forward = edited
        try:
            yield
        finally:
            module.eager_attention_forward = plain
            for handle in handles:
                handle.remove()

    def _sinks(self, hidden: Tensor, prompt: Prompt, gone) -> list[bool]:
        """Columns whose norm is `ratio` times the lower median of the prompt's modality."""
        norms = [float(hidden[column].double().norm()) for column in prompt.columns]
        marked = [False] * len(norms)
        for modality in (True, False):
            own = [n for n in range(prompt.asked) if prompt.visual[n] == modality]
            own = [n for n in own if not len(gone) or not gone[prompt.columns[n]]]
            if own:
                median = sorted(norms[n] for n in own)[(len(own) - 1) // 2]
                for n in own:
                    marked[n] = norms[n] >= self.ratio * median and norms[n] > median
        return marked

    def _attention(self, number, query, key, value, mask, scaling):
        """Outputs `[B, T, H, d]`."""
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        logits = (query @ key.transpose(-1, -2)).float() * scaling
        causal = torch.ones(logits.shape[-2:]).tril().bool()
        seen = causal if mask is None else mask > -1e30
        logits = logits.masked_fill(~seen, -torch.inf)
        drop = self.hidden.get(number)
        if drop is not None:
            gone = torch.zeros(len(drop), logits.shape[-1], dtype=torch.bool)
            gone[:, : drop.shape[1]] = drop
            itself = torch.eye(logits.shape[-1]).bool()
            logits = logits.masked_fill(gone[:, None, None] & ~itself, -torch.inf)
        weights = logits.masked_fill(~seen.any(-1, keepdim=True), 0).softmax(-1)
        output = weights @ value.float()
        for row, prompt in enumerate(self.prompts):
            if True in prompt.visual:
                gone = None if drop is None else drop[row]
                self._edit(number, logits[row], value[row].float(), output[row], prompt, gone)
        return output.transpose(1, 2).to(value.dtype)

    def _edit(self, number, logits, value, output, prompt: Prompt, gone) -> None:
        """Show and change rows of one prompt, in place of `output`, `[H, T, d]`."""
        text = prompt.text()
        answer = [[n] for n in range(prompt.asked, len(prompt.columns))]
        if number in self.observed and not self.method.pre_run and text:
            self._show(number, logits, value, prompt, text, gone)
        if self.observing:
            for rows in answer if number in self.observed else ():
                self._show(number, logits, value, prompt, rows, gone)
            return
        if number not in self.edited:
            return
        asked = text if self.method.rows == "text" else [prompt.asked - 1]
        for rows in ([asked] if asked and self.method.prefill else []) + answer:
            cut, there = self._rows(number, logits, value, prompt, rows, gone)
            edited = self.method.edit(cut, **self.options)
            new = torch.einsum("hrs,hsd->hrd", edited.weights[0], value[:, there])
            if edited.heads is not None:
                new = new * edited.heads[0, ..., None]
            output[:, [prompt.columns[n] for n in rows]] = new
            self._note(prompt, edited.marks, there)

    def _show(self, number, logits, value, prompt: Prompt, rows: list[int], gone) -> None:
        """Let the method observe rows."""
        cut, there = self._rows(number, logits, value, prompt, rows, gone)
        self._note(prompt, self.method.observe(cut, **self.options), there)

    def _note(self, prompt: Prompt, marks: dict, there: list[int]) -> None:
        """Keep marks of a prompt's columns."""
        for name, values in marks.items():
            kept = prompt.marks.setdefault(name, torch.zeros(len(prompt.columns)))
            for column, value in zip(there, values[0], strict=True):
                if column >= self.final:
                    kept[prompt.columns.index(column)] = value

    def _rows(self, number, logits, value, prompt: Prompt, rows: list[int], gone):
        """Rows of one prompt, with the columns that they may see, and those columns."""
        places = list(range(rows[-1] + 1))
        if gone is not None:
            places = [n for n in places if n >= prompt.asked or not gone[prompt.columns[n]]]
        there = [prompt.columns[n] for n in places]
        found = AttentionRows(
            logits=logits[:, [prompt.columns[n] for n in rows]][..., there][None],
            value=value[:, there][None],
            visual=torch.tensor([[prompt.visual[n] for n in places]]),
            layer=number,
            depth=self.depth,
            decoding=rows[0] >= prompt.asked,
            edited=torch.ones(1, len(rows), dtype=torch.bool),
            sinks=torch.tensor([[prompt.sinks[number][n] for n in places]]),
            marks={name: mark[None, places] for name, mark in prompt.marks.items()},
            own=torch.tensor([[places.index(row) for row in rows]]),
        )
        return found, there


def with_answer(model, inputs: dict, answer: Tensor) -> dict:
    """The prompt and an answer as one whole call."""
    call = dict(inputs)
    positions = full_positions(model, inputs)
    steps = torch.arange(1, answer.shape[1] + 1)
    call["position_ids"] = torch.cat([positions, positions[..., -1:] + steps], -1)
    # PaliGemma reads tokens of type 0 in both directions.
    kinds = {"mm_token_type_ids": 0, "token_type_ids": int("pali" in model.config.model_type)}
    for name, value in {"input_ids": 0, "attention_mask": 1, **kinds}.items():
        if name in call:
            more = answer if name == "input_ids" else torch.full_like(answer, value)
            call[name] = torch.cat([call[name], more.to(call[name])], 1)
    return call


def all_marks(oracle: Oracle, count: int) -> dict[str, Tensor]:
    """The marks of a batch's first `count` columns, `[B, count]`."""
    names = {name for prompt in oracle.prompts for name in prompt.marks}
    found = {name: torch.zeros(len(oracle.prompts), count) for name in names}
    for row, prompt in enumerate(oracle.prompts):
        for name, values in prompt.marks.items():
            for column, value in zip(prompt.columns, values, strict=True):
                found[name][row, column] = value
    return found


def observed_first(
    model, method: Reweighter, options: dict, inputs: dict, stop: int | None
) -> dict:
    """The marks that a greedy first answer of the stock model leaves, prompt by prompt.

    Args:
        stop: a token that ends an answer, or None.
    """
    count, length = options["tokens"], inputs["input_ids"].shape[1]
    tokens = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count)[:, length:]
    marks: dict[str, Tensor] = {}
    for row, answer in enumerate(tokens.tolist()):
        steps = answer.index(stop) if stop in answer else count - 1
        oracle = Oracle(model, method, options, observing=True)
        oracle.logits(inputs, tokens[:, :steps])
        gathered = all_marks(oracle, length + steps)
        visual = torch.zeros(len(tokens), length + steps, dtype=torch.bool)
        ids = inputs["input_ids"]
        visual[:, :length] = (ids == IMAGE) | (ids == VIDEO)
        for name, values in method.finish(gathered, visual, oracle.depth, **options).items():
            marks.setdefault(name, torch.zeros(len(tokens), length))[row] = values[row, :length]
    return marks


def sequential_logits(oracle: Oracle, inputs: dict, answer: Tensor, marks: dict) -> Tensor:
    """`Oracle.logits` where each row reads what earlier rows noted in all layers."""
    steps = []
    for count in range(answer.shape[1] + 1):
        steps.append(oracle.logits(inputs, answer[:, :count], marks)[:, -1])
        oracle.final = inputs["input_ids"].shape[1] + count
        marks = all_marks(oracle, oracle.final)
    return torch.stack(steps, 1)
