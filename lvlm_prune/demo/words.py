"""The page's words: one line for every control, and numbers and errors as people read them.

Text only; it knows neither HTML nor the page.
"""

from collections.abc import Collection

from lvlm_prune.errors import NoSinksError
from lvlm_prune.methods import METHODS
from lvlm_prune.reweight.registry import REWEIGHTERS

TITLE = "lvlm-prune"
NARROW = "\u202f"  # between a number and its %, where no line may break
LEAD = (
    "A vision-language model reads an image as hundreds of visual tokens: one for every small "
    "square. Each costs time and memory in the language model, and most show background. "
    "lvlm-prune lets only those that matter through. Ask, and see which ones these are, and "
    "whether the answer still holds."
)
HELP = {
    "image": "What the model is asked about; uploads are deleted after an hour. Transparency is "
    "ignored, as models ignore it.",
    "question": "Ask anything; for questions of yes or no you also see how sure the model is.",
    "examples": "One click shows the image and asks the question.",
    "method": "How the visual tokens are chosen that reach the language model; random, grid, pool "
    "and downsample are controls to beat.",
    "keep": "How many of them stay. Fewer are faster, and riskier.",
    "reweight": "Also turns up the language model's attention to the image, against hallucination.",
    "sinks": "What happens to patches of very high norm, which hold no local detail.",
    "ask": "answers with all visual tokens and with the kept ones, and measures both.",
    "cancel": "ends what runs for you, not for others.",
    "compare": "The image and question from above, with many ways to prune side by side.",
    "compare_methods": "All methods: each at the number of tokens set above.",
    "compare_budgets": "Over budgets: the method set above, from half of the tokens down to 3 %.",
    "signs": "= and ≠: the answer is, or is not, that of the full model.",
    "kept": "Drag across the picture, or use the arrow keys: left of the border is the whole "
    "image, right of it the tokens that enter the language model, in colour.",
    "scores": "What the method ranks tokens by: yellow is high; kept tokens are outlined, also "
    "those of low score that a method keeps to stand for others. Methods that merge show which "
    "tokens went into which.",
}
OPENED = "The first example is answered already. Move the slider, change the question, press Ask."
CHANGED = "Something is set anew: press Ask to see what comes of it."
NO_SINKS = "This image has no ViT sinks; choose another sink policy, such as ignore."
GLOSSARY = {
    "Visual token": "one small square of the image, as the language model reads it: a row of "
    "numbers among those of the words.",
    "Kept, dropped, merged": "a kept token enters the language model; a dropped one does not; a "
    "merged one is mixed into one that is kept.",
    "CLS attention": "how much the vision encoder's summary of the image looks at each square. "
    "Many methods rank by it.",
    "ViT sink": "a square, often of plain background, in which the encoder stores something about "
    "the whole image; its row is many times longer than others.",
    "Prefill": "the language model reads the prompt, image included. Fewer tokens make it faster.",
    "First token": "the whole wait for the first word: encoder, choosing the tokens, prefill.",
    "KV cache": "memory that the prompt occupies as long as the model answers.",
    "Control": "a way to choose that knows nothing: a method that is not better than these is "
    "not worth its time.",
}
SINKS = {
    "ignore": "ignore: ranked like any other token",
    "keep": "keep: always kept, inside the budget",
    "drop": "drop: never kept",
    "only": "only: nothing else is kept",
    "query": "query: they do the ranking in place of the CLS token",
}


def method_line(name: str, refused: Collection[str]) -> str:
    """What a method does, in a line.

    Args:
        name: of the method.
        refused: methods that the model cannot run.
    """
    line = METHODS[name].summary.rstrip(".")
    line = line[0].upper() + line[1:]
    return f"{line}. It cannot run on this model." if name in refused else f"{line}."


def reweightings() -> list[str]:
    """Names of all reweightings."""
    return list(REWEIGHTERS)


def sentence(error: BaseException) -> str:
    """An error as a sentence: its first line, with a capital and a full stop."""
    if isinstance(error, NoSinksError):
        return NO_SINKS
    text = str(error).strip().split("\n")[0] or type(error).__name__
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def percent(share: float) -> str:
    """A probability or share, such as `98.3 %`."""
    return f"{100 * share:.1f}{NARROW}%"


def change(before: float, after: float) -> str:
    """What has become of a number, such as `-68 %`."""
    if before <= 0:
        return ""
    difference = round(100 * (after / before - 1))
    return "as before" if difference == 0 else f"{difference:+d}{NARROW}%".replace("-", "−")


def part(keep: int, total: int) -> str:
    """A number of tokens as a share of all, such as `25 %`."""
    share = 100 * keep / total
    digits = 0 if share >= 10 or share == round(share) else 1
    return f"{share:.{digits}f}{NARROW}%"
