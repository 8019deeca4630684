"""What the modules of a network return, and that nothing is changed while it is learnt."""

import weakref

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from attnblocks.swap.observe import observe, run, undisturbed

IMAGES = torch.rand(2, 3, 32, 24)


class Net(nn.Module):
    """Runs one convolution twice, another never, and remembers things."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.never = nn.Conv2d(8, 8, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, 2)
        self.register_buffer("runs", torch.zeros(()))
        self.sizes: list[torch.Size] = []
        self.latest = None

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.sizes.append(x.shape)
        self.latest = x
        x = self.twice(self.twice(self.first(x)))
        return self.head(self.last(self.pool(x)).flatten(1))


class LooksAtValues(Net):
    """Cannot run with shapes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum().item() > -1e9 else -x)


class CannotBeCopied(Net):
    def __deepcopy__(self, memo):
        raise RuntimeError("not me")


class CannotBeCopiedAndLooksAtValues(CannotBeCopied, LooksAtValues):
    """Runs itself."""


NETWORKS = [Net, LooksAtValues, CannotBeCopied, CannotBeCopiedAndLooksAtValues]


def snapshot(model: nn.Module) -> list:
    """All that there is in the modules, with the values of tensors."""
    return [
        (id(module), key, type(value), value.clone() if isinstance(value, Tensor) else repr(value))
        for module in model.modules()
        for key, value in vars(module).items()
    ] + [(id(t), key, t._version, t.clone()) for key, t in model.state_dict(keep_vars=True).items()]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x[:3] == y[:3] and (torch.equal(x[3], y[3]) if isinstance(x[3], Tensor) else x[3] == y[3])
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("cls", NETWORKS)
def test_what_modules_return(cls):
    seen = observe(cls(), IMAGES)
    assert list(seen) == ["", "first", "twice", "never", "pool", "last", "head"]
    assert {name: s.calls for name, s in seen.items()} == {
        "": 1,
        "first": 1,
        "twice": 2,
        "never": 0,
        "pool": 1,
        "last": 1,
        "head": 1,
    }
    maps = {n: (s.channels, s.height, s.width) for n, s in seen.items() if s.channels is not None}
    assert maps == {"first": (8, 32, 24), "twice": (8, 32, 24)}
    assert seen["first"].returned == "a map of shape (2, 8, 32, 24)"
    assert seen["never"].returned == "nothing, as it does not run"
    assert seen[""].returned == "a tensor of shape (2, 2)"
    assert seen["last"].returned == (
        "a tensor of shape (2, 5, 1, 1), which does not follow the height and width of the input"
    )
    assert [s.position for s in seen.values()] == [5, 0, 1, -1, 2, 3, 4]


@pytest.mark.parametrize("cls", [Net, LooksAtValues])
@pytest.mark.parametrize("train", [True, False])
def test_nothing_is_changed(cls, train):
    torch.manual_seed(0)
    model = nn.Sequential(cls()).train(train)
    model[0].twice.train(not train)
    model[0].first.weight.grad = torch.ones_like(model[0].first.weight)
    before, state, images = snapshot(model), torch.get_rng_state(), IMAGES.clone()
    observe(model, IMAGES)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(IMAGES, images)
    assert vars(IMAGES) == {}


def test_a_network_that_runs_itself_gets_everything_back():
    """What is in its own lists too; a buffer has its value again, by another write."""
    model = CannotBeCopiedAndLooksAtValues().train()
    before = [row for row in snapshot(model) if row[1] != "runs"]
    observe(model, IMAGES)
    assert model.sizes == []
    assert same([row for row in snapshot(model) if row[1] != "runs"], before)
    assert model.runs == 0


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu_() if x.sum().item() < 1e9 else x


def test_the_example_may_be_changed_by_the_network():
    images = torch.randn(1, 3, 8, 8)
    before = images.clone()
    observe(InPlace(), images)
    assert torch.equal(images, before)


class Form(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x: Tensor):
        return self.form(x)


@pytest.mark.parametrize("looks", [False, True])
def test_only_shapes_are_computed_where_that_is_enough(looks):
    kinds = []
    note = Form(lambda x: kinds.append(type(x).__name__) or x)
    observe(nn.Sequential(LooksAtValuesToo() if looks else nn.ReLU(), note), IMAGES)
    assert kinds == ["Tensor" if looks else "FakeTensor"] * 2


class LooksAtValuesToo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return self.a(image) + self.b(depth)


@pytest.mark.parametrize("kind", ["tuple", "mapping"])
def test_two_inputs(kind):
    image, depth = IMAGES, IMAGES[:, :1]
    seen = observe(Two(), (image, depth) if kind == "tuple" else {"depth": depth, "image": image})
    assert {n: s.channels for n, s in seen.items()} == {"": 8, "a": 8, "b": 8}


def test_a_list_is_one_argument():
    assert run(Form(len), [IMAGES, IMAGES, IMAGES]) == 3


def test_the_meta_device():
    seen = observe(torchvision.models.resnet18().to("meta"), IMAGES)
    assert (seen["layer4"].channels, seen["layer4"].height, seen["layer4"].width) == (512, 1, 1)
    assert seen["layer3"].channels == 256


def test_weights_that_are_computed_before_each_pass():
    """Such a network can not be copied; its weight still belongs to its parameters afterwards."""
    model = nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU())
    weight = model[0].weight
    assert observe(model, IMAGES)["1"].channels == 8
    assert model[0].weight is weight


@pytest.mark.parametrize("example", [None, "images", 3, [], {}, nn.ReLU()])
def test_an_example_of_the_wrong_kind(example):
    with pytest.raises(TypeError, match="example must be what the network is called with"):
        observe(Net(), example)


def test_a_network_that_does_not_run():
    with pytest.raises(ValueError, match=r"does not run on example: RuntimeError: .* channels"):
        observe(Net(), torch.rand(2, 4, 32, 24))
    with pytest.raises(ValueError, match=r"TypeError: .*missing 1 required .* 'depth'") as error:
        observe(Two(), IMAGES)
    assert isinstance(error.value.__cause__, TypeError)


def test_lazy_layers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(4, 1))
    with pytest.raises(ValueError, match=r"'1\.weight' is not known.*run the network once"):
        observe(model, IMAGES)


def test_no_map_is_kept_alive():
    kept = []

    def keep(x: Tensor) -> Tensor:
        y = x * x.sum().item()
        kept.append(weakref.ref(y))
        return y

    alive = []
    model = nn.Sequential(Form(keep), nn.ReLU(), Form(lambda x: alive.append(kept[-1]()) or x))
    observe(model, IMAGES)
    assert alive == [None] * 2


class Stubborn(nn.BatchNorm2d):
    """Always trains."""

    def train(self, mode: bool = True) -> "Stubborn":
        return super().train(True)


def test_undisturbed_puts_back_what_a_pass_changes():
    model = nn.Sequential(Stubborn(3), nn.Dropout(), Net()).train()
    model[2].eval()
    before, state = snapshot(model), torch.get_rng_state()
    values = {key: value.clone() for key, value in model.state_dict().items()}
    with undisturbed(model):
        assert not model[1].training
        y = model(IMAGES)
        torch.rand(1)
        model[2].runs = torch.ones(3)
        model[2].register_buffer("new", torch.ones(3))
    assert not y.requires_grad
    model[2].sizes.clear()
    assert [row[:2] for row in snapshot(model)] == [row[:2] for row in before]
    assert model.state_dict().keys() == values.keys()
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()][:3] == [True, True, True]
    assert not model[2].training
    assert torch.equal(torch.get_rng_state(), state)


def test_undisturbed_puts_back_after_an_error_too():
    model = nn.Sequential(Stubborn(3)).train()
    with pytest.raises(RuntimeError, match="channels"), undisturbed(model):
        nn.Sequential(model[0], nn.Conv2d(4, 1, 1))(IMAGES)
    assert model.training
    assert torch.equal(model[0].running_mean, torch.zeros(3))
