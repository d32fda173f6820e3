"""The greedy answer of the `run` command, and how sure the model is of yes and no.

In: a loaded model and one prompt. Out: the answer's text, and the probabilities of yes and no as
its first token. It knows nothing of what is attached but whether a contrast decides.
"""

from typing import Any

import torch
from torch import Tensor

from lvlm_prune.loading import Loaded


@torch.inference_mode()
def answer(
    loaded: Loaded, inputs: dict[str, Tensor], max_new_tokens: int, contrasted: bool = False
) -> tuple[str, tuple[float, float] | None]:
    """The greedy answer, and how probable yes and no are as its first token.

    Args:
        loaded: model and processor.
        inputs: one prompt.
        max_new_tokens: longest answer.
        contrasted: whether a contrast decides; it acts on the scores, which are then read instead
            of the logits of the model. What it cuts off has probability 0.
    """
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        output_logits=not contrasted,
        output_scores=contrasted,
        return_dict_in_generate=True,
    )
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    text = loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip()
    words = [yes_no_tokens(loaded.processor.tokenizer, word) for word in ("yes", "no")]
    if not all(words):
        return text, None
    first = output.scores[0] if contrasted else output.logits[0]
    share = first[0].float().softmax(dim=-1)
    yes, no = (float(share[sorted(tokens)].sum()) for tokens in words)
    return text, (yes, no)


def yes_no_tokens(tokenizer: Any, word: str) -> set[int]:
    """Tokens that are this word alone, in lower case or capitalised."""
    forms = [tokenizer.encode(form, add_special_tokens=False) for form in (word, word.title())]
    return {form[0] for form in forms if len(form) == 1} - {tokenizer.unk_token_id}
