"""Conversion by kind of leaf: both directions, and every way in which the books can fail to balance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mqc_jax.convert import flax_to_torch, torch_key, torch_to_flax
from mqc_jax.errors import UserError
from mqc_jax.models.torch_ops import ConvTranspose2x2, DepthwiseConv


class Net(nn.Module):
    """One leaf of every kind."""

    @nn.compact
    def __call__(self, tokens, image):
        words = nn.Embed(11, 6, name="words")(tokens)
        words = nn.LayerNorm(epsilon=1e-5, name="norm")(nn.Dense(5, name="layers.0")(words))
        image = nn.Conv(4, (3, 2), padding="VALID", name="conv")(image)
        image = ConvTranspose2x2(5, name="up")(DepthwiseConv(3, name="depth")(image))
        return words * self.param("gamma", nn.initializers.ones_init(), (5,)), image


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 5)])
        self.norm = torch.nn.LayerNorm(5)
        self.conv = torch.nn.Conv2d(3, 4, (3, 2))
        self.depth = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up = torch.nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.gamma = torch.nn.Parameter(torch.ones(5))

    def forward(self, tokens, image):
        return self.norm(self.layers[0](self.words(tokens))) * self.gamma, self.up(self.depth(self.conv(image)))


TOKENS = np.arange(8).reshape(2, 4)
IMAGE = np.random.default_rng(2).standard_normal((2, 6, 7, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def template():
    return jax.eval_shape(Net().init, jax.random.key(0), TOKENS, IMAGE)["params"]


@pytest.fixture
def state(template):
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), template)
    return flax_to_torch(params, prefix="net.")


def test_every_kind_computes_what_torch_computes(template, state):
    net = TorchNet()
    net.load_state_dict({key.removeprefix("net."): torch.from_numpy(value) for key, value in state.items()})
    params = torch_to_flax(state, template, prefix="net.")
    words, image = jax.jit(Net().apply)({"params": params}, TOKENS, IMAGE)
    with torch.no_grad():
        expected = net(torch.from_numpy(TOKENS), torch.from_numpy(IMAGE.transpose(0, 3, 1, 2)))
    assert np.abs(words - expected[0].numpy()).max() < 1e-4
    assert np.abs(image - expected[1].numpy().transpose(0, 2, 3, 1)).max() < 1e-4


def test_there_and_back(template, state):
    back = flax_to_torch(torch_to_flax(state, template, prefix="net."), prefix="net.")
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)


def test_the_template_decides_the_dtype(template, state):
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), template)
    assert {x.dtype for x in jax.tree.leaves(torch_to_flax(state, half, prefix="net."))} == {jnp.dtype("bfloat16")}


def test_keys():
    assert torch_key(("trunk", "blocks.0", "norm1", "scale")) == "trunk.blocks.0.norm1.weight"
    assert torch_key(("trunk", "pos_embed")) == "trunk.pos_embed"
    assert torch_key(("up", "transposed_kernel")) == "up.weight"


def test_keys_outside_the_prefix_are_not_counted(template, state):
    torch_to_flax({**state, "other.weight": np.zeros(3)}, template, prefix="net.")
    with pytest.raises(UserError, match=r"other\.weight"):
        torch_to_flax({**{k.removeprefix("net."): v for k, v in state.items()}, "other.weight": np.zeros(3)}, template)


def test_every_difference_is_listed(template, state):
    state["net.conv2.weight"] = state.pop("net.conv.weight")  # renamed
    del state["net.norm.bias"]  # missing
    state["net.layers.0.weight"] = state["net.layers.0.weight"].T  # another shape
    state["net.up.bias"] = state["net.up.bias"][:2]  # truncated
    state["net.gamma"] = np.full_like(state["net.gamma"], np.nan)
    with pytest.raises(UserError) as caught:
        torch_to_flax(state, template, prefix="net.")
    message = str(caught.value)
    assert "6 differences" in message.splitlines()[0]
    for line in (
        "net.conv2.weight (4, 3, 3, 2)",
        "net.conv.weight (4, 3, 3, 2)",
        "net.norm.bias (5,)",
        "net.layers.0.weight: the file has (6, 5), the model (5, 6)",
        "net.up.bias: the file has (2,), the model (5,)",
        "net.gamma: 5 of 5 numbers",
    ):
        assert f"  {line}" in message.splitlines()


def test_two_leaves_cannot_share_a_tensor(state):
    template = {"norm": {"scale": np.ones(5, np.float32), "kernel": np.ones(5, np.float32)}}
    with pytest.raises(UserError, match="already fills"):
        torch_to_flax({"norm.weight": np.ones(5, np.float32)}, template)


def test_a_mirrored_transposed_convolution_would_be_seen(template, state):
    """Reading the kernel as Flax's own ConvTranspose has it, mirrored, changes the output."""
    right = torch_to_flax(state, template, prefix="net.")
    flipped = {**right, "up": {**right["up"], "transposed_kernel": right["up"]["transposed_kernel"][:, ::-1, ::-1]}}
    apply = jax.jit(Net().apply)
    outputs = [apply({"params": params}, TOKENS, IMAGE)[1] for params in (right, flipped)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1
