"""A tiny probe on disk and a processor for the tiny LLaVA, both made in code."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_models import IMAGE_TOKEN, PAD, tiny_llava
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lvlm_prune.eval.probe import MME_TASKS, POPE_SPLITS
from lvlm_prune.loading import Loaded

TEMPLATE = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %} assistant :"
)
WORDS = "user assistant : yes no is there a an in the image this ? please answer or . cat dog bus"


def tiny_tokenizer(
    special: dict[str, int], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Word-level tokenizer for the tiny models.

    Args:
        special: ids of the image's own tokens.
        named: attributes under which a processor looks for them.
    """
    words = {"<pad>": PAD, "<s>": 1, "</s>": 2, "<unk>": 3, **special}
    free = (number for number in range(99) if number not in words.values())
    words |= dict(zip(WORDS.split(), free, strict=False))
    words |= {f"word{number}": number for number in free}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        padding_side="left",
        **(named or {}),
    )


def tiny_processor() -> LlavaProcessor:
    """The tiny LLaVA's tokenizer, and 42-pixel images."""
    size = {"height": 42, "width": 42}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=size),
        tokenizer=tiny_tokenizer({"<image>": IMAGE_TOKEN}),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token="<image>",
    )


def tiny_loaded() -> Loaded:
    """The tiny LLaVA with its processor."""
    return Loaded(tiny_llava(), tiny_processor(), "tiny")


CLASSES = ["cat", "dog", "bus"]


def write_probe(folder: Path, images: int = 3) -> Path:
    """Write images of random blocks, their objects, three POPE splits and five MME tasks."""
    (folder / "images").mkdir(parents=True)
    (folder / "mme").mkdir()
    names = [f"scene_{number}.png" for number in range(images)]
    rng = np.random.default_rng(0)
    for name in names:
        blocks = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((64, 48), Image.Resampling.NEAREST)
        picture.save(folder / "images" / name)
    scenes = [
        {"image": name, "objects": [{"class": "cat"}, {"class": CLASSES[number % 3]}]}
        for number, name in enumerate(names)
    ]
    (folder / "scenes.json").write_text(json.dumps({"classes": CLASSES, "scenes": scenes}))
    for number, split in enumerate(POPE_SPLITS):
        rows = []
        for name in names:
            # The yes question is the same in every split, the no question only in two of them.
            for noun, label in (("cat", "yes"), ("dog" if number < 2 else "bus", "no")):
                text = f"Is there a {noun} in the image ?"
                row = {"question_id": len(rows) + 1, "image": name, "text": text, "label": label}
                rows.append(json.dumps(row))
        (folder / f"pope_{split}.jsonl").write_text("\n".join(rows) + "\n")
    for task in MME_TASKS:
        lines = [
            f"{name}\tIs there {words} in this image ? Please answer yes or no .\t{label}"
            for name in names
            for words, label in (("a tv", "Yes"), (f"a cat or an {task}", "No"))
        ]
        (folder / "mme" / f"{task}.txt").write_text("\n".join(lines) + "\n")
    return folder
