"""The one error of reading, joining and scoring answer files: a name and a sentence.

Where an official script crashes, or goes on with answers that belong to other questions, `score`
raises this instead.
"""


class ScoreError(ValueError):
    """Answers that cannot be scored.

    Args:
        name: what is wrong, in snake_case, such as `null_answer`.
        message: where it is wrong and the next step.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(printable(message))
        self.name = name


def printable(text: str) -> str:
    """Text of a file as it may be shown: line breaks, controls and lone surrogates escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
