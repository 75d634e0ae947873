"""Attention by products against torch's fused attention, alone and through the whole model."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from compiled_graphs import backward_operations
from torch import Tensor
from torch.nn import functional

from rope_gpt2.model.attention import PRODUCTS, attend_by_products, attention_by_products
from rope_gpt2.model.rotary import rotate

B, N, L, H = 2, 3, 7, 4
TRAINING, SCORING = SimpleNamespace(training=True), SimpleNamespace(training=False)


@pytest.fixture
def inputs() -> list[Tensor]:
    """Queries, keys, values."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, N, L, H, generator=generator) for _ in range(3)]


def masks() -> dict[str, Tensor | None]:
    """Where queries may look: everything before them, two documents apart, or with weights of their own."""
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 2, 2]])
    apart = causal & (documents[:, None, :, None] == documents[:, None, None, :])
    weighted = torch.randn(B, 1, L, L, generator=torch.Generator().manual_seed(1)).masked_fill(~causal, float("-inf"))
    return {"none": None, "causal": causal[None, None], "documents": apart, "additive": weighted}


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("name", masks())
def test_it_is_torchs_attention_and_so_are_its_gradients(inputs: list[Tensor], name: str, scaling: float | None):
    mask, twins = masks()[name], [part.clone().requires_grad_() for part in inputs]
    ours, weights = attend_by_products(TRAINING, *[part.requires_grad_() for part in inputs], mask, scaling=scaling)
    theirs = functional.scaled_dot_product_attention(*twins, mask, is_causal=mask is None, scale=scaling).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(ours, theirs)
    outer = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for mine, its in zip(torch.autograd.grad(ours, inputs, outer), torch.autograd.grad(theirs, twins, outer), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("name", masks())
def test_in_bfloat16_it_is_as_near_to_float32_as_torchs(inputs: list[Tensor], name: str):
    mask = masks()[name]
    exact = functional.scaled_dot_product_attention(*inputs, mask, is_causal=mask is None).transpose(1, 2)
    ours, _ = attend_by_products(SCORING, *[part.bfloat16() for part in inputs], mask)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, atol=3e-2, rtol=0)


def test_dropout_is_for_training_alone_and_drawn_from_the_seed(inputs: list[Tensor]):
    def attend(module, seed: int, dropout: float = 0.5) -> Tensor:
        torch.manual_seed(seed)
        return attend_by_products(module, *inputs, None, dropout=dropout)[0]

    plain = attend_by_products(SCORING, *inputs, None)[0]
    assert torch.equal(attend(SCORING, 0), plain)
    assert torch.equal(attend(TRAINING, 0, dropout=0.0), plain)
    assert torch.equal(attend(TRAINING, 0), attend(TRAINING, 0))
    assert not torch.equal(attend(TRAINING, 0), attend(TRAINING, 1))
    mean = torch.stack([attend(TRAINING, seed) for seed in range(1000)]).mean(dim=0)
    torch.testing.assert_close(mean, plain, atol=0.2, rtol=0)


def test_the_mask_of_later_positions_is_kept_with_dropout(inputs: list[Tensor]):
    query, key, value = inputs
    changed = value.clone()
    changed[:, :, 4:] += 100.0
    torch.manual_seed(0)
    ours = attend_by_products(TRAINING, query, key, value, None, dropout=0.5)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(attend_by_products(TRAINING, query, key, changed, None, dropout=0.5)[0][:, :4], ours[:, :4])


@pytest.mark.parametrize("name", masks())
def test_a_compiler_neither_masks_nor_exponentiates_again_for_the_gradient(inputs: list[Tensor], name: str):
    mask = masks()[name]

    def attend(*parts: Tensor) -> Tensor:
        return attend_by_products(TRAINING, *parts, mask)[0]

    operations = backward_operations(attend, *[part.requires_grad_() for part in inputs])
    assert any("bmm" in operation for operation in operations), operations
    assert not any(word in operation for operation in operations for word in ("exp.", "where", "masked_fill")), operations


def test_the_gradient_of_a_key_is_written_as_the_key_is(inputs: list[Tensor]):
    """Compiled, what lies behind it would otherwise turn tiles of it, of which GCC 12 makes wrong code for some processors."""
    ours, _ = attend_by_products(TRAINING, *[part.requires_grad_() for part in inputs], None)
    for gradient in torch.autograd.grad(ours, inputs[:2], torch.ones_like(ours)):
        assert gradient.stride() == inputs[0].stride()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiled_its_gradients_through_the_rotation_are_the_eager_ones():
    """In bfloat16, with heads of 64 out of one projection: the kernels of checkpoints/mini's training, by this machine's own compiler."""
    length, heads, size = 64, 2, 64
    generator = torch.Generator().manual_seed(0)
    joined = torch.randn(2, length, 3 * heads * size, generator=generator).bfloat16()
    angles = torch.randn(1, 1, length, size // 2, generator=generator).repeat(1, 1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    upstream = torch.randn(2, length, heads, size, generator=generator).bfloat16()

    def attend(joined: Tensor) -> Tensor:
        query, key, value = (part.view(2, length, heads, size).transpose(1, 2) for part in joined.split(heads * size, dim=-1))
        return attend_by_products(TRAINING, rotate(query, cos, sin), rotate(key, cos, sin), value, None)[0]

    eager, compiled = (
        torch.autograd.grad(run(x := joined.clone().requires_grad_()), x, upstream)[0] for run in (attend, torch.compile(attend))
    )
    largest = eager.float().abs().max()
    torch.testing.assert_close(compiled.float() / largest, eager.float() / largest, atol=0.02, rtol=0)


# Through the whole model


def logits_and_gradients(model, input_ids: Tensor, by_products: bool, **options) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    if by_products:
        with attention_by_products(model):
            logits = model(input_ids, use_cache=False, **options).logits
    else:
        logits = model(input_ids, use_cache=False, **options).logits
    logits.float().log_softmax(-1)[..., :3].sum().backward()
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]


POSITIONS = {"one document": None, "packed": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])}


@pytest.mark.parametrize("documents", POSITIONS)
def test_a_model_that_attends_by_products_gives_the_same_logits_and_gradients(tiny_model, input_ids: Tensor, documents: str):
    model, positions = tiny_model(), POSITIONS[documents]
    ours, our_gradients = logits_and_gradients(model, input_ids, True, position_ids=positions)
    theirs, their_gradients = logits_and_gradients(model, input_ids, False, position_ids=positions)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for mine, its in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("by_products", [False, True])
def test_packed_documents_get_the_logits_of_each_alone(tiny_model, input_ids: Tensor, by_products: bool):
    model, positions = tiny_model(), POSITIONS["packed"]
    packed, _ = logits_and_gradients(model, input_ids, by_products, position_ids=positions)
    for row, start, end in [(0, 0, 5), (0, 5, 8), (0, 8, 12), (1, 0, 2), (1, 2, 12)]:
        alone, _ = logits_and_gradients(model, input_ids[row : row + 1, start:end], by_products)
        torch.testing.assert_close(packed[row, start:end], alone[0], atol=1e-4, rtol=1e-4)


def test_padding_is_masked_as_ever(tiny_model, input_ids: Tensor):
    model, mask = tiny_model(), torch.ones_like(input_ids)
    mask[0, 9:] = 0
    ours, _ = logits_and_gradients(model, input_ids, True, attention_mask=mask)
    theirs, _ = logits_and_gradients(model, input_ids, False, attention_mask=mask)
    torch.testing.assert_close(ours[0, :9], theirs[0, :9], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-4)


def test_a_model_attends_as_before_once_the_block_is_left(tiny_model):
    model = tiny_model()
    before = model.config._attn_implementation
    assert before != PRODUCTS
    with attention_by_products(model):
        assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {PRODUCTS}
    assert model.config._attn_implementation == before

    def fail() -> None:
        with attention_by_products(model):
            raise RuntimeError("in the middle of a step")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {before}
