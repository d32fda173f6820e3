"""CLIP embeddings of patches and questions equal what the CLIP model itself gives."""

import pytest
import torch
from tiny_models import IMAGE_TOKEN
from tiny_probe import tiny_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from lvlm_prune.clip_text import ClipText

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
