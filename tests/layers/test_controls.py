"""Random tokens inside the LLM: a fair draw, and the same one whatever stands beside a prompt."""

from dataclasses import replace

import torch
from layers.layer_makers import choose, prompt

from lvlm_prune.layers.controls import RANDOM, image_number


def drawn(seed=0, images=(9, 7), keep=(4, 3), number=0, layer=3):
    signals = prompt(images=images, seed=number, layer=layer)
    return choose(RANDOM, signals, keep, seed=seed).kept.tolist()


def test_a_draw_depends_on_seed_layer_and_image_alone():
    assert drawn() == drawn()
    draws = {tuple(drawn(**change)) for change in ({}, {"seed": 1}, {"layer": 2}, {"number": 5})}
    assert len(draws) == 4


def test_noise_of_another_batch_size_changes_nothing():
    signals = prompt(images=(9, 7))
    entered = signals.entered * (1 + 1e-6 * torch.randn(signals.entered.shape))
    noisy = replace(signals, entered=entered, hidden=torch.randn(signals.hidden.shape))
    assert choose(RANDOM, noisy, (4, 3)).kept.tolist() == drawn()


def test_every_token_is_drawn_equally_often():
    counts = torch.zeros(9)
    for seed in range(600):
        kept = choose(RANDOM, prompt(images=(9,)), (3,), seed=seed).kept
        counts[kept - 3] += 1
    assert counts.sum() == 1800
    # Binomial with p = 1/3: four standard deviations.
    assert ((counts - 200).abs() < 4 * (600 * 2 / 9) ** 0.5).all()


def test_images_of_other_content_have_other_numbers():
    numbers = {image_number(torch.randn(20, 8)) for _ in range(50)}
    assert len(numbers) == 50
    assert image_number(torch.zeros(1, 8)) == image_number(torch.ones(1, 8))
