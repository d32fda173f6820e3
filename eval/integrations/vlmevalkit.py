"""VLMEvalKit: its command line with a pruned model (ms-vlmeval 0.0.20).

In: settings of the model and of pruning, then VLMEvalKit's own options. VLMEvalKit finds earlier
answers by the name of the model alone, so the name that is registered here ends with a hash of all
settings. Out: VLMEvalKit's files, and an exit code other than 0 where answers failed, which
VLMEvalKit only logs. Only this command imports this module.

Usage: python -m lvlm_prune.eval.integrations.vlmevalkit pretrained=llava-hf/llava-1.5-7b-hf \
    method=visionzip keep=64 --data POPE --judge exact_matching
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

try:
    from vlmeval import run
    from vlmeval.config import supported_VLM
    from vlmeval.dataset import DATASET_CLASSES
    from vlmeval.smp import collect_run_benchmark_report
    from vlmeval.vlm.base import BaseModel
except ImportError as error:
    MISSING = (
        f"VLMEvalKit cannot be imported ({error}); install it with: pip install ms-vlmeval==0.0.20"
    )
    # For whoever runs the module a sentence, for whoever imports it an error to catch.
    raise (SystemExit if __name__ == "__main__" else ImportError)(MISSING) from error

from lvlm_prune.eval.integrations.arguments import Arguments, read_arguments, split_words
from lvlm_prune.eval.integrations.chat import Part, PrunedChat
from lvlm_prune.eval.integrations.generation import MAX_NEW_TOKENS, read_generation
from lvlm_prune.images import load_image

NAMED_HERE = ("--model", "--config", "--base-url", "--use-vllm")


class PrunedVLM(BaseModel):
    """A pruned model as VLMEvalKit calls it: one message at a time.

    Args:
        arguments: the model and how to prune it.
        device: torch device.
        max_new_tokens: of an answer.
        use_vllm: VLMEvalKit passes it to models with certain names; only False is possible.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(
        self, arguments: Arguments, device: str, max_new_tokens: int, use_vllm: bool = False
    ) -> None:
        super().__init__()
        if use_vllm:
            raise ValueError("tokens are pruned in transformers models only; leave --use-vllm out")
        self.chat = PrunedChat(arguments, device)
        self.generation = read_generation({"max_new_tokens": max_new_tokens})

    def generate_inner(
        self, message: Sequence[Mapping[str, Any]], dataset: str | None = None
    ) -> str:
        """Answer one message greedily.

        Args:
            message: its parts, `{"type": "image", "value": file}` or `{"type": "text", ...}`.
            dataset: its name, which changes nothing here.
        """
        parts: list[Part] = [
            load_image(part["value"]) if part["type"] == "image" else part["value"]
            for part in message
        ]
        return self.chat.answer([parts], self.generation)[0]


def register(settings: Mapping[str, str]) -> str:
    """Make a pruned model known to VLMEvalKit.

    Args:
        settings: `pretrained`, fields of PruneConfig, `device` and `max_new_tokens`.

    Returns:
        The name for `--model`.

    Raises:
        ValueError: an unknown setting, or a value that cannot be read.
    """
    left = dict(settings)
    longest = int(left.pop("max_new_tokens", MAX_NEW_TOKENS))
    device = left.pop("device", "cuda" if torch.cuda.is_available() else "cpu")
    arguments = read_arguments(left)
    name = arguments.unique_name(max_new_tokens=longest)
    supported_VLM[name] = partial(PrunedVLM, arguments, device, longest)
    return name


def use_own_table(name: str) -> None:
    """Let VLMEvalKit take `$LMUData/NAME.tsv` as it is.

    It compares tables with a published checksum, and would download another one over yours.

    Args:
        name: of a data set, such as `POPE`.

    Raises:
        ValueError: no data set of this name has a checksum.
    """
    tables = [dataset.DATASET_MD5 for dataset in DATASET_CLASSES if _has_checksum(dataset, name)]
    if not tables:
        raise ValueError(
            f"VLMEvalKit has no checksum for {name!r}; own_table=NAME is for its own data sets, "
            "such as POPE"
        )
    for table in tables:
        table[name] = None


def _has_checksum(dataset: Any, name: str) -> bool:
    """Whether a class of VLMEvalKit compares this table; not all of them have checksums."""
    return name in getattr(dataset, "DATASET_MD5", {})


def main(words: Sequence[str]) -> None:
    """Register the model and run VLMEvalKit.

    Args:
        words: of the command line, without the program.

    Raises:
        ValueError: words that cannot be read, or an option that names another model.
        SystemExit: a data set failed, or answers of it.
    """
    settings, options = split_words(words)
    named = [option for option in options if option.split("=")[0] in NAMED_HERE]
    if named:
        raise ValueError(
            f"{named} would choose another model; name this one before the options, such as "
            "pretrained=llava-hf/llava-1.5-7b-hf method=visionzip keep=64"
        )
    own_table = settings.pop("own_table", None)
    if own_table is not None:
        use_own_table(own_table)
    name = register(settings)
    sys.argv = [sys.argv[0], "--model", name, *options]
    run.main()
    folder = os.environ.get("MMEVAL_ROOT", run.parse_args().work_dir)
    failed = failures(Path(folder) / name)
    if failed:
        raise SystemExit("\n".join(failed))


def failures(folder: Path) -> list[str]:
    """What went wrong in a run, one sentence for each data set; empty where nothing did.

    Args:
        folder: of the model, in VLMEvalKit's work folder.
    """
    return [
        f"{row['benchmark']}: {row['infer_failed'] or 0} answers failed; "
        f"{row['eval_error'] or 'the others were scored'}"
        for row in collect_run_benchmark_report(str(folder))
        if row["eval_error"] or row["infer_failed"]
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
