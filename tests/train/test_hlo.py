"""What a compiled program executes is read from its text: loops by their turns, branches that may not be taken not."""

import jax
import jax.numpy as jnp
import pytest

from scaling.train.hlo import splash_flops, work

TPU = """HloModule jit_step, is_scheduled=true, num_partitions=4

%fused (p0: f32[6,128,256], p1: s32[]) -> f32[128,256] {
  %p0 = f32[6,128,256]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = f32[1,128,256]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,128,256}
}

%product (a: bf16[512,128], b: bf16[128,256]) -> f32[512,256] {
  %a = bf16[512,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution = f32[512,256]{1,0:T(8,128)} convolution(%a, %b), dim_labels=bf_io->bf
}

%body (t: (s32[], f32[6,128,256])) -> (s32[], f32[6,128,256]) {
  %t = (s32[]{:T(128)}, f32[6,128,256]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %stack = f32[6,128,256]{2,1,0:T(8,128)} get-tuple-element(%t), index=1
  %layer = f32[128,256]{1,0:T(8,128)} fusion(%stack, %i), kind=kLoop, calls=%fused
  %x = bf16[512,128]{1,0:T(8,128)(2,1)} parameter(1)
  %w = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %y = f32[512,256]{1,0:T(8,128)} fusion(%x, %w), kind=kOutput, calls=%product
  ROOT %next = (s32[], f32[6,128,256]) tuple(%i, %stack)
}

%condition (t: (s32[], f32[6,128,256])) -> pred[] {
  %t = (s32[]{:T(128)}, f32[6,128,256]{2,1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%t), index=0
  %six = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%counter, %six), direction=LT
}

%noisy (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %dot = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %init = (s32[], f32[6,128,256]) tuple(%i, %stack)
  %while = (s32[], f32[6,128,256]) while(%init), condition=%condition, body=%body
  %conditional = f32[4,4] conditional(%c, %p, %p), branch_computations={%noisy, %noisy}
  %scores = f32[12,4,2048,2048]{3,2,1,0} convolution(%q, %k), \
window={size=12x4 stride=11x3 lhs_dilate=12x4}, dim_labels=0b1f_0o1i->01bf
  %q = bf16[12,2048,4,64]{3,2,1,0} parameter(3)
  %k = bf16[12,2048,4,64]{3,2,1,0} parameter(4)
  %buffer = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %slice-start = ((f32[64,128]{1,0}), f32[16,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%buffer), slice={[0:16]}
  %slice-done = f32[16,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %copy-start = (f32[64,128]{1,0}, f32[64,128]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%buffer)
  ROOT %out = f32[4,4]{1,0} copy(%p)
}
"""


def test_a_loop_counts_its_turns_and_a_slice_its_own_bytes():
    """Six turns, as the condition says; a layer of the stack is read and written, not the stack; what lies on the chip
    is no traffic of the memory."""
    found = work(TPU)
    scores = 2 * 12 * 4 * 2048 * 2048 * 64  # a batched product, whose batch is a window
    assert found.flops == 6 * 2 * 512 * 128 * 256 + scores
    layer = 2 * 4 * 128 * 256 + 4  # and where it is
    product = 2 * 512 * 128 + 4 * 512 * 256
    inputs = 2 * 2 * 12 * 2048 * 4 * 64 + 4 * 12 * 4 * 2048 * 2048
    moved = 4 * 16 * 128 + 2 * 4 * 64 * 128  # a slice to the chip, a copy in memory; making room moves nothing
    assert found.memory == 6 * (layer + product) + inputs + moved + 2 * 64


@pytest.mark.parametrize("turns", [1, 7])
def test_products_of_a_real_program_are_counted(turns: int):
    """On a CPU, whose text says how often a loop turns; XLA's own count knows one."""

    def chain(x_NxN: jax.Array, w_LxNxN: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_NxN, w_LxNxN)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((96, 96), (turns, 96, 96))]
    found = work(jax.jit(chain).lower(*shapes).compile().as_text())
    assert found.flops == turns * 2 * 96**3
    assert turns * 3 * 4 * 96**2 <= found.memory < turns * 12 * 4 * 96**2 + 20 * 4 * 96**2


def test_attention_kernels_count_their_products_on_or_below_the_diagonal():
    q, k = (2, 8, 1024, 64), (2, 4, 1024, 64)
    pairs = 2 * 8 * 1024 * 1025 / 2
    for name, products in (("splash_mha_fwd_residuals.8", 2), ("splash_mha_dq.1", 3), ("splash_mha_dkv.1", 4)):
        assert splash_flops(name, ((1, 2, 2), q, k, k)) == products * 2 * 64 * pairs
    assert splash_flops("another_kernel", (q,)) == 0
