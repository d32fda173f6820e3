"""The page's words: one line for every control, and numbers and errors as people read them.

Text only; it knows neither HTML nor the page.
"""

from lvlm_prune.methods import METHODS
from lvlm_prune.reweight.registry import REWEIGHTERS

TITLE = "lvlm-prune"
LEAD = (
    "A vision-language model reads an image as hundreds of visual tokens: one for every small "
    "square. Each costs time and memory in the language model, and most show background. "
    "lvlm-prune lets only those that matter through. Ask, and see which ones these are, and "
    "whether the answer still holds."
)
HELP = {
    "image": "The image that the model is asked about. Nothing is stored after an hour.",
    "question": "Ask anything; questions of yes or no also show how sure the model is.",
    "method": "How the visual tokens are chosen that reach the language model.",
    "keep": "How many of them are kept. Fewer are faster, and riskier.",
    "reweight": "Also turn up the language model's attention to the image, against hallucination.",
    "sinks": "ViT sinks are patches of very high norm that hold no local detail.",
    "ask": "Answers with all visual tokens and with the kept ones, and measures both.",
    "cancel": "Ends what runs for you, not for others.",
    "compare_methods": "Every method at the number of tokens set above.",
    "compare_budgets": "The method set above, from half of the tokens down to 3 %.",
    "kept": "Drag the handle: left of it the whole image, right of it what the model still sees.",
    "scores": "What the method ranks tokens by: yellow is high, kept tokens are outlined.",
}
SINKS = {
    "ignore": "ignore: ranked like any other token",
    "keep": "keep: always kept, inside the budget",
    "drop": "drop: never kept",
    "only": "only: nothing else is kept",
    "query": "query: they do the ranking in place of the CLS token",
}


def method_line(name: str, refused: bool) -> str:
    """What a method does, in a line."""
    line = METHODS[name].summary.rstrip(".")
    line = line[0].upper() + line[1:]
    return f"{line}. It cannot run on this model." if refused else f"{line}."


def reweightings() -> list[str]:
    """Names of all reweightings."""
    return list(REWEIGHTERS)


def sentence(error: BaseException) -> str:
    """An error as a sentence: its first line, with a capital and a full stop."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def percent(share: float) -> str:
    """A probability or share, such as `98.3 %`."""
    return f"{100 * share:.1f} %"


def change(before: float, after: float) -> str:
    """What has become of a number, such as `-68 %`."""
    if before <= 0:
        return ""
    difference = round(100 * (after / before - 1))
    return "as before" if difference == 0 else f"{difference:+d} %".replace("-", "−")
