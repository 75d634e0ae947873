"""What torch.compile hands to its backend, to look at."""

from collections.abc import Callable
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd


def backward_operations(function: Callable[..., Tensor], *inputs: Tensor) -> list[str]:
    """The operations of a compiled function's backward pass, in their order: "aten.exp.default" for one."""
    graphs: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=keep)
    torch.compile(function, fullgraph=True, backend=backend)(*inputs).sum().backward()
    (graph,) = graphs
    return [str(node.target) for node in graph.graph.nodes]
