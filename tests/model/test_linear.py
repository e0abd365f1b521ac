"""Linear layers: what oneDNN computes is what PyTorch computes, and it is asked where it helps only.

pytest tests/model/test_linear.py
"""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vjepa_hf.model import linear as linear_module
from vjepa_hf.model.linear import Linear, linear, mkl_is_slow, onednn_linear

WIDE = (512, 256)  # as many weights as are worth the call


@pytest.fixture
def calls(monkeypatch) -> list[torch.Size]:
    """Shapes of the inputs that oneDNN was given by layers, on any machine that has it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    seen = []

    def counting(input, weight, bias):
        seen.append(input.shape)
        return onednn_linear(input, weight, bias)

    monkeypatch.setattr(linear_module, "USE_ONEDNN", True)
    monkeypatch.setattr(linear_module, "onednn_linear", counting)
    return seen


def tensors(*shape: int, bias: bool = True) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*shape, WIDE[1]), WIDE, (WIDE[0],)]
    made = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return made if bias else [*made[:2], None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 33), (2, 3, 5), (1, 0)])
def test_output_and_gradients_equal_those_of_pytorch(shape, bias, calls):
    inputs = tensors(*shape, bias=bias)
    given = [tensor for tensor in inputs if tensor is not None]
    ours, theirs = linear(*inputs), functional.linear(*inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((result * weights).sum(), given) for result in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)
    assert calls == [inputs[0].shape, theirs.shape]  # the output, and the gradient of the input


def test_only_gradients_that_are_asked_for_are_computed(calls):
    input, weight, bias = tensors(5)
    linear(input.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None and input.grad is None and bias.grad is None


def test_gradients_of_gradients_equal_those_of_pytorch(calls):
    def second(function):
        input, weight, bias = tensors(6)
        (first,) = torch.autograd.grad(function(input, weight, bias).square().sum(), input, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (input, weight))

    torch.testing.assert_close(second(linear), second(functional.linear), rtol=1e-4, atol=1.0)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_the_operation_keeps_the_rules_of_operations_of_pytorch():
    torch.library.opcheck(onednn_linear, tensors(3, 5))
    torch.library.opcheck(onednn_linear, tensors(5, bias=False))


def test_one_compiled_graph_serves_all_token_counts(calls, monkeypatch):
    monkeypatch.setattr(linear_module, "onednn_linear", onednn_linear)  # counting calls would be compiled as well
    torch.compiler.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    layer = nn.Sequential(Linear(*reversed(WIDE)), nn.GELU(), Linear(*WIDE))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (16, 23, 57):
        input = torch.randn(2, tokens, WIDE[1])
        torch.testing.assert_close(compiled(input), layer(input), atol=1e-5, rtol=1e-5)
        compiled(input).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


class Marked(torch.Tensor):
    """A kind of tensor that is not plain, as sharded and quantized weights are."""


@pytest.mark.parametrize("case", ["narrow", "double", "half", "autocast", "subclass", "meta", "switched off"])
def test_pytorch_multiplies_what_does_not_suit_onednn(case, calls, monkeypatch):
    input, weight, bias = (tensor.detach() for tensor in tensors(4))
    if case == "narrow":
        weight, bias = weight[:-1], bias[:-1]
    elif case in ("double", "half"):
        input, weight, bias = (tensor.to(getattr(torch, case)) for tensor in (input, weight, bias))
    elif case == "subclass":
        weight = weight.as_subclass(Marked)
    elif case == "meta":
        input, weight, bias = (tensor.to("meta") for tensor in (input, weight, bias))
    elif case == "switched off":
        monkeypatch.setattr(linear_module, "USE_ONEDNN", False)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert linear(input, weight, bias).dtype == (torch.bfloat16 if case == "autocast" else input.dtype)
    assert not calls


def test_an_exported_model_has_operations_of_pytorch_only(calls):
    layer = Linear(*reversed(WIDE))
    layer(torch.randn(3, WIDE[1]))
    assert calls
    program = torch.export.export(layer, (torch.randn(3, WIDE[1]),))
    assert not [node for node in program.graph.nodes if "vjepa_hf" in str(node.target)]
    assert "onednn" not in str(torch.jit.trace(layer, torch.randn(3, WIDE[1])).graph)


def test_operations_are_counted_like_those_of_pytorch(calls):
    def count(function) -> int:
        with FlopCounterMode(display=False) as counter:
            function(*tensors(2, 9)).sum().backward()
        return counter.get_total_flops()

    assert count(linear) == count(functional.linear) > 0


@pytest.mark.parametrize(
    ("name", "wide", "slow"), [("AMD EPYC", True, True), ("AMD EPYC", False, False), ("Intel(R) Xeon(R)", True, False)]
)
def test_mkl_is_slow_on_wide_units_of_other_makers(name, wide, slow, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx512_f": wide}, raising=False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert mkl_is_slow() == slow
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not mkl_is_slow()
