"""CLIP embeddings of patches and questions: how well a patch fits the prompt, in CLIP's own space.

CLIP's image and text towers were trained into one space, and LLaVA keeps only the image tower.
`ClipText` adds the rest: `visual_projection(post_layernorm(rows))` of the encoder rows that enter
the projector, and the text tower on the question. In: encoder rows `[I, N, d]` and the LLM's ids of
each question. Out: embeddings `[I, N, e]` and, for each question, `[M, e]`, float32, neither
normalised nor compared; that is the method's business.

A question longer than the text tower's context (77 tokens) is cut into pieces, each with its own
start and end token, so that each is a text as CLIP knows them. (CDPruner's code, arXiv:2506.10967,
cuts the ids in rows of 77, so that only the first row has a start token and only the last one an
end token; a question of at most 77 tokens comes out the same.)

The CLIP model must be the one that the vision encoder came from. For LLaVA-1.5 from transformers:

    clip = CLIPModel.from_pretrained("openai/clip-vit-large-patch14-336")
    names = AutoTokenizer.from_pretrained("openai/clip-vit-large-patch14-336")
    clip_text = ClipText.from_transformers(clip, names, processor.tokenizer)
    attach(model, method="cdpruner", options={"relevance": "clip"}, clip=clip_text)

or from open_clip, the `clip` extra, where the openai weights need the quickgelu model:

    clip = open_clip.create_model("ViT-L-14-336-quickgelu", pretrained="openai")
    names = open_clip.get_tokenizer("ViT-L-14-336-quickgelu")
    clip_text = ClipText.from_open_clip(clip, names, processor.tokenizer)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipText:
    """A CLIP model's projection of patches and its text tower.

    Args:
        project: encoder rows `[..., d]` to embeddings `[..., e]`.
        embed: ids of texts, `[P, T]`, to embeddings `[P, e]`.
        encode: CLIP ids of a text, without start and end.
        decode: text of the LLM's ids, without special tokens.
        width: d, the width of an encoder row.
        length: longest text in CLIP tokens, with start and end.
        ends: start, end and padding id.
        fixed: whether the text tower takes texts of exactly `length`.
    """

    project: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    encode: Callable[[str], list[int]]
    decode: Callable[[Tensor], str]
    width: int
    length: int
    ends: tuple[int, int, int]
    fixed: bool = False

    @classmethod
    def from_transformers(
        cls, clip: Any, clip_tokenizer: Any, llm_tokenizer: Any, vision: Any = None
    ) -> "ClipText":
        """Take the towers of transformers.

        Args:
            clip: `CLIPModel`, or `CLIPTextModelWithProjection` together with `vision`.
            clip_tokenizer: its tokenizer.
            llm_tokenizer: the tokenizer of the vision-language model, `processor.tokenizer`.
            vision: `CLIPVisionModelWithProjection`; None takes the projection of `clip`.
        """
        image = clip if vision is None else vision
        _need(image, "visual_projection", "vision_model")
        _need(clip, "text_projection", "text_model")
        weight = image.visual_projection.weight

        def project(rows: Tensor) -> Tensor:
            return image.visual_projection(image.vision_model.post_layernorm(rows.to(weight)))

        def embed(ids: Tensor) -> Tensor:
            pooled = clip.text_model(input_ids=ids.to(clip.device)).pooler_output
            return clip.text_projection(pooled)

        def encode(text: str) -> list[int]:
            # verbose warns of texts longer than the context, which are cut into pieces here.
            return clip_tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

        # The tower pools at the first end token of a text, so more of them may follow as padding.
        start, end = clip_tokenizer.bos_token_id, clip_tokenizer.eos_token_id
        return cls(
            project=project,
            embed=embed,
            encode=encode,
            decode=_decoder(llm_tokenizer),
            width=weight.shape[1],
            length=clip.text_model.config.max_position_embeddings,
            ends=(start, end, end),
        )

    @classmethod
    def from_open_clip(cls, clip: Any, clip_tokenizer: Any, llm_tokenizer: Any) -> "ClipText":
        """Take the towers of open_clip.

        Args:
            clip: a model of `open_clip.create_model` with a ViT encoder.
            clip_tokenizer: `open_clip.get_tokenizer` of the same name.
            llm_tokenizer: the tokenizer of the vision-language model, `processor.tokenizer`.
        """
        _need(clip, "encode_text", "visual")
        _need(clip.visual, "ln_post", "proj")
        _need(clip_tokenizer, "encode", "sot_token_id", "eot_token_id")

        def project(rows: Tensor) -> Tensor:
            proj = clip.visual.proj
            return clip.visual.ln_post(rows.to(proj)) @ proj

        def embed(ids: Tensor) -> Tensor:
            return clip.encode_text(ids.to(clip.logit_scale.device))

        return cls(
            project=project,
            embed=embed,
            encode=clip_tokenizer.encode,
            decode=_decoder(llm_tokenizer),
            width=clip.visual.proj.shape[0],
            length=clip.context_length,
            ends=(clip_tokenizer.sot_token_id, clip_tokenizer.eot_token_id, 0),
            fixed=True,
        )

    @torch.no_grad()
    def embed_patches(self, hidden: Tensor) -> Tensor:
        """Embed encoder rows in CLIP's space.

        Args:
            hidden: rows of the projected layer, `[I, N, d]`.

        Returns:
            `[I, N, e]`, float32, on the device of `hidden`.

        Raises:
            ValueError: rows of another width than the CLIP model's.
        """
        if hidden.shape[-1] != self.width:
            raise ValueError(
                f"encoder rows are {hidden.shape[-1]} wide and this CLIP model takes {self.width}; "
                "pass the CLIP model that the vision encoder came from, with one projected layer"
            )
        return self.project(hidden).to(hidden.device, torch.float32)

    @torch.no_grad()
    def embed_questions(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """Embed questions, each in pieces that fit the text tower.

        Args:
            ids: the LLM's ids of each question, `[T]`.

        Returns:
            For each question `[M, e]`, float32, on the device of its ids; M is 1 up to 75 tokens
            of text, and also for no text at all.
        """
        pieces = [self._pieces(self.decode(row)) for row in ids]
        # Several images of a prompt have the same question: each text goes through the tower once.
        unique = list(dict.fromkeys(piece for question in pieces for piece in question))
        if not unique:
            return []
        place = {piece: index for index, piece in enumerate(unique)}
        embedded = self.embed(self._padded(unique)).float()
        return [
            embedded[[place[piece] for piece in question]].to(row.device)
            for question, row in zip(pieces, ids, strict=True)
        ]

    def _pieces(self, text: str) -> list[tuple[int, ...]]:
        """CLIP ids of a text in pieces of at most `length`, start and end included."""
        start, end, _ = self.ends
        ids, room = self.encode(text), self.length - 2
        return [
            (start, *ids[first : first + room], end) for first in range(0, max(1, len(ids)), room)
        ]

    def _padded(self, pieces: list[tuple[int, ...]]) -> Tensor:
        """Ids of pieces padded to one length, `[P, T]`."""
        longest = self.length if self.fixed else max(map(len, pieces))
        pad = self.ends[2]
        return torch.tensor([[*piece, *[pad] * (longest - len(piece))] for piece in pieces])


def _decoder(tokenizer: Any) -> Callable[[Tensor], str]:
    """Text of ids without start, padding and placeholder tokens."""

    def decode(ids: Tensor) -> str:
        return tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()

    return decode


def _need(part: Any, *names: str) -> None:
    """Raise where a model or tokenizer lacks what is read from it."""
    missing = [name for name in names if getattr(part, name, None) is None]
    if missing:
        raise TypeError(
            f"{type(part).__name__} has no {' and '.join(missing)}; ClipText.from_transformers "
            "takes CLIPModel, or CLIPTextModelWithProjection with "
            "vision=CLIPVisionModelWithProjection; ClipText.from_open_clip takes a ViT model of "
            "open_clip with its own tokenizer"
        )
