"""`cls` and `vtc_cls`: goldens, a loop reference, ties and layers."""

import pytest
import torch
from goldens import golden_files, load

from lvlm_prune.methods import METHODS, EncoderShape
from lvlm_prune.methods.cls import cls_scores
from lvlm_prune.methods.vtc_cls import vtc_scores
from lvlm_prune.select import top_rows

SHAPE = EncoderShape(depth=24, feature_layer=22, has_cls=True)


@pytest.mark.parametrize("path", golden_files("fastervlm"))
def test_fastervlm_golden(path):
    golden = load(path)
    kept = top_rows(cls_scores(golden["cls_attn"][None]), golden["T"])
    assert kept[0].tolist() == golden["kept"].tolist()


@pytest.mark.parametrize("path", golden_files("vtc_cls"))
def test_vtc_cls_golden(path):
    golden = load(path)
    shape = EncoderShape(golden["num_layers"], golden["num_layers"] - 2, True)
    method = METHODS["vtc_cls"]
    request = method.request(shape, {"start_layer": golden["start_layer"]})
    rows = golden["cls_attn"][list(request.cls_layers)]
    scores = vtc_scores(rows[None])
    assert (scores[0] - golden["scores"]).abs().max() < 1e-5
    assert top_rows(scores, golden["T"])[0].tolist() == golden["kept"].tolist()


def test_scores_equal_a_loop():
    cls = torch.rand(2, 3, 4, 7)
    for image in range(2):
        for token in range(7):
            layers = [
                sum(cls[image, layer, head, token] for head in range(4)) / 4 for layer in range(3)
            ]
            assert abs(vtc_scores(cls)[image, token] - sum(layers)) < 1e-6
            assert abs(cls_scores(cls[:, 0])[image, token] - layers[0]) < 1e-6


def test_default_layers_are_those_of_the_papers():
    assert METHODS["cls"].request(SHAPE, {"layer": None}).cls_layers == (22,)
    assert METHODS["cls"].request(SHAPE, {"layer": -1}).cls_layers == (23,)
    default = {"start_layer": None}
    assert METHODS["vtc_cls"].request(SHAPE, default).cls_layers == tuple(range(16, 23))
    shallow = EncoderShape(depth=5, feature_layer=3, has_cls=True)
    assert METHODS["vtc_cls"].request(shallow, default).cls_layers == (2, 3)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("cls", {"layer": 24}, "outside the encoder's 24 layers"),
        ("vtc_cls", {"start_layer": 23}, "leaves no layer before the last"),
    ],
)
def test_layers_outside_the_encoder_are_named(method, options, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method].request(SHAPE, options)


def test_ties_go_to_the_earlier_row():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 1.0]])
    assert top_rows(scores, 2).tolist() == [[1, 2]]
    assert top_rows(torch.zeros(1, 500), 3).tolist() == [[0, 1, 2]]
