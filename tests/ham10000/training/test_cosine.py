"""The cosine classifier: the scaled cosine, and the head that it takes the place of."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from examples.ham10000.model import CosineClassifier, build_network, use_cosine_classifier


def test_cosine_classifier_is_the_scaled_cosine():
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 3, scale=7, dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64)
    x, w = features.numpy(), classifier.weight.detach().numpy()
    expected = [[7 * (a @ b) / math.sqrt((a @ a) * (b @ b)) for b in w] for a in x]
    np.testing.assert_allclose(
        classifier(features).detach().numpy(), expected, rtol=1e-9, atol=1e-12
    )
    assert classifier(3 * classifier.weight).diagonal().tolist() == pytest.approx([7] * 3)


def test_gradients_of_the_cosine_classifier():
    classifier = CosineClassifier(5, 3, dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def forward(features, weight):
        return torch.func.functional_call(classifier, {"weight": weight}, features)

    torch.autograd.gradcheck(forward, (features, classifier.weight))


FACTORS = st.floats(-6, 6).map(lambda power: 10**power)


@settings(max_examples=30)
@given(rows=st.lists(FACTORS, min_size=4, max_size=4), classes=st.lists(FACTORS, min_size=3))
def test_cosines_do_not_see_lengths(rows, classes):
    classifier = CosineClassifier(5, len(classes), dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64)
    expected = classifier(features)
    with torch.no_grad():
        classifier.weight.mul_(torch.tensor(classes, dtype=torch.float64)[:, None])
    scaled = features * torch.tensor(rows, dtype=torch.float64)[:, None]
    torch.testing.assert_close(classifier(scaled), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_features_give_zeros_in_the_gradient_too(dtype):
    classifier = CosineClassifier(5, 3, dtype=dtype)
    features = torch.eye(2, 5, dtype=dtype)
    features[0] = 0
    features.requires_grad_()
    logits = classifier(features)
    logits.sum().backward()
    assert logits[0].tolist() == [0] * 3
    assert features.grad[0].tolist() == [0] * 5
    assert features.grad[1].abs().amax() > 0
    assert classifier.weight.grad.isfinite().all()


def test_class_weights_start_in_all_directions():
    torch.manual_seed(0)
    weight = CosineClassifier(3, 4000).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4000))
    # In three dimensions each coordinate of a uniform direction is uniform on [-1, 1].
    for coordinate in weight.T:
        counts = torch.histc(coordinate, 10, -1, 1)
        assert counts.min() > 330
        assert counts.max() < 470


@pytest.mark.parametrize(
    "name", ["tv/mobilenet_v3_small", "tv/resnet18", "timm/mobilenetv3_small_050"]
)
def test_a_network_gets_a_cosine_classifier(name):
    network = build_network(name, 7, "none", "none")
    model = network.model.double().eval()
    (head,) = network.head
    before = dict(model.named_modules())
    use_cosine_classifier(model, network.head, 5)
    after = dict(model.named_modules())
    assert [n for n in before if after[n] is not before[n]] == [head]
    assert before.keys() == after.keys()

    features = []
    model.get_submodule(head).register_forward_hook(lambda _, inputs, __: features.extend(inputs))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        weight = after[head].weight
        cosines = torch.cosine_similarity(features[0][:, None], weight[None], dim=2)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, 30 * cosines)


def test_the_cosine_classifier_is_made_where_the_linear_layer_was():
    model = nn.Sequential(nn.Linear(3, 2, device="meta", dtype=torch.bfloat16))
    use_cosine_classifier(model, ("0",), 2)
    assert isinstance(model[0], CosineClassifier)
    assert (model[0].weight.device.type, model[0].weight.dtype) == ("meta", torch.bfloat16)


def test_a_convolution_as_head_is_refused():
    network = build_network("tv/squeezenet1_0", 7, "none", "none")
    message = r"^a cosine classifier replaces one Linear head; got classifier\.1 \(Conv2d\)$"
    with pytest.raises(ValueError, match=message):
        use_cosine_classifier(network.model, network.head, 7)
