import pytest
import torch
from compiled_graphs import backward_operations
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb, rotate_half

from rope_gpt2 import RopeGPT2Config
from rope_gpt2.model.rotary import RopeGPT2RotaryEmbedding, _rotate_by_formula, rotate

CONFIG = RopeGPT2Config(n_embd=32, n_head=4, n_positions=64)


def turn(x, positions, config=CONFIG):
    """Rotate [B, N, L, H] by [L] positions."""
    cos, sin = RopeGPT2RotaryEmbedding(config)(x, torch.as_tensor(positions)[None])
    return rotate(x, cos[:, None], sin[:, None])


def heads(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("rotary_dim", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rotation_is_that_of_gpt_neox(rotary_dim, dtype):
    query, key = heads(2, 4, 5, 8, dtype=dtype), heads(2, 4, 5, 8, dtype=dtype, seed=1)
    angles = torch.arange(5)[None, :, None] * torch.rand(rotary_dim // 2).repeat(2)
    cos, sin = angles.cos(), angles.sin()
    ours = rotate(query, cos[:, None], sin[:, None]), rotate(key, cos[:, None], sin[:, None])
    theirs = apply_rotary_pos_emb(query, key, cos, sin)
    torch.testing.assert_close(ours, theirs)


def test_the_rotation_is_a_product_of_complex_numbers():
    x, positions = heads(2, 4, 6, 8), torch.tensor([0, 1, 2, 5, 30, 63])
    theta = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)  # Su et al. 2021, section 3.2.2
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(6, 4), positions[:, None] * theta)
    torch.testing.assert_close(turn(x, positions), torch.cat((turned.real, turned.imag), dim=-1))


def test_rotating_at_position_zero_is_the_identity():
    x = heads(2, 4, 3, 8)
    torch.testing.assert_close(turn(x, [0, 0, 0]), x, rtol=0, atol=0)


def test_rotation_keeps_norms():
    x = heads(2, 4, 64, 8)
    torch.testing.assert_close(turn(x, range(64)).norm(dim=-1), x.norm(dim=-1))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(-500, 500))
def test_the_product_of_query_and_key_depends_on_their_distance_alone(m, n, shift):
    query, key = heads(1, 4, 1, 8), heads(1, 4, 1, 8, seed=1)
    here = (turn(query, [m]) * turn(key, [n])).sum(dim=-1)
    there = (turn(query, [m + shift]) * turn(key, [n + shift])).sum(dim=-1)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(-500, 500), st.integers(-500, 500))
def test_two_rotations_add_and_a_negative_one_undoes(m, n):
    x = heads(1, 4, 1, 8)
    torch.testing.assert_close(turn(turn(x, [m]), [n]), turn(x, [m + n]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(turn(turn(x, [m]), [-m]), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_a_partial_rotation_passes_the_rest_through(fraction):
    x, rotary_dim = heads(2, 4, 5, 8), int(8 * fraction)
    config = RopeGPT2Config(n_embd=32, n_head=4, rope_parameters={"partial_rotary_factor": fraction})
    turned = turn(x, range(5), config)
    torch.testing.assert_close(turned[..., rotary_dim:], x[..., rotary_dim:], rtol=0, atol=0)
    alone = turn(x[..., :rotary_dim], range(5), RopeGPT2Config(n_embd=rotary_dim, n_head=1))
    torch.testing.assert_close(turned[..., :rotary_dim], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_rotated_in_float32_and_rounded_once(dtype):
    x = heads(1, 4, 5, 8, dtype=dtype)
    assert turn(x, range(5)).dtype == dtype
    torch.testing.assert_close(turn(x, range(5)), turn(x.float(), range(5)).to(dtype), rtol=0, atol=0)


def test_the_gradient_of_a_rotation_is_the_inverse_rotation():
    x, upstream = heads(1, 4, 5, 8).requires_grad_(), heads(1, 4, 5, 8, seed=1)
    turn(x, range(5)).backward(upstream)
    torch.testing.assert_close(x.grad, turn(upstream, [-p for p in range(5)]))


# One rotation, several ways to compute it: the formula as written, at once without autograd, in chunks, in one node of the graph.


def tables(length, rotary_dim=8, batch=1, seed=3):
    """cos and sin [batch, 1, length, rotary_dim] of any angles, both halves alike."""
    angles = torch.rand(batch, 1, length, rotary_dim // 2, generator=torch.Generator().manual_seed(seed)).repeat(1, 1, 1, 2) * 6
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("chunk", [1, 64, 200, 100_000])
@pytest.mark.parametrize("rotary_dim", [2, 6, 8])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_way_gives_the_bits_of_the_formula(dtype, batch, rotary_dim, chunk, monkeypatch):
    monkeypatch.setattr("rope_gpt2.model.rotary.CHUNK", chunk)
    cos, sin = tables(7, rotary_dim, batch)
    fused = heads(3, 7, 12, 8, dtype=dtype)  # as c_attn leaves it: queries, keys and values side by side
    for x in (fused[:, :, 4:8].transpose(1, 2), heads(3, 4, 7, 8, dtype=dtype)):
        turned = x[..., :rotary_dim]
        rotated = (turned * cos + rotate_half(turned) * sin).to(dtype)
        formula = torch.cat((rotated, x[..., rotary_dim:]), dim=-1)
        leaf = x.detach().requires_grad_()
        for ours in (rotate(x, cos, sin), rotate(leaf, cos, sin), _rotate_by_formula(x, cos, sin)):
            torch.testing.assert_close(ours, formula, rtol=0, atol=0)
        positions_first = rotate(x.transpose(1, 2), cos.transpose(1, 2), sin.transpose(1, 2))
        torch.testing.assert_close(positions_first.transpose(1, 2), formula, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [64, 100_000])
@pytest.mark.parametrize("rotary_dim", [2, 8])
def test_first_and_second_derivatives_are_those_of_finite_differences(rotary_dim, chunk, monkeypatch):
    monkeypatch.setattr("rope_gpt2.model.rotary.CHUNK", chunk)
    cos, sin = tables(3, rotary_dim)
    x = heads(2, 2, 3, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos.double(), sin.double()), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos.double(), sin.double()), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_formula(dtype):
    (cos, sin), upstream = tables(5, 6), heads(2, 4, 5, 8, dtype=dtype, seed=1)
    x = heads(2, 4, 5, 8, dtype=dtype).requires_grad_()
    (ours,) = torch.autograd.grad(rotate(x, cos, sin), x, upstream)
    exact = x.detach().float().requires_grad_()
    (theirs,) = torch.autograd.grad(_rotate_by_formula(exact, cos, sin), exact, upstream.float())
    torch.testing.assert_close(ours, theirs.to(dtype))


def test_learned_angles_get_their_gradients():
    x = heads(2, 4, 5, 8).requires_grad_()
    cos, sin = (table.requires_grad_() for table in tables(5))
    upstream = torch.autograd.grad(rotate(x, cos, sin).sum(), (x, cos, sin))
    torch.testing.assert_close(upstream[1], x.sum(dim=(0, 1), keepdim=True))


def test_autograd_keeps_no_activation_of_a_rotation():
    kept = []
    cos, sin = tables(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        rotate(heads(2, 4, 5, 8).requires_grad_(), cos, sin)
    assert kept == [cos.numel(), sin.numel()]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_recomputed_rotation_has_the_same_gradient(use_reentrant):
    (cos, sin), x = tables(5), heads(2, 4, 5, 8).requires_grad_()
    square = lambda x: rotate(x * 2, cos, sin).pow(2)  # noqa: E731
    (plain,) = torch.autograd.grad(square(x).sum(), x)
    checkpoint(square, x, use_reentrant=use_reentrant).sum().backward()
    torch.testing.assert_close(x.grad, plain, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, in its rules for jvp
def test_function_transforms_see_the_formula():
    (cos, sin), x, tangent = tables(5), heads(3, 2, 4, 5, 8), heads(3, 2, 4, 5, 8, seed=1)
    one_by_one = torch.stack([rotate(part, cos, sin) for part in x])
    torch.testing.assert_close(torch.func.vmap(lambda x: rotate(x, cos, sin))(x), one_by_one)
    loss = lambda x: rotate(x, cos, sin).pow(2).sum()  # noqa: E731  # rotations keep norms: the gradient is 2 x
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), 2 * x)
    turned = torch.func.jvp(lambda x: rotate(x, cos, sin), (x[0],), (tangent[0],))[1]
    torch.testing.assert_close(turned, rotate(tangent[0], cos, sin))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x[0], tangent[0])
        torch.testing.assert_close(forward_ad.unpack_dual(rotate(dual, cos, sin)).tangent, turned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_graph_of_a_compiler_holds_the_rotation_without_a_break(dtype):
    (cos, sin), x, upstream = tables(5), heads(2, 4, 5, 8, dtype=dtype).requires_grad_(), heads(2, 4, 5, 8, dtype=dtype, seed=1)
    compiled = torch.compile(rotate, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, cos, sin), rotate(x, cos, sin), rtol=0, atol=0)
    theirs = torch.autograd.grad(compiled(x, cos, sin), x, upstream)
    ours = torch.autograd.grad(rotate(x, cos, sin), x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=2 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)  # autograd sums in bf16


@pytest.mark.parametrize("rotary_dim", [8, 4])
def test_a_compiler_joins_the_gradient_in_one_piece(rotary_dim):
    """The gradient of slices would be padded and added, which inductor reads element by element."""
    (cos, sin), x = tables(5, rotary_dim), heads(2, 4, 5, 8).requires_grad_()
    operations = backward_operations(rotate, x, cos, sin)
    assert "aten.cat.default" in operations
    assert not any("slice_backward" in name or "scatter" in name or "pad" in name for name in operations), operations


def test_an_exported_rotation_takes_other_lengths():
    class Rotation(torch.nn.Module):
        def forward(self, x, cos, sin):
            return rotate(x, cos, sin)

    length = torch.export.Dim("length", min=2, max=4096)
    example, by_length = (heads(2, 4, 5, 8), *tables(5)), {2: length}
    program = torch.export.export(Rotation(), example, dynamic_shapes=(by_length, by_length, by_length))
    other = (heads(2, 4, 9, 8), *tables(9))
    torch.testing.assert_close(program.module()(*other), rotate(*other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rotary_dim", [8, 16])
def test_rotation_without_gradients_is_the_same_to_the_bit(rotary_dim: int, dtype: torch.dtype):
    x, angles = torch.randn(2, 3, 5, 16).to(dtype), torch.randn(5, rotary_dim // 2).repeat(1, 2)
    with torch.no_grad():
        ours = rotate(x, angles.cos(), angles.sin())
    theirs = rotate(x, angles.cos(), angles.sin())
    assert torch.equal(ours, theirs)
