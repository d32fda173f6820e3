"""`contrast`: goldens of the official code, a loop reference, the cut-off and the noise."""

import math

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.reweight.contrast import diffused, noised, pai_contrast, vcd_contrast


def check_golden(golden, contrast):
    cut = contrast == -torch.inf
    assert torch.equal(cut, golden["out_is_neg_inf"])
    assert (contrast.masked_fill(cut, 0) - golden["out_logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("path", golden_files("pai_cfg"))
def test_pai_golden(path):
    golden = load(path)
    branches = golden["logits_image"], golden["logits_text_only"]
    check_golden(golden, pai_contrast(*branches, golden["gamma"], golden["plausibility"]))


@pytest.mark.parametrize("path", golden_files("vcd"))
def test_vcd_golden(path):
    golden = load(path)
    branches = golden["logits_image"], golden["logits_noised"]
    check_golden(golden, vcd_contrast(*branches, golden["alpha"], golden["beta"]))
    image = diffused(golden["image"], golden["noise"], golden["noise_step"])
    assert (image - golden["noised_image"]).abs().max() < 1e-4


def branches(seed, rows=3, words=20):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(2, rows, words, generator=generator)


def loop(image, other, combine, log, beta):
    """One row in plain Python; log-probabilities if `log`."""

    def norm(row):
        return math.log(sum(math.exp(x) for x in row)) if log else 0

    image, other = [x - norm(image) for x in image], [x - norm(other) for x in other]
    floor = max(image) + math.log(beta)
    return [combine(i, o) if i >= floor else -math.inf for i, o in zip(image, other, strict=True)]


def test_contrasts_equal_a_loop():
    image, other = branches(0)
    pai, vcd = pai_contrast(image, other, 1.3, 0.05), vcd_contrast(image, other, 0.7, 0.05)
    for row in range(3):
        a, b = image[row].tolist(), other[row].tolist()
        expected = loop(a, b, lambda i, o: 1.3 * (i - o) + o, True, 0.05)
        assert torch.allclose(pai[row], torch.tensor(expected), atol=1e-5)
        expected = loop(a, b, lambda i, o: 1.7 * i - 0.7 * o, False, 0.05)
        assert torch.allclose(vcd[row], torch.tensor(expected), atol=1e-5)


def test_neutral_strengths_keep_the_image():
    image, other = branches(1)
    for contrast, plain in (
        (pai_contrast(image, other, 1.0), image.log_softmax(-1)),
        (vcd_contrast(image, other, 0.0), image),
    ):
        kept = contrast.isfinite()
        assert kept.any(dim=-1).all()
        assert (contrast - plain)[kept].abs().max() < 1e-5
        assert torch.equal(contrast.argmax(-1), image.argmax(-1))


def test_forbidden_tokens_stay_forbidden_and_finite_ones_finite():
    image, other = branches(2)
    image[:, 3], other[:, 3:6] = -torch.inf, -torch.inf
    for contrast in (pai_contrast(image, other, 1.5), vcd_contrast(image, other)):
        assert not contrast.isnan().any()
        assert (contrast[:, 3] == -torch.inf).all()
        assert contrast.isfinite().any(dim=-1).all()
        assert (contrast < torch.inf).all()


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.1])
def test_wrong_cut_off(beta):
    with pytest.raises(ValueError, match="beta=.* pass a share above 0"):
        vcd_contrast(*branches(3), beta=beta)


def test_noise_follows_its_generator_and_grows():
    pixels = torch.rand(2, 3, 8, 8, dtype=torch.bfloat16)
    once, again = (noised(pixels, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == pixels.shape
    assert once.dtype == pixels.dtype
    pixels, noise = pixels.float(), torch.randn(2, 3, 8, 8)
    away = [(diffused(pixels, noise, step) - pixels).abs().mean() for step in (0, 200, 500, 999)]
    assert away == sorted(away)
    with pytest.raises(ValueError, match="step=1000"):
        noised(pixels, step=1000)
