"""The word-level tokenizer that the small models share.

In: the name of a family's image token and the special tokens it adds. Out: a fast tokenizer; a word
has the same id in every family, because added tokens come last. It knows nothing of models.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from words import vocabulary

PAD, BOS, EOS, UNK, IMAGE = range(5)

# LLaVA-1.5's template with the family's image marker; plain strings are accepted as content too.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ 'MARKER\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def chat_template(marker: str) -> str:
    """The chat template; `marker` is what stands for an image before the processor expands it."""
    return _CHAT_TEMPLATE.replace("MARKER", marker)


def words_of(image_token: str = "<image>", added: tuple[str, ...] = ()) -> list[str]:
    """The vocabulary of a family in the order of the ids."""
    return [image_token if i == IMAGE else w for i, w in enumerate(vocabulary())] + list(added)


def build_tokenizer(
    image_token: str = "<image>",
    added: tuple[str, ...] = (),
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer with left padding, which adds `<s>` at the front.

    Args:
        image_token: the placeholder of one visual token, id 4.
        added: special tokens after the shared vocabulary.
        named: special tokens by attribute name, for processors that look for them.
    """
    words = {word: i for i, word in enumerate(words_of(image_token, added))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[image_token, *added],
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        **(named or {}),
    )
