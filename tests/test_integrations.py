"""Works unchanged under PEFT, torch.compile, pipelines and accelerate's hooks."""

import pytest
import torch
from tiny_models import prompts, tiny_llava
from tiny_probe import tiny_processor
from transformers import pipeline

from lvlm_prune import attach
from lvlm_prune.methods import METHODS

KEEP = 9


@pytest.fixture
def expected():
    """Pruned answer of the plain model."""
    model = tiny_llava()
    inputs = prompts("tit", "ttitt")
    with attach(model, method="cls", keep=KEEP):
        return model.generate(**inputs, max_new_tokens=4), model(**inputs).logits


def check(model, attached, expected):
    """The wrapped model prunes as the plain one does."""
    inputs = prompts("tit", "ttitt")
    with attach(attached, method="cls", keep=KEEP) as handle:
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), expected[0])
        logits = model(**inputs).logits
        assert handle.report.tokens_after == 2 * KEEP
    assert logits.shape == expected[1].shape
    assert (logits - expected[1])[:, -1].abs().max() < 1e-5


# peft and the checkpointing switch use names that transformers 5.23 renames; 5.18 has only these.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("on", ["wrapper", "base"])
def test_peft(expected, on):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = tiny_llava()
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(base, config).eval()
    check(wrapped, wrapped if on == "wrapper" else base, expected)


@pytest.mark.parametrize("on", ["wrapper", "base"])
def test_torch_compile(expected, on):
    base = tiny_llava()
    wrapped = torch.compile(base, backend="eager")
    check(wrapped, wrapped if on == "wrapper" else base, expected)


@pytest.mark.parametrize("order", ["hooks first", "attach first"])
@pytest.mark.parametrize("kind", ["align", "cpu offload", "dispatch"])
def test_accelerate(expected, kind, order):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    model = tiny_llava()

    def wrap():
        if kind == "align":
            hook = accelerate.hooks.AlignDevicesHook(io_same_device=True)
            accelerate.hooks.add_hook_to_module(model, hook)
        elif kind == "cpu offload":
            accelerate.cpu_offload(model, execution_device="cpu")
        else:
            names = ("model.vision_tower", "model.multi_modal_projector", "model.language_model")
            device_map = dict.fromkeys((*names, "lm_head"), "cpu")
            accelerate.dispatch_model(model, device_map, force_hooks=True)

    if order == "hooks first":
        wrap()
        check(model, model, expected)
        return
    handle = attach(model, method="cls", keep=KEEP)
    wrap()
    assert torch.equal(model.generate(**prompts("tit", "ttitt"), max_new_tokens=4), expected[0])
    handle.detach()


def test_pipeline():
    from PIL import Image

    model = tiny_llava()
    pipe = pipeline("image-text-to-text", model=model, processor=tiny_processor())
    message = {
        "role": "user",
        "content": [
            {"type": "image", "image": Image.new("RGB", (60, 50), "orange")},
            {"type": "text", "text": "is there a cat"},
        ],
    }
    plain = pipe(text=[message], max_new_tokens=5, return_full_text=False)
    with attach(pipe.model, method="cls", keep=KEEP) as handle:
        pruned = pipe(text=[message], max_new_tokens=5, return_full_text=False)
        assert handle.report.tokens_before == 36
        assert handle.report.tokens_after == KEEP
    assert len(pruned[0]["generated_text"].split()) == 5
    again = pipe(text=[message], max_new_tokens=5, return_full_text=False)
    assert again == plain
    assert pruned != plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    model = tiny_llava().to(dtype)
    inputs = prompts("tit", "ttitt")
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    for method in (name for name, method in METHODS.items() if method.drops):
        with attach(model, method=method, keep=KEEP) as handle:
            out = model(**inputs)
            assert handle.report.tokens_after == 2 * KEEP
        assert out.logits.dtype == dtype
        assert out.logits[:, -1].isfinite().all()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@torch.no_grad()
def test_inference_mode_and_gradient_checkpointing():
    model = tiny_llava()
    inputs = prompts("tit")
    with attach(model, method="cls", keep=KEEP):
        expected = model(**inputs).logits
        with torch.inference_mode():
            assert torch.equal(model(**inputs).logits, expected)
    model.gradient_checkpointing_enable()
    model.train()
    with attach(model, method="cls", keep=KEEP), torch.enable_grad():
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.abs().max() > 0
