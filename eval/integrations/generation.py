"""What a harness says about generating, in the words of `generate`.

In: a request's generation settings, as lmms-eval's task files write them. Out: arguments of
`generate`, the texts at which an answer is cut, and the names that were not used. Greedy unless a
temperature above 0 or `do_sample` asks for samples. It knows no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_NEW_TOKENS = 1024  # where a task sets no limit, as in lmms-eval's own models
SAMPLING = ("temperature", "top_p", "top_k")
PASSED_ON = ("num_beams", "repetition_penalty", "length_penalty", "min_new_tokens")
READ = ("until", "max_new_tokens", "do_sample", *SAMPLING, *PASSED_ON)


@dataclass(frozen=True)
class Generation:
    """How to generate.

    Args:
        options: arguments of `generate`.
        until: texts at the first of which an answer ends; they are not part of it.
        unused: names that say nothing to `generate`.
    """

    options: Mapping[str, Any]
    until: tuple[str, ...]
    unused: tuple[str, ...]

    def cut(self, answer: str) -> str:
        """The answer up to the first text that ends it."""
        for stop in self.until:
            answer = answer.split(stop, 1)[0]
        return answer


def read_generation(settings: Mapping[str, Any]) -> Generation:
    """Read the settings of a request.

    Args:
        settings: such as `{"max_new_tokens": 16, "temperature": 0, "until": ["\\n"]}`.

    Raises:
        TypeError: an `until` that is neither a text nor a list of texts.
    """
    named = {name: value for name, value in settings.items() if value is not None}
    options: dict[str, Any] = {name: named[name] for name in PASSED_ON if name in named}
    options["max_new_tokens"] = named.get("max_new_tokens", MAX_NEW_TOKENS)
    options["do_sample"] = _samples(named)
    if options["do_sample"]:
        options |= {name: named[name] for name in SAMPLING if name in named}
    unused = tuple(sorted(set(settings) - set(READ)))
    return Generation(options, _stops(named.get("until", ())), unused)


def _samples(settings: Mapping[str, Any]) -> bool:
    """Whether answers are drawn; a temperature of 0 is greedy whatever else is asked for."""
    temperature = settings.get("temperature")
    if temperature is not None and temperature <= 0:
        return False
    return bool(settings.get("do_sample", temperature is not None))


def _stops(until: str | Sequence[str]) -> tuple[str, ...]:
    """The texts that end an answer, without empty ones."""
    stops = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in stops):
        raise TypeError(f"until must be a text or a list of texts, got {until!r}")
    return tuple(stop for stop in stops if stop)
