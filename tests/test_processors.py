"""Processors load and run without torchvision, whatever slot for videos they have."""

import pytest
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

import lvlm_prune.processors as processors
from lvlm_prune.assets import MODEL_NAMES, model_path
from lvlm_prune.loading import Loaded
from lvlm_prune.processors import image_only, load_processor

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}MARK {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
QWEN = {"size": {"shortest_edge": 784, "longest_edge": 784}, "patch_size": 14}
# Processor class, image processor class and its arguments, image token, arguments, visual tokens.
FAMILIES = {
    "llava": (
        "LlavaProcessor",
        ("clip", "CLIPImageProcessor", {"size": {"shortest_edge": 28}, "crop_size": 28}),
        "<image>",
        {
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        4,
    ),
    "llava_next": (
        "LlavaNextProcessor",
        (
            "llava_next",
            "LlavaNextImageProcessor",
            {
                "size": {"shortest_edge": 28},
                "crop_size": 28,
                "image_grid_pinpoints": [[28, 28]],
            },
        ),
        "<image>",
        {
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        None,
    ),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        (
            "llava_onevision",
            "LlavaOnevisionImageProcessor",
            {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 28]]},
        ),
        "<image>",
        {"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        None,
    ),
    "qwen2_vl": (
        "Qwen2VLProcessor",
        ("qwen2_vl", "Qwen2VLImageProcessor", QWEN),
        "<|image_pad|>",
        {},
        1,
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLProcessor",
        ("qwen2_vl", "Qwen2VLImageProcessor", QWEN),
        "<|image_pad|>",
        {},
        1,
    ),
    "qwen3_vl": (
        "Qwen3VLProcessor",
        (
            "qwen2_vl",
            "Qwen2VLImageProcessor",
            QWEN | {"patch_size": 16, "size": {"shortest_edge": 1024, "longest_edge": 1024}},
        ),
        "<|image_pad|>",
        {},
        1,
    ),
    "internvl": (
        "InternVLProcessor",
        ("got_ocr2", "GotOcr2ImageProcessor", {"size": {"height": 28, "width": 28}}),
        "<IMG_CONTEXT>",
        {"image_seq_length": 4},
        4,
    ),
}
NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch):
    monkeypatch.setattr(processors, "has_torchvision", lambda: False)


def tokenizer(image_token):
    marks = [image_token, "<video>", "<img>", "</img>", "<|video_pad|>"]
    marks += ["<|vision_start|>", "<|vision_end|>"]
    words = [*SPECIAL, *dict.fromkeys(marks), "what", "is", "this", "?"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    named = NAMED if image_token == NAMED["context_image_token"] else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(dict.fromkeys(marks)),
        **named,
    )


def build(family):
    """A tiny processor of a family, made in code."""
    name, (module, images, options), mark, extra, _ = FAMILIES[family]
    module = f"transformers.models.{module}.image_processing_pil_{module}"
    images = getattr(__import__(module, fromlist=[images]), f"{images}Pil")
    cls = getattr(transformers, name)
    if "video_processor" in cls.get_attributes():
        cls = image_only(cls)
    return cls(
        image_processor=images(**options),
        tokenizer=tokenizer(mark),
        chat_template=TEMPLATE.replace("MARK", mark),
        **extra,
    )


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    build(request.param).save_pretrained(tmp_path)
    return request.param, tmp_path


def test_a_saved_processor_loads_and_makes_tensors(saved):
    family, folder = saved
    name, _, mark, _, count = FAMILIES[family]
    processor = load_processor(folder)
    assert type(processor).__name__ == name
    assert isinstance(processor, getattr(transformers, name))
    assert type(processor.image_processor).__name__.endswith("Pil")
    prompt = Loaded(None, processor, "tiny").prompt("what is this ?")
    assert prompt.startswith(mark)
    image = Image.new("RGB", (28, 28), "red")
    out = processor(text=[prompt] * 2, images=[image] * 2, return_tensors="pt", padding=True)
    visual = (out["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert visual[0] == visual[1] >= 1
    assert count is None or visual[0] == count
    assert "pixel_values" in out


def test_a_loaded_processor_saves_what_loads_again(saved, tmp_path):
    _, folder = saved
    again = tmp_path / "again"
    load_processor(folder).save_pretrained(again)
    first, second = load_processor(folder), load_processor(again)
    assert type(first).__name__ == type(second).__name__
    assert first.chat_template == second.chat_template
    assert first.image_processor.to_dict() == second.image_processor.to_dict()


def test_videos_are_refused_with_advice(saved):
    family, folder = saved
    processor = load_processor(folder)
    if "video_processor" not in type(processor).get_attributes():
        pytest.skip("no slot for videos")
    with pytest.raises(ImportError, match="torchvision"):
        processor(text="what is this ?", videos=[[Image.new("RGB", (28, 28))]])
    with pytest.raises(ImportError, match="torchvision"):
        processor(None, "what is this ?", [[Image.new("RGB", (28, 28))]])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_a_folder_with_a_video_processor_loads_too(family, tmp_path):
    import json

    build(family).save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    described = json.loads(path.read_text())
    described["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
    path.write_text(json.dumps(described))
    processor = load_processor(tmp_path)
    assert processor.video_processor is None
    assert processor(text="what is this ?", images=None)["input_ids"]


def test_with_torchvision_auto_processor_does_it(monkeypatch):
    monkeypatch.setattr(processors, "has_torchvision", lambda: True)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda source: f"auto {source}")
    assert load_processor("anything") == "auto anything"


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    with pytest.raises((OSError, ValueError), match="nothing"):
        load_processor(tmp_path / "nothing")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_bundled_models_load(name):
    processor = load_processor(model_path(name))
    assert processor.tokenizer.convert_tokens_to_ids("dog") == 102
