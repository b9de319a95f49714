"""Every kernel of tide_kernels and its launch variants, for `kernel_builds` and `roofline`.

Add a new kernel to KERNELS; its options are read off its signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tide_kernels.chunk_likelihood import kernels as chunk_likelihood
from tide_kernels.chunk_likelihood.launch import BLOCK_C
from tide_kernels.divergence import kernels as divergence
from tide_kernels.linear_token_logprob import kernels as linear_token_logprob
from tide_kernels.linear_token_logprob.launch import BLOCK_D, BLOCK_N, JOIN_BLOCK_N, JOIN_BLOCK_T
from tide_kernels.token_logprob import kernels as token_logprob
from tide_kernels.token_scores import kernels as token_scores

# Types of arguments by name; other pointers are *fp32, other numbers i32.
TYPES = {
    "labels_ptr": "*i64",
    "token_ids_ptr": "*i64",
    "part_ids_ptr": "*i32",
    "mask_ptr": "*i1",
    "student_scale": "fp32",
    "temperature": "fp32",
    "inverse_softcap": "fp32",
    "logit_scale": "fp32",
    "softcap": "fp32",
}
# Pointers whose dtype the variant sets: logits, hidden states and heads; the gradient.
STUDENT_SIDE = {"student_ptr", "logits_ptr", "hidden_ptr", "weight_ptr", "bias_ptr"}
TEACHER_SIDE = {"teacher_ptr"}
GRADIENT_SIDE = {"d_student_ptr", "d_logits_ptr"}
# Arguments that are None unless the option is on, in kernels with that option.
OPTIONAL = {
    "labels_ptr": "HAS_LABEL",
    "d_ce_ptr": "HAS_LABEL",
    "mask_ptr": "HAS_MASK",
    "d_kl_ptr": "HAS_KL",
    "parts_ptr": "SPLITS",
    "part_ids_ptr": "SPLITS",
    "bias_ptr": "HAS_BIAS",
}


class Kernel(NamedTuple):
    """A kernel, its launch parameters, and what its signature does not tell."""

    function: Any
    blocks: str | None  # key in blocks.json; None for one warp
    rows: int = 0  # tensors that the main loop reads along the vocabulary
    types: Mapping[str, str] = MappingProxyType({})
    constants: Mapping[str, Any] = MappingProxyType({})
    block_name: str = "BLOCK_V"
    aligned: frozenset[str] = frozenset()  # arguments that are always multiples of 16
    of: str | None = None  # op, where a folder holds several

    @property
    def op(self) -> str:
        """The op; its folder in tide_kernels, unless that holds several."""
        return self.of or str(self.function.__module__).split(".")[1]

    @property
    def name(self) -> str:
        """Op and pass: function name without `_kernel`."""
        name = str(self.function.__name__).removesuffix("_kernel")
        return name if self.of is None else f"{self.of}_{name.rsplit('_', 1)[1]}"


class Variant(NamedTuple):
    """A launch: options, dtypes, and which integers are multiples of 16.

    Layouts: `aligned`, V and strides are multiples of 16 (V = 151,936); `narrow`, only strides (151,646 of
    151,936 entries); `odd`, neither (151,646 contiguous); `single`, one row of one entry, where Triton turns
    the ones into constants.
    """

    name: str
    layout: str
    options: dict[str, Any]
    student: str = "bf16"
    teacher: str = "bf16"
    gradient: str | None = None  # None: the student's


def _options(**changes: Any) -> dict[str, Any]:
    """Options of a launch; a kernel uses those in its signature."""
    usual = {
        "HAS_KL": True,
        "HAS_LABEL": False,
        "HAS_MASK": False,
        "HAS_BIAS": False,
        "HAS_SOFTCAP": False,
        "ROUNDED": False,
        "WIDEN": False,
        "TEMPERATURE": 2,
        "LOCKSTEP": True,
        "SPLITS": 1,
        "OBJECTIVE": "interpolated",
    }
    return usual | changes


# Every option on and off, every pair of options that share an expression, every layout and dtype.
VARIANTS = (
    Variant("plain", "aligned", _options()),
    Variant("narrow", "narrow", _options()),
    Variant("odd", "odd", _options()),
    Variant("label", "aligned", _options(HAS_LABEL=True, HAS_MASK=True, OBJECTIVE="forward")),
    Variant(
        "label, T=1, split",
        "narrow",
        _options(HAS_LABEL=True, TEMPERATURE=1, SPLITS=4, OBJECTIVE="reverse"),
    ),
    Variant(
        "label, any T, split, odd",
        "odd",
        _options(HAS_LABEL=True, HAS_MASK=True, TEMPERATURE=0, SPLITS=32, OBJECTIVE="kl"),
    ),
    Variant(
        "label, any T, fp32, apart",
        "odd",
        _options(HAS_LABEL=True, TEMPERATURE=0, LOCKSTEP=False),
        "fp32",
        "fp32",
    ),
    Variant("label alone", "aligned", _options(HAS_KL=False, HAS_LABEL=True, TEMPERATURE=1)),
    Variant("fp16, fp32", "aligned", _options(HAS_MASK=True, TEMPERATURE=1), "fp16", "fp32"),
    # Launched by the ops over hidden states.
    Variant("fp32 to bf16", "aligned", _options(HAS_LABEL=True, HAS_BIAS=True), "fp32", "fp32", "bf16"),
    Variant(
        "soft-cap, rounded",
        "aligned",
        _options(HAS_LABEL=True, TEMPERATURE=0, HAS_BIAS=True, HAS_SOFTCAP=True, ROUNDED=True),
    ),
    Variant("single", "single", _options(HAS_LABEL=True, HAS_MASK=True)),
)
PLAIN = VARIANTS[0].name
# The single variant of --quick, and the layouts that must load 16 bytes.
REPRESENTATIVE = "label"
WIDE = ("plain", "narrow", "odd")


def _divergence(op: str, *, reverse: bool) -> tuple[Kernel, Kernel, Kernel]:
    constants = {"REVERSE": reverse}
    return (
        Kernel(divergence.divergence_fwd_kernel, f"{op}_fwd", 2, constants=constants, of=op),
        Kernel(divergence.divergence_join_kernel, f"{op}_fwd", constants=constants, of=op),
        Kernel(divergence.divergence_bwd_kernel, f"{op}_bwd", 2, constants=constants, of=op),
    )


KERNELS = (
    *_divergence("interpolated_kl", reverse=False),
    *_divergence("reverse_kl", reverse=True),
    Kernel(token_logprob.token_logprob_fwd_kernel, "token_logprob_fwd", 1),
    Kernel(token_logprob.token_logprob_join_kernel, None),
    Kernel(token_logprob.token_logprob_bwd_kernel, "token_logprob_bwd", 1),
    Kernel(token_scores.token_scores_fwd_kernel, "token_scores", 1),
    Kernel(token_scores.token_scores_join_kernel, None),
    Kernel(
        linear_token_logprob.linear_token_logprob_fwd_kernel,
        "linear_token_logprob_fwd",
        constants={"BLOCK_N": BLOCK_N},
        aligned=frozenset({"hidden_stride_n", "weight_stride_v", "d"}),
    ),
    Kernel(
        linear_token_logprob.linear_token_logprob_join_kernel,
        None,
        constants={"BLOCK_N": JOIN_BLOCK_N, "BLOCK_T": JOIN_BLOCK_T},
    ),
    Kernel(
        chunk_likelihood.chunk_likelihood_fwd_kernel,
        "chunk_likelihood_fwd",
        types={
            "student_chunks_ptr": "*i64",
            "teacher_chunks_ptr": "*i64",
            "lambda_ptr": "*fp64",
            "slope_ptr": "*fp64",
        },
        constants={"BLOCK_C": BLOCK_C},
        block_name="BLOCK_L",
    ),
    Kernel(
        chunk_likelihood.chunk_likelihood_bwd_kernel,
        "chunk_likelihood_bwd",
        types={"chunks_ptr": "*i64", "slope_ptr": "*fp64"},
        block_name="BLOCK_L",
    ),
)


def signature(
    kernel: Kernel, variant: Variant, block: int | None
) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """(types, constants, arguments divisible by 16) by name, as Triton's launcher would derive them.

    block: columns per tile, for a kernel with tiles.
    """
    depth = BLOCK_D[4 if variant.student == "fp32" else 2]
    options = variant.options | {"BLOCK_D": depth} | dict(kernel.constants) | {kernel.block_name: block}
    parameters = kernel.function.params
    has = {p.name for p in parameters if p.is_constexpr}
    # SPLITS = 1 has no parts.
    off = {name for name, value in options.items() if value is False or (name, value) == ("SPLITS", 1)}
    absent = {pointer for pointer, option in OPTIONAL.items() if option in has & off}
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible: list[str] = []
    for parameter in parameters:
        name = parameter.name
        if parameter.is_constexpr:
            constants[name] = options[name]
        elif name in absent:
            constants[name] = None
        elif name.endswith("_ptr"):
            types[name] = kernel.types.get(name) or _pointer(name, variant)
            divisible.append(name)
        elif name in kernel.aligned:
            types[name] = "i32"
            divisible.append(name)
        elif parameter.do_not_specialize:
            types[name] = TYPES.get(name, "i32")
        elif variant.layout == "single" and (name in ("V", "width") or name.endswith("_stride_n")):
            constants[name] = 1
        else:
            types[name] = parameter.annotation_type or TYPES.get(name, "i32")
            strides = name.endswith(("_stride_n", "_stride_v")) or name == "width"
            if (variant.layout == "aligned" and types[name] == "i32") or (
                variant.layout == "narrow" and strides
            ):
                divisible.append(name)
    # Triton numbers arguments by position, constants included.
    return {p.name: types.get(p.name, "constexpr") for p in parameters}, constants, divisible


def applicable(kernel: Kernel) -> list[Variant]:
    """Variants that compile to different code; join kernels get at least two splits."""
    names = {p.name for p in kernel.function.params}
    kept: list[Variant] = []
    seen: list[Any] = []
    for variant in VARIANTS:
        joins = "SPLITS" in names and kernel.function.__name__.endswith("_join_kernel")
        if joins and variant.options["SPLITS"] == 1:
            variant = variant._replace(options=variant.options | {"SPLITS": 2})
        what = signature(kernel, variant, 0)
        if what not in seen:
            seen.append(what)
            kept.append(variant)
    return kept


def _pointer(name: str, variant: Variant) -> str:
    if name in STUDENT_SIDE:
        return f"*{variant.student}"
    if name in TEACHER_SIDE:
        return f"*{variant.teacher}"
    if name in GRADIENT_SIDE:
        return f"*{variant.gradient or variant.student}"
    return TYPES.get(name, "*fp32")
