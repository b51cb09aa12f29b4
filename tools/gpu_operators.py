"""xFormers' operators on a real GPU, against references in double precision. Started by gpu_proof.py with the Python
of an environment in which a checkout is linked; one JSON object a line.

    python gpu_operators.py attention|sparse|cutlass|cusparselt|hopper ARCH...

ARCH are those that the library has machine code for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import xformers.ops as xops
from xformers.ops import fmha, sp24

OPS = torch.ops.xformers
#: How far a result may be from the reference, in parts of the reference's largest value.
CLOSE = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 5e-3}
NAMES = {torch.float16: "half", torch.bfloat16: "bfloat16", torch.float32: "float"}


def say(part: str, what: str, predicted: str, seen: str, right: bool | None) -> None:
    print(json.dumps({"part": part, "what": what, "predicted": predicted, "seen": seen, "right": right}), flush=True)


def distance(found: Any, reference: Any) -> float:
    return float((found.detach().double() - reference.detach()).abs().max() / reference.detach().abs().max())


# --- attention


def attention() -> None:
    kinds: list[tuple[str, Any]] = [
        ("as dispatched", None),
        ("cutlass", (fmha.cutlass.FwOp, fmha.cutlass.BwOp)),
        ("flash", (fmha.flash.FwOp, fmha.flash.BwOp)),
    ]
    for name, op in kinds:
        for dtype in CLOSE:
            if name == "flash" and dtype is torch.float32:
                continue  # it knows half precision only
            for causal in (False, True):
                what = f"attention, {name}, {NAMES[dtype]}{', causal' if causal else ''}"
                predicted = f"within {CLOSE[dtype]:g} of float64, forward and backward"
                try:
                    errors, ran = one_attention(op, dtype, causal)
                except NotImplementedError as error:
                    say("operators", what, "", f"not for this: {str(error).splitlines()[0][:120]}", None)
                    continue
                seen = ", ".join(f"{key} {value:.1e}" for key, value in errors.items())
                say("operators", f"{what} ({ran})", predicted, seen, max(errors.values()) <= CLOSE[dtype])


def one_attention(op: Any, dtype: Any, causal: bool) -> tuple[dict[str, float], str]:
    """The distance of the output and of each gradient, and the operators that ran."""
    torch.manual_seed(1)
    inputs = [torch.randn(2, 384, 4, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    weight = torch.randn(2, 384, 4, 64, device="cuda", dtype=dtype)
    bias = fmha.attn_bias.LowerTriangularMask() if causal else None
    found = xops.memory_efficient_attention(*inputs, attn_bias=bias, op=op)
    found.backward(weight)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    query, key, value = (tensor.transpose(1, 2) for tensor in doubles)
    scores = query @ key.transpose(-2, -1) / 64**0.5
    if causal:
        scores = scores + torch.full_like(scores, float("-inf")).triu(1)
    reference = (scores.softmax(-1) @ value).transpose(1, 2)
    reference.backward(weight.double())
    errors = {"out": distance(found, reference)}
    for name, tensor, double in zip("qkv", inputs, doubles, strict=True):
        errors[f"d{name}"] = distance(tensor.grad, double.grad)
    if op is None:
        plain = fmha.Inputs(*(tensor.detach() for tensor in inputs), attn_bias=bias)
        return errors, str(fmha.dispatch._dispatch_fw(plain, True).NAME)
    return errors, f"{op[0].NAME}, {op[1].NAME}"


# --- 2:4 sparsity: the project's own kernels


def sparse() -> None:
    check("largest_mask_2d, its known case", "the mask of the project's own test", known_mask)
    check("largest_mask_2d, 2048 x 2048", "at most 2 of 4 in every row and column of a tile", mask_pattern)
    check("sparseNM_dense, 2 of 4", "the two largest of four (ties aside)", two_of_four)
    check("sparsify_both_ways, then apply", "the same packed values", packs)
    check("apply_dense_output", "the values under the mask, zeros elsewhere", dense_output)


def cutlass() -> None:
    """In a process of its own. It is for GPUs of 8.x; on others xFormers 0.0.35 ends with a segmentation fault where it
    means to refuse, when compiled by torch alone as well (seen on an H100, 2026-11-22): nothing is predicted there."""
    if torch.cuda.get_device_capability()[0] == 8:
        check("sparse gemm, CUTLASS", "within 0.005 of float64", lambda: close(gemm("cutlass"), 5e-3))
        return
    try:
        seen = f"{gemm('cutlass'):.1e}"
    except RuntimeError as error:
        seen = str(error).splitlines()[0][-120:]
    say("operators", "sparse gemm, CUTLASS", "", seen, None)


def cusparselt() -> None:
    if sp24._has_cusparseLt():
        check("sparse gemm, cuSPARSELt", "within 0.005 of float64", lambda: close(gemm("cusparselt"), 5e-3))
    else:
        say("operators", "sparse gemm, cuSPARSELt", "", "this torch has no cuSPARSELt that is new enough", None)


def check(what: str, predicted: str, body: Callable[[], tuple[bool, str]]) -> None:
    try:
        right, seen = body()
    except (RuntimeError, NotImplementedError) as error:
        right, seen = False, str(error).splitlines()[0][:160]
    say("operators", what, predicted, seen, right)


def close(near: float, limit: float) -> tuple[bool, str]:
    return near <= limit, f"{near:.1e}"


def known_mask() -> tuple[bool, str]:
    rows = [[4, 3, 2, 1], [0, 0, 0.5, 0.5], [1, 2, 3, 4], [10, 2, -1, 5]]
    found = OPS.sparse24_largest_mask_2d(torch.tensor(rows, device="cuda", dtype=torch.float16)).int().tolist()
    return found == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], str(found)


def at_most_two(mask: Any) -> bool:
    tiles = mask.reshape(mask.shape[0] // 4, 4, mask.shape[1] // 4, 4).int()
    return int(tiles.sum(1).max()) <= 2 and int(tiles.sum(3).max()) <= 2


def mask_pattern() -> tuple[bool, str]:
    torch.manual_seed(2)
    mask = OPS.sparse24_largest_mask_2d(torch.randn(2048, 2048, device="cuda", dtype=torch.float16))
    share = float(mask.double().mean())
    return at_most_two(mask) and share > 0.4, f"{share:.1%} kept"


def two_of_four() -> tuple[bool, str]:
    torch.manual_seed(3)
    dense = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16)
    found = OPS.sparseNM_dense(dense, N=2, M=4, sort_preproc="largest_abs")
    rank = dense.reshape(-1, 4).abs().argsort().argsort().reshape_as(dense)
    differing = float((found != torch.where(rank >= 2, dense, 0)).double().mean())
    return differing < 0.005, f"{differing:.2%} differ"


def packs() -> tuple[bool, str]:
    torch.manual_seed(4)
    dense = torch.randn(256, 1024, device="cuda", dtype=torch.float16)
    packed, _, packed_t, _, threads = OPS.sparse24_sparsify_both_ways(dense)
    again, _, again_t, _ = OPS.sparse24_apply(dense, threads)
    same = torch.equal(packed, again) and torch.equal(packed_t, again_t)
    mask = OPS.sparse24_largest_mask_2d(dense)
    near = abs(float(packed[:256].double().sum() - (dense * mask).double().sum()))
    return same and near < 1e-6, f"{'equal' if same else 'different'}, sum of the masked values off by {near:.0e}"


def dense_output() -> tuple[bool, str]:
    torch.manual_seed(5)
    dense = torch.randn(256, 512, device="cuda", dtype=torch.float16)
    threads = OPS.sparse24_sparsify_both_ways(dense)[-1]
    found = OPS.sparse24_apply_dense_output(dense, threads)
    mask = OPS.sparse24_largest_mask_2d(dense)
    return torch.equal(found, dense * mask), f"{float((found != 0).double().mean()):.1%} kept"


def gemm(backend: str) -> float:
    torch.manual_seed(6)
    left = torch.randn(256, 512, device="cuda", dtype=torch.float16)
    right = torch.randn(512, 128, device="cuda", dtype=torch.float16)
    mask = OPS.sparse24_largest_mask_2d(left)
    found = sp24.sparsify24(left, backend=backend) @ right
    return distance(found, (left * mask).double() @ right.double())


# --- what is for Hopper alone


def hopper(archs: list[str]) -> None:
    """A product of fp8, which is right only where the library was compiled for 9.0a: nothing is predicted else."""
    if torch.cuda.get_device_capability()[0] != 9 or not hasattr(OPS, "_sparse24_fp8_sm90_cutlass_gemm"):
        say("operators", "sparse gemm of fp8 (9.0a)", "", "not in this build, or not for this GPU", None)
        return
    torch.manual_seed(7)
    dense = torch.randn(512, 256, device="cuda", dtype=torch.bfloat16)
    left = OPS.sparseNM_dense(dense, N=2, M=4, sort_preproc="largest").to(torch.float8_e4m3fn)
    right = torch.randn(1024, 256, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn).T
    found = OPS._sparse24_fp8_sm90_cutlass_gemm(*OPS._sparse24_sm90_cutlass_compress(left), right)
    torch.cuda.synchronize()
    near = distance(found, left.double() @ right.double())
    certain = "9.0a" in archs
    predicted = "within 0.02 of float64" if certain else "nothing: the library has no code with the features of 9.0a"
    say("operators", "sparse gemm of fp8 (9.0a)", predicted, f"{near:.1e}", near <= 0.02 if certain else None)


if __name__ == "__main__":
    groups: dict[str, Callable[[], None]] = {
        "attention": attention, "sparse": sparse, "cutlass": cutlass, "cusparselt": cusparselt,
        "hopper": lambda: hopper(sys.argv[2:]),
    }  # fmt: skip
    groups[sys.argv[1]]()
