"""CLIP embeddings of patches and questions equal what the CLIP model itself gives."""

import sys

import pytest
import torch
from tiny_models import IMAGE_TOKEN, prompts, tiny_llava
from tiny_probe import tiny_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from lvlm_prune import attach
from lvlm_prune.adapters.open_clip import use_open_clip
from lvlm_prune.clip_text import ClipText
from lvlm_prune.methods import cdpruner
from lvlm_prune.signals import Signals, row_norms

LENGTH = 12
WORDS = ["cat", "dog", "bus", "is", "there", "a", "in", "the", "image", "?", "[unk]"]


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the tiny processor, with CLIP's start and end tokens after them."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<start>", "<end>"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<start>", eos_token="<end>", model_max_length=LENGTH
    )


@pytest.fixture(scope="module", params=["end token", "largest id"])
def clip(request) -> CLIPModel:
    """A random CLIP model; the old configs say eos_token_id=2 and pool at the largest id."""
    end = clip_tokenizer().eos_token_id
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": end + 1,
            "max_position_embeddings": LENGTH,
            "bos_token_id": end - 1,
            "eos_token_id": end if request.param == "end token" else 2,
        },
        vision_config={**shape, "hidden_size": 32, "image_size": 28, "patch_size": 7},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def clip_text(clip) -> ClipText:
    return ClipText.from_transformers(clip, clip_tokenizer(), tiny_processor().tokenizer)


def ids(text: str) -> torch.Tensor:
    """The LLM's ids of a text."""
    return tiny_processor().tokenizer(text, return_tensors="pt").input_ids[0]


@torch.no_grad()
def own(clip: CLIPModel, row: list[int]) -> torch.Tensor:
    """CLIP's own embedding of one text, `[e]`."""
    return clip.get_text_features(input_ids=torch.tensor([row])).pooler_output[0]


@torch.no_grad()
def test_a_row_goes_where_clip_sends_its_cls_token(clip, clip_text):
    pixels = torch.randn(2, 3, 28, 28)
    rows = clip.vision_model(pixels).last_hidden_state
    embedded = clip_text.embed_patches(rows)
    assert embedded.shape == (2, 17, 8)
    expected = clip.get_image_features(pixel_values=pixels).pooler_output
    assert (embedded[:, 0] - expected).abs().max() < 1e-6


def test_a_question_gets_clips_own_embedding(clip, clip_text):
    (embedded,) = clip_text.embed_questions([ids("is there a dog in the image ?")])
    tokens = clip_tokenizer()
    row = tokens("<start> is there a dog in the image ? <end>").input_ids
    assert embedded.shape == (1, 8)
    assert (embedded[0] - own(clip, row)).abs().max() < 1e-6


def test_a_long_question_is_cut_into_whole_texts(clip, clip_text):
    question = "is there a cat in the image ? is there a dog in the image ? there is a bus ?"
    (embedded,) = clip_text.embed_questions([ids(question)])
    words = question.split()
    assert len(words) == 21
    assert embedded.shape == (3, 8)
    tokens = clip_tokenizer()
    for place, piece in enumerate([words[:10], words[10:20], words[20:]]):
        row = tokens(" ".join(["<start>", *piece, "<end>"])).input_ids
        assert (embedded[place] - own(clip, row)).abs().max() < 1e-6


@pytest.mark.parametrize(("words", "pieces"), [(9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_pieces_are_as_few_as_fit(clip_text, words, pieces):
    (embedded,) = clip_text.embed_questions([ids(" ".join(["cat"] * words))])
    assert len(embedded) == pieces


def test_special_tokens_of_the_llm_are_no_words(clip_text):
    plain = ids("a cat")
    image = torch.tensor([IMAGE_TOKEN])
    wrapped = torch.cat([torch.tensor([0, 1]), image, plain, image, torch.tensor([2])])
    first, second = clip_text.embed_questions([plain, wrapped])
    assert torch.equal(first, second)


def test_no_text_is_one_piece(clip, clip_text):
    (embedded,) = clip_text.embed_questions([torch.tensor([1, IMAGE_TOKEN])])
    row = clip_tokenizer()("<start> <end>").input_ids
    assert (embedded[0] - own(clip, row)).abs().max() < 1e-6
    assert clip_text.embed_questions([]) == []


def test_a_question_does_not_see_its_neighbours(clip_text):
    texts = ["a cat ?", " ".join(["dog", "bus"] * 9), "a cat ?", "is there a bus in the image ?"]
    together = clip_text.embed_questions([ids(text) for text in texts])
    for text, embedded in zip(texts, together, strict=True):
        (alone,) = clip_text.embed_questions([ids(text)])
        assert alone.shape == embedded.shape
        assert (alone - embedded).abs().max() < 1e-6
    assert torch.equal(together[0], together[2])
    assert (together[0] - together[3]).abs().max() > 1e-3


def test_the_two_halves_give_what_the_whole_model_gives(clip, clip_text):
    text = CLIPTextModelWithProjection(clip.config.text_config).eval()
    vision = CLIPVisionModelWithProjection(clip.config.vision_config).eval()
    weights = clip.state_dict()
    for half in (text, vision):
        half.load_state_dict({name: weights[name] for name in half.state_dict()})
    halves = ClipText.from_transformers(
        text, clip_tokenizer(), tiny_processor().tokenizer, vision=vision
    )
    rows = torch.randn(1, 4, 32)
    assert torch.equal(halves.embed_patches(rows), clip_text.embed_patches(rows))
    question = [ids("is there a dog ?")]
    assert torch.equal(halves.embed_questions(question)[0], clip_text.embed_questions(question)[0])


@torch.no_grad()
def test_cdpruner_ranks_by_these_embeddings(clip, clip_text):
    model = tiny_llava()
    inputs = prompts("itt", "ttit")
    with attach(
        model, method="cdpruner", keep=7, options={"relevance": "clip"}, clip=clip_text
    ) as handle:
        model(**inputs)
        kept = torch.stack(handle.report.kept)
    states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    hidden = states.hidden_states[-2][:, 1:]
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    # Each row of the prompt has one image; its question is what stands behind the image.
    questions = []
    for row in inputs["input_ids"]:
        last = int((row == IMAGE_TOKEN).nonzero()[-1])
        words = tiny_processor().tokenizer.decode(row[last + 1 :]).split()
        start, end = clip_tokenizer().bos_token_id, clip_tokenizer().eos_token_id
        questions.append(own(clip, [start, *clip_tokenizer()(" ".join(words)).input_ids, end]))
    signals = Signals(
        features=torch.stack(list(features)),
        hidden=hidden,
        grid=(6, 6),
        norms=row_norms(hidden),
        clip_image=clip.visual_projection(clip.vision_model.post_layernorm(hidden)),
        clip_text=[question[None] for question in questions],
    )
    assert torch.equal(kept, cdpruner.select(signals, 7, relevance="clip").kept)
    assert not torch.equal(kept, cdpruner.select(signals, 7, relevance="none").kept)


def test_half_precision_rows_give_float32_without_gradients(clip_text):
    rows = torch.randn(1, 4, 32, requires_grad=True)
    embedded = clip_text.embed_patches(rows.to(torch.bfloat16))
    assert embedded.dtype == torch.float32
    assert not embedded.requires_grad
    assert (embedded - clip_text.embed_patches(rows)).abs().max() < 0.05
    assert not clip_text.embed_questions([ids("a cat")])[0].requires_grad


def test_rows_of_another_encoder_are_refused(clip_text):
    with pytest.raises(ValueError, match="16 wide and this CLIP model takes 32"):
        clip_text.embed_patches(torch.randn(1, 4, 16))


def test_a_text_tower_alone_is_refused(clip):
    text = CLIPTextModelWithProjection(clip.config.text_config)
    with pytest.raises(TypeError, match="no visual_projection and vision_model"):
        ClipText.from_transformers(text, clip_tokenizer(), tiny_processor().tokenizer)


def test_without_open_clip_its_encoders_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setitem(sys.modules, "open_clip.transformer", None)
    with pytest.raises(ImportError, match=r"lvlm-prune\[clip\]"):
        use_open_clip(tiny_llava(), torch.nn.Identity())
