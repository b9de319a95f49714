"""Each loss module is its function with the options fixed."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch

import tide.losses

CALM_OPTIONS = ("temperature", "eps", "divergence", "reduction", "backend")
LOGITS_OPTIONS = ("temperature", "vocab_size", "reduction", "backend", "inplace_gradient")
HIDDEN_OPTIONS = tuple(tide.losses.HiddenOptions.__annotations__)
LINEAR_OPTIONS = ("temperature", "vocab_size", "workspace_bytes", "reduction", "backend", *HIDDEN_OPTIONS)
# The function of every module, and its options; the other arguments go to each call.
LOSSES = {
    "CALMLoss": ("calm_loss", CALM_OPTIONS),
    "CrossEntropyLoss": ("cross_entropy_loss", ("normalizer", "ignore_index", "vocab_size", "backend")),
    "ForwardKLLoss": ("forward_kl_loss", LOGITS_OPTIONS),
    "LinearForwardKLLoss": ("linear_forward_kl_loss", LINEAR_OPTIONS),
    "LinearReverseKLLoss": ("linear_reverse_kl_loss", LINEAR_OPTIONS),
    "LinearTIDALLoss": ("linear_tidal_loss", LINEAR_OPTIONS),
    "ReverseCALMLoss": ("reverse_calm_loss", CALM_OPTIONS),
    "ReverseKLLoss": ("reverse_kl_loss", LOGITS_OPTIONS),
    "TIDALChunkLoss": ("tidal_chunk_loss", ("temperature", "eps", "reduction", "backend")),
    "TIDALLoss": ("tidal_loss", LOGITS_OPTIONS),
}
LINEAR = [name for name in LOSSES if name.startswith("Linear")]
# A value for every option: not its default, and one that changes the result where it can.
OPTIONS = {
    "backend": "torch",
    "divergence": "kl",
    "eps": 0.3,
    "ignore_index": 3,
    "inplace_gradient": True,
    "normalizer": "sequence",
    "reduction": "sum",
    "student_logit_scale": 0.8,
    "student_softcap": 1.5,
    "teacher_logit_scale": 0.6,
    "teacher_softcap": 2.5,
    "temperature": 1.3,
    "vocab_size": 11,
    "workspace_bytes": 4096,
    # These inputs allow no other value: see test_hidden_options_reach_the_operation.
    "logits_dtype": None,
    "vocab_group": None,
}
HIDDEN_NAMES = f"{', '.join(HIDDEN_OPTIONS)}."
SILENT = {"backend", "inplace_gradient", "workspace_bytes", "logits_dtype", "vocab_group"}


def parts(name):
    """The class, its function, the options, and the arguments of each call."""
    function, options = LOSSES[name]
    module, function = getattr(tide.losses, name), getattr(tide.losses, function)
    per_call = [x for x in inspect.signature(function).parameters if x not in (*options, "options")]
    return module, function, options, per_call


def arguments(name):
    """A value for each argument of a call."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    def rand(*shape):
        return torch.rand(*shape, generator=generator) + 0.1

    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    values = {
        "student_logits": randn(2, 4, 13),
        "teacher_logits": randn(2, 4, 13),
        "logits": randn(2, 4, 13),
        "student_hidden": randn(2, 4, 5),
        "student_weight": randn(13, 5),
        "teacher_hidden": randn(2, 4, 6),
        "teacher_weight": randn(13, 6),
        "student_bias": randn(13),
        "teacher_bias": randn(13),
        "mask": mask,
        "loss_mask": mask | torch.eye(2, 4, dtype=torch.bool),
        "labels": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 10]]),
        "lambda_t": torch.tensor([0.2, 0.6]),
        "weight": rand(2, 4),
        "ce_weight": rand(2, 4),
        "count": torch.tensor(9.0),
        "student_token_log_probs": -rand(2, 4),
        "teacher_token_log_probs": -rand(2, 4),
        "student_chunks": torch.tensor([[0, 0, 1, -1], [2, 1, 1, 0]]),
        "teacher_chunks": torch.tensor([[0, 1, 1, -1], [2, 2, 1, 0]]),
        "chunk_mask": torch.tensor([[True, True, False], [True, True, True]]),
        "chunk_weights": rand(2, 3),
    }
    return {key: values[key].clone() for key in parts(name)[3]}


def differentiated(loss, given):
    """The tensors of a result, and the gradient of the first in the student's."""
    key = next(key for key in given if "student" in key or key == "logits")
    student = given[key].requires_grad_()
    # A gradient in place may go over what an operation made, not over a leaf.
    result = loss(given | {key: student * 1.0})
    tensors = result if isinstance(result, tuple) else (result,)
    (gradient,) = torch.autograd.grad(tensors[0].sum(), [student])
    return [tensor.detach() for tensor in tensors] + [gradient]


def same(results, others):
    return len(results) == len(others) and all(
        torch.equal(one, other) for one, other in zip(results, others, strict=True)
    )


def test_every_loss_has_a_module():
    functions = {name for name in tide.losses.__all__ if name.endswith("_loss")}
    modules = {name for name in tide.losses.__all__ if inspect.isclass(getattr(tide.losses, name))}
    assert functions == {function for function, _ in LOSSES.values()}
    assert modules - {"DivergenceLoss", "HiddenOptions"} == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_options_default_to_those_of_the_function(name):
    module, function, options, per_call = parts(name)
    parameters = inspect.signature(function).parameters
    assert module().options == {key: parameters[key].default for key in options if key in parameters}
    assert set(options) - set(parameters) == (set(HIDDEN_OPTIONS) if name in LINEAR else set())
    assert function.__name__ in module.__doc__
    assert not set(options) & set(per_call)


@pytest.mark.parametrize("name", LOSSES)
def test_module_computes_its_function(name):
    module, function, options, _ = parts(name)
    changed = {key: OPTIONS[key] for key in options}
    if "normalizer" in options:
        changed["ignore_index"] = 1
    for fixed in ({}, changed, *({key: value} for key, value in changed.items())):
        loss = module(**fixed)
        ours = differentiated(lambda given, loss=loss: loss(**given), arguments(name))
        wanted = differentiated(lambda given, fixed=fixed: function(**given, **fixed), arguments(name))
        assert same(ours, wanted)


@pytest.mark.parametrize("name", LOSSES)
def test_every_option_reaches_the_function(name):
    module, _, options, _ = parts(name)
    given = arguments(name)
    if name == "CrossEntropyLoss":
        given["count"] = None  # otherwise no normaliser counts
    plain = differentiated(lambda given: module()(**given), {k: copy.copy(v) for k, v in given.items()})
    for key in set(options) - SILENT:
        other = differentiated(
            lambda given, key=key: module(**{key: OPTIONS[key]})(**given),
            {k: v.detach().clone() if torch.is_tensor(v) else v for k, v in given.items()},
        )
        assert not same(plain, other), key
    if "backend" in options:
        with pytest.raises(ValueError, match="backend"):
            module(backend="none such")(**arguments(name))
    if "workspace_bytes" in options:
        with pytest.raises(ValueError, match="workspace"):
            module(workspace_bytes=-1)(**arguments(name))


@pytest.mark.parametrize("name", LOSSES)
def test_module_has_no_state_and_shows_its_options(name):
    module, _, options, _ = parts(name)
    loss = module(**{key: OPTIONS[key] for key in options})
    assert not loss.state_dict() and not list(loss.parameters()) and not list(loss.buffers())
    shown = re.fullmatch(rf"{name}\((.*)\)", repr(loss))
    assert shown and shown[1] == ", ".join(f"{key}={OPTIONS[key]!r}" for key in options)


@pytest.mark.parametrize("name", LINEAR)
def test_hidden_options_reach_the_operation(name):
    given = arguments(name)
    module = getattr(tide.losses, name)
    with pytest.raises(ValueError, match=r"logits_dtype.*half"):
        module(logits_dtype=torch.bfloat16)(**given)
    with pytest.raises(AttributeError):
        module(vocab_group="not a group")(**given)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_option_names_the_nearest_one(name):
    with pytest.raises(TypeError, match=f"^{name}: .*'bakend'.*Did you mean backend"):
        getattr(tide.losses, name)(bakend="torch")


@pytest.mark.parametrize("name", LOSSES)
def test_argument_of_a_call_is_refused_at_construction(name):
    module, _, _, per_call = parts(name)
    for argument in per_call:
        with pytest.raises(TypeError, match=f"^{name}: .*'{argument}'.*each call"):
            module(**{argument: 3.0})


@pytest.mark.parametrize("name", LOSSES)
def test_option_is_refused_in_a_call(name):
    with pytest.raises(TypeError, match="backend"):
        parts(name)[0]()(**arguments(name), backend="torch")


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("temprature", "Did you mean temperature?"),
        ("student_cap", "Did you mean student_softcap?"),
        ("student_logitscale", "Did you mean student_logit_scale?"),
        ("quux", "Choose from temperature, vocab_size, workspace_bytes, reduction, backend, " + HIDDEN_NAMES),
        ("student_bias", "Pass student_bias to each call of the module."),
    ],
)
def test_unknown_hidden_option_names_the_nearest_one(name, option, remedy):
    module, function, _, _ = parts(name)
    with pytest.raises(TypeError) as refused:
        module(**{option: 3.0})
    assert str(refused.value) == f"{name}: unexpected keyword argument {option!r}. {remedy}"
    if option == "student_bias":
        return
    with pytest.raises(TypeError) as refused:
        function(**arguments(name), **{option: 3.0})
    message = str(refused.value)
    assert message.startswith(f"{function.__name__}: unexpected keyword argument {option!r}. ")
    assert message.endswith(f" {HIDDEN_NAMES}" if option == "quux" else remedy)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wrong", [np.zeros(3), torch.nn.Linear(5, 13)], ids=["ndarray", "Linear"])
def test_non_tensor_is_refused_by_name(name, wrong):
    given, function = arguments(name), parts(name)[1]
    # A factor may be anything that torch can make a tensor of.
    for key in given.keys() - {"weight", "ce_weight", "chunk_weights", "count"}:
        kind = "a torch tensor or a number" if key == "lambda_t" else "a torch tensor"
        with pytest.raises(ValueError, match=f": {key} must be {kind}; got {type(wrong).__name__}"):
            function(**given | {key: wrong})


def test_layer_in_place_of_a_weight_is_refused_by_the_called_function():
    given = arguments("LinearTIDALLoss") | {"student_weight": torch.nn.Linear(5, 13)}
    message = "^linear_tidal_loss: student_weight must be a torch tensor; got Linear. Pass lm_head.weight"
    with pytest.raises(ValueError, match=message):
        tide.losses.linear_tidal_loss(**given)
    with pytest.raises(
        ValueError, match=r"^linear_token_log_probs: weight must be a torch tensor; got Linear"
    ):
        tide.losses.linear_token_log_probs(torch.zeros(2, 5), torch.nn.Linear(5, 13), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["TIDALLoss", "ForwardKLLoss", "ReverseKLLoss"])
def test_inplace_gradient_overwrites_the_logits(name):
    given = arguments(name)
    logits = torch.nn.Parameter(given.pop("student_logits"))
    passed = logits * 1.0
    getattr(tide.losses, name)(inplace_gradient=True)(passed, **given).loss.backward()
    assert not torch.equal(passed.detach(), logits.detach())


def test_module_nests_and_survives_copy_and_pickle():
    class Student(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(5, 13)
            self.distillation = tide.losses.ReverseKLLoss(temperature=1.5)

        def forward(self, hidden, teacher_logits):
            return self.distillation(self.head(hidden), teacher_logits)

    student = Student()
    hidden, teacher_logits = torch.randn(3, 5), torch.randn(3, 13)
    wanted = tide.losses.reverse_kl_loss(student.head(hidden), teacher_logits, temperature=1.5)
    assert torch.equal(student(hidden, teacher_logits), wanted)
    assert torch.equal(copy.deepcopy(student)(hidden, teacher_logits), wanted)
    loaded = pickle.loads(pickle.dumps(student.distillation))
    assert repr(loaded) == repr(student.distillation)
    assert torch.equal(loaded(student.head(hidden), teacher_logits), wanted)
    assert set(student.state_dict()) == {"head.weight", "head.bias"}
