"""One answer, as it stands in a JSONL file.

In: what a model said to one prompt. Out: a `Row`, to and from one line of JSON. A prompt that
several benchmark lines share (POPE asks 5,127 questions in 9,000 lines) is one row that names them
all. A failed call is a row with an `error` and no text, never an empty answer.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Row:
    """An answer.

    Args:
        id: name of the first benchmark line with this prompt, unique in a run.
        items: names of all benchmark lines with this prompt.
        image: file name; None without one.
        question: as it was asked, the prompt template filled in.
        prompt: the whole chat prompt, up to where the answer begins.
        text: raw answer without special tokens; None if the call failed.
        parsed: what it says by each parser, such as `{"official": "yes"}`.
        error: class and message of the exception, or None.
        seconds: its share of its batch's wall time.
        kept: visual tokens of the prompt that entered the LLM; None after an error.
        total: visual tokens of the prompt before pruning; None after an error.
        peak_mib: largest memory of the process (CPU) or the device so far, MiB.
        same_as: run whose answer to the same prompt with exactly the same rows this is, or None.
        tokens: visual tokens at each decoder layer, with stages inside the LLM.
        words: text tokens of the prompt, with stages inside the LLM.
        sinks: ViT sinks of the image and how many of them were kept, or None where nobody looked.
        image_crc: CRC-32 of the image file, 8 hex digits; None without one or where it is absent.
    """

    id: str
    items: tuple[str, ...]
    image: str | None
    question: str
    prompt: str
    text: str | None
    parsed: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    kept: int | None = None
    total: int | None = None
    peak_mib: float | None = None
    same_as: str | None = None
    tokens: tuple[int, ...] = ()
    words: int = 0
    sinks: tuple[int, int] | None = None
    image_crc: str | None = None

    def to_json(self) -> str:
        """One line without a line break."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """Read the values of a line.

        Raises:
            ValueError: no mapping, or keys that a row does not have.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a row of answers is a JSON object, not {values!r}")
        unknown = sorted(set(values) - {each.name for each in fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys {unknown} in a row of answers")
        if (values.get("text") is None) == (values.get("error") is None):
            raise ValueError("a row has either a text or an error")
        lists = {name: tuple(values.get(name, ())) for name in ("items", "tokens")}
        sinks = values.get("sinks")
        return cls(**{**values, **lists, "sinks": None if sinks is None else tuple(sinks)})
