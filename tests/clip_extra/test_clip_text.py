"""ClipText over open_clip's towers and its own tokenizer."""

import pytest
import torch
from clip_extra.tiny_open_clip import as_transformers, tiny_open_clip

from lvlm_prune.clip_text import ClipText

pytestmark = pytest.mark.usefixtures("open_clip")

SHORT = "Is there a red bus in the image?"
LONG = "Please answer yes or no: " + ", then ".join([SHORT] * 20)


class Codes:
    """A stand-in for the LLM's tokenizer: ids are character codes."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(code) for code in ids)


def ids(text: str) -> torch.Tensor:
    return torch.tensor([ord(letter) for letter in text])


@pytest.fixture(scope="module")
def clip(open_clip):
    return tiny_open_clip()


@pytest.fixture(scope="module")
def tokenizer(open_clip):
    return open_clip.get_tokenizer("ViT-L-14-336-quickgelu")


@pytest.fixture(scope="module")
def clip_text(clip, tokenizer) -> ClipText:
    return ClipText.from_open_clip(clip, tokenizer, Codes())


@torch.no_grad()
def test_a_row_goes_where_open_clip_sends_its_cls_token(clip, clip_text):
    pixels = torch.randn(2, 3, 42, 42)
    own = clip.visual.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
    cls, patches = own["image_intermediates_prefix"][-1], own["image_intermediates"][-1]
    embedded = clip_text.embed_patches(torch.cat([cls, patches], dim=1))
    assert embedded.shape == (2, 37, 16)
    assert (embedded[:, 0] - clip.encode_image(pixels)).abs().max() < 1e-6


@torch.no_grad()
def test_a_question_gets_open_clips_own_embedding(clip, tokenizer, clip_text):
    (embedded,) = clip_text.embed_questions([ids(SHORT)])
    assert embedded.shape == (1, 16)
    assert (embedded - clip.encode_text(tokenizer([SHORT]))).abs().max() < 1e-6


@torch.no_grad()
def test_a_long_question_is_cut_into_whole_texts(clip, tokenizer, clip_text):
    words = tokenizer.encode(LONG)
    (embedded,) = clip_text.embed_questions([ids(LONG)])
    assert len(embedded) == -(-len(words) // 75) > 2
    for place, row in enumerate(embedded):
        piece = words[75 * place : 75 * place + 75]
        text = [tokenizer.sot_token_id, *piece, tokenizer.eot_token_id]
        text += [0] * (77 - len(text))
        assert (row - clip.encode_text(torch.tensor([text]))[0]).abs().max() < 1e-6
    # The last place of CLIP's own truncation is the end token: the same first piece.
    assert (embedded[0] - clip.encode_text(tokenizer([LONG]))[0]).abs().max() < 1e-6


def test_equals_the_same_weights_in_transformers(clip, clip_text):
    class Names:
        """open_clip's tokenizer, spoken to as transformers speaks to its own."""

        bos_token_id, eos_token_id = 49406, 49407

        def __call__(self, text: str, add_special_tokens: bool, verbose: bool) -> dict:
            return {"input_ids": clip_text.encode(text)}

    other = ClipText.from_transformers(as_transformers(clip), Names(), Codes())
    rows = torch.randn(2, 5, 32)
    assert (other.embed_patches(rows) - clip_text.embed_patches(rows)).abs().max() < 1e-5
    questions = [ids(SHORT), ids(LONG), ids("")]
    pairs = zip(other.embed_questions(questions), clip_text.embed_questions(questions), strict=True)
    for first, second in pairs:
        assert first.shape == second.shape
        assert (first - second).abs().max() < 1e-5


def test_an_encoder_or_tokenizer_of_another_kind_is_refused(clip, tokenizer):
    with pytest.raises(TypeError, match="object has no encode and sot_token_id and eot_token_id"):
        ClipText.from_open_clip(clip, object(), Codes())
    with pytest.raises(TypeError, match="VisionTransformer has no encode_text and visual"):
        ClipText.from_open_clip(clip.visual, tokenizer, Codes())
