"""What is asked of the model on the page: a question about an image, and how to prune.

In: values of the page's controls, or of a client. Out: two frozen values, `Asking` and `Settings`,
that serve as keys of the results. Every mistake is a ValueError in one sentence. It knows no model.
"""

from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image

from lvlm_prune.config import EVERYTHING, METHOD, PruneConfig
from lvlm_prune.eval.configs import CONTROLS
from lvlm_prune.methods import METHODS

LONGEST_QUESTION = 500  # characters
NO_REWEIGHTING = "none"
UNPRUNED = PruneConfig(method="identity", keep=1.0)


@dataclass(frozen=True, eq=False)
class Asking:
    """A question about an image; `key` says the same without holding the image.

    Args:
        image: RGB, decoded.
        digest: of its pixels; two uploads of one picture are one image.
        question: not empty.
    """

    image: Image.Image
    digest: str
    question: str

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise ValueError("Type a question about the image first.")
        if len(self.question) > LONGEST_QUESTION:
            raise ValueError(
                f"The question has {len(self.question)} characters, the limit is "
                f"{LONGEST_QUESTION}; ask a shorter one."
            )
        object.__setattr__(self, "question", " ".join(self.question.split()))

    @property
    def key(self) -> tuple[str, str]:
        """What a result is remembered by."""
        return self.digest, self.question


@dataclass(frozen=True)
class Settings:
    """How the image's visual tokens are pruned.

    Args:
        method: name of a method before the LLM.
        keep: visual tokens that enter the LLM.
        reweight: `METHOD` or `METHOD:PRESET`, or `none`.
        sinks: policy for ViT sink tokens.
    """

    method: str
    keep: int
    reweight: str = NO_REWEIGHTING
    sinks: str = "ignore"

    def config(self) -> PruneConfig:
        """What `attach` is given.

        Raises:
            ValueError: a name or number that is not allowed.
        """
        for what in ("method", "reweight", "sinks"):
            if not isinstance(name := getattr(self, what), str):
                raise ValueError(f"Choose one of the names for {what}; got {name!r}.")
        reweight = None if self.reweight == NO_REWEIGHTING else self.reweight
        return PruneConfig.from_dict(
            {
                "method": self.method,
                # An int would be a budget of those that show the image, without newline tokens.
                "keep": 1.0 if self.method == EVERYTHING else self.keep,
                "reweight": reweight,
                "sinks": self.sinks,
            }
        )


def whole_tokens(keep: object) -> int:
    """A number of tokens, as a slider or a client gives it.

    Raises:
        ValueError: no whole number of at least 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float) or keep != keep // 1 or keep < 1:
        raise ValueError(
            f"The number of visual tokens to keep must be a whole number of at least one token, "
            f"got {keep!r}."
        )
    return int(keep)


def check_budget(keep: int, total: int) -> None:
    """Refuse to keep more visual tokens than an image has.

    Raises:
        ValueError: in one sentence.
    """
    if keep > total:
        raise ValueError(
            f"{keep} is more than the {total} visual tokens of this image; choose at most {total}."
        )


def first_method(refused: Collection[str]) -> str:
    """The method that the page opens with: the default, or the first that the model can run.

    Args:
        refused: methods that the model cannot run.
    """
    able = [name for name in (METHOD, *METHODS) if name not in refused and name not in CONTROLS]
    return able[0]
