"""What is computed for an image does not depend, not by a bit, on the batch that it is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import vqdiff
from small_denoisers import CONDITIONS, IMAGES, NETWORKS, TIMES, TOKENS, trained
from vqdiff.denoisers import ClassicConfig, ClassicDenoiser, ModernConfig, ModernDenoiser, layers
from vqdiff.denoisers.layers import PackedLinear, linear_of, packed_linear, products
from vqdiff.denoisers.modern import modulate, rotate
from vqdiff.denoisers.packed import pack
from vqdiff.diffusion import Schedule
from vqdiff.foundation.processor import can_pack, processor
from vqdiff.image_tokenizers import AbsentConfig, AbsentTokenizer
from vqdiff.model import BoundDenoiser, Model
from vqdiff.text import Condition

pytestmark = pytest.mark.numeric

BATCHES = (2, 3, 5, 8, 32)
CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="needs an x86 CPU")
int8 = pytest.param("int8", marks=pytest.mark.skipif(processor().int8 is None, reason="needs a CPU with VNNI"))
precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16", int8])


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def bound(network: Any, condition: Tensor | None, precision: str) -> BoundDenoiser:
    """The denoiser as `vqdiff.load` makes it ready."""
    if precision != "float32":
        network = network.bfloat16()
        condition = condition.bfloat16() if condition is not None and condition.is_floating_point() else condition
    network = pack(network, int8=precision == "int8")
    return Model(Schedule.paper(8, 50), network, AbsentTokenizer(AbsentConfig(4, 50, ""))).bind(condition)


def check_alike(denoise: BoundDenoiser, tokens: Tensor, t: Tensor, batches: tuple[int, ...]) -> None:
    if not getattr(denoise.denoiser, "batch_invariant", False):
        batches = batches[:2]  # it is given one image at a time, however many there are
    alone = [denoise.select([row])(tokens[row : row + 1], t[row : row + 1]) for row in range(max(batches))]
    assert len({one.double().sum().item() for one in alone}) == len(alone)
    for batch in batches:
        together = denoise.select(range(batch))(tokens[:batch], t[:batch])
        assert torch.equal(together, torch.cat(alone[:batch])), f"a batch of {batch}"


@precisions
@pytest.mark.parametrize("kind", NETWORKS)
def test_small_networks(kind: str, precision: str) -> None:
    check_alike(bound(trained(NETWORKS[kind]()), CONDITIONS[kind], precision), TOKENS, TIMES, BATCHES)


@precisions
@pytest.mark.usefixtures("threads")
def test_layers_of_the_bundled_model(precision: str) -> None:
    config = ModernConfig(2048, 100, 16, 320, 1, 5, patch_size=2, token_width=256, text_width=384)
    text = torch.randn(IMAGES, 12, 384)
    text[::2, 7:] = 0
    tokens, t = torch.randint(0, 2049, (IMAGES, 256)), torch.randint(1, 101, (IMAGES,))
    check_alike(bound(trained(ModernDenoiser(config)), text, precision), tokens, t, BATCHES)


@pytest.mark.slow
@precisions
@pytest.mark.usefixtures("threads")
def test_layers_of_published_models(precision: str) -> None:
    config = ClassicConfig(2887, 100, 32, 1024, 1, 16, text_width=512)
    tokens, t = torch.randint(0, 2888, (3, 1024)), torch.randint(1, 101, (3,))
    check_alike(bound(trained(ClassicDenoiser(config)), torch.randn(3, 77, 512), precision), tokens, t, (2, 3))


class Products(TorchDispatchMode):
    """Remembers the shapes of all products of matrices and all convolutions."""

    names = re.compile(r"mm|mv|dot|linear|conv|attention")

    def __init__(self) -> None:
        super().__init__()
        self.shapes = set[tuple[Any, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.names.search(func.name()):
            self.shapes.add((func.name(), *(tuple(one.shape) for one in args if isinstance(one, Tensor))))
        return func(*args, **kwargs or {})


def shapes_of(call: Callable[[], object]) -> set[tuple[Any, ...]]:
    with Products() as products:
        call()
    return products.shapes


@pytest.fixture
def never_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer is known to round alike, as on a processor where none does."""
    monkeypatch.setattr(layers, "_rounds_alike", lambda *_: False)
    monkeypatch.setattr(layers, "_products_round_alike", lambda *_: False)


@precisions
@pytest.mark.usefixtures("never_sure")
def test_no_product_is_of_several_images(precision: Any) -> None:
    """From text to pixels; what is computed together all the same is checked by `rounds_alike` or the like first."""
    pipe = vqdiff.load("emoji", device="cpu", precision=precision)  # its own: loading tests how layers round
    prompts: list[Condition] = ["a red apple", "a cat", "two green trees"]
    alone = [shapes_of(lambda prompt=prompt: pipe(prompt, steps=2)) for prompt in prompts]
    assert len(alone[0]) > 10
    assert shapes_of(lambda: pipe(prompts, steps=2, batch_size=3)) == set.union(*alone)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.usefixtures("never_sure")
def test_no_product_is_of_several_images_in_other_networks(kind: str) -> None:
    network = trained(NETWORKS[kind]())
    several = shapes_of(lambda: network(TOKENS[:3], TIMES[:3], None if (c := CONDITIONS[kind]) is None else c[:3]))
    denoise = bound(network, CONDITIONS[kind], "float32")
    one, together = (shapes_of(lambda n=n: denoise.select(range(n))(TOKENS[:n], TIMES[:n])) for n in (1, 3))
    assert together == one
    assert not several <= one  # which is to say that this test can fail


@needs_packing
def test_a_layer_that_rounds_otherwise_in_a_batch_takes_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = PackedLinear._product

    def rough(layer: PackedLinear, x: Tensor, plus: Tensor | None, times: Tensor | None) -> Tensor:
        out = exact(layer, x, plus, times)
        return torch.nextafter(out, torch.tensor(torch.inf)) if len(x) >= 5 else out

    monkeypatch.setattr(PackedLinear, "_product", rough)
    layer, x = PackedLinear(linear_of(torch.randn(7, 24), None)), torch.randn(6, 10, 24)
    assert [layer.rounds_alike(batch, 10) for batch in range(2, 7)] == [True] * 3 + [False] * 2
    assert torch.equal(layer(x), torch.cat([layer(one) for one in x.split(1)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_order_of_a_sum_shows(dtype: torch.dtype) -> None:
    """Sums of the numbers that layers are tried on differ, in whatever other order they are added up."""
    x, weight = layers.telling((64,), (9,), 832, dtype, seed=0)
    products = x[:, None].float() * weight.float()
    wanted = products.sum(-1)
    for parts in (2, 4, 13):
        assert (sum(part.sum(-1) for part in products.chunk(parts, -1)).to(dtype) != wanted.to(dtype)).sum() > 100
    assert products.sum(-1, dtype=torch.float64).abs().max() < 1e-9 * products.abs().max()


@needs_packing
def test_a_wide_layer_in_parts_is_the_same_layer() -> None:
    linear = linear_of(torch.randn(9, 1024), torch.randn(9))
    x = torch.randn(2, 5, 1024)
    for layer in (packed_linear(linear, 5), layers.SummedLinear(linear, 4)):
        torch.testing.assert_close(layer(x), linear(x), atol=1e-4, rtol=1e-5)


@given(st.integers(2, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_products_of_heads(batch: int, heads: int, length: int, width: int, transposed: bool) -> None:
    a, b = torch.randn(batch, heads, length, width), torch.randn(batch, heads, 5, width)
    b = b.mT if transposed else b
    torch.testing.assert_close(products(a, b, transposed=transposed), a @ (b if transposed else b.mT))
    alone = [
        products(a[row : row + 1].clone(), b[row : row + 1].clone(), transposed=transposed) for row in range(batch)
    ]
    assert torch.equal(products(a, b, transposed=transposed), torch.cat(alone))


PIECES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "modulate": lambda x, y: modulate(x, y[:, :1], y[:, -1:]),
    "addcmul": lambda x, y: torch.addcmul(x, y[:, :1], y),
    "scale": lambda x, y: x * 0.125 + y,
    "rotate": lambda x, y: rotate(x, torch.stack([y[0], -y[0]])) if x.shape[-1] % 2 == 0 else x,
    "rms_norm": lambda x, y: F.rms_norm(x, x.shape[-1:]),
    "layer_norm": lambda x, y: F.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x, y: x.softmax(-1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", PIECES)
@given(st.integers(2, 9), st.integers(1, 19), st.integers(1, 67), st.integers(0, 99))
def test_what_runs_over_a_batch_besides_products(
    name: str, dtype: torch.dtype, batch: int, length: int, width: int, seed: int
) -> None:
    """Wherever in a tensor a number is, at an odd place or at its end, the same is made of it."""
    numbers = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(batch, length, width, generator=numbers).to(dtype) for _ in range(2))
    if name == "rotate":
        y = y[:1].expand_as(y)
    alone = [PIECES[name](*one) for one in zip(x.split(1), y.split(1), strict=True)]
    assert torch.equal(PIECES[name](x, y), torch.cat(alone))
