"""Whether a gradient is computed by nothing but operations that are smooth in the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from curvature.derivatives.products import gradient, nodes_of

# Analytic on all of ℝ. Not so sqrt, log, division and negative powers: √(x²) is |x|. Not so
# softplus either, which PyTorch makes linear above a threshold.
_NAMES = """
    mm addmm bmm baddbmm mv addmv dot convolution convolution_backward
    add sub rsub mul neg addcmul div pow sum mean cumsum
    native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward
    native_batch_norm native_batch_norm_backward _native_batch_norm_legit
    gelu gelu_backward silu silu_backward tanh tanh_backward sigmoid sigmoid_backward
    log_sigmoid_forward log_sigmoid_backward exp sin cos erf
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data _safe_softmax logsumexp
    nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward
    mse_loss mse_loss_backward binary_cross_entropy_with_logits
    embedding embedding_dense_backward index index_put index_select index_add gather scatter_add
    avg_pool2d avg_pool2d_backward _adaptive_avg_pool2d _adaptive_avg_pool2d_backward
    constant_pad_nd masked_fill where tril triu
    view _unsafe_view _reshape_alias reshape t transpose permute expand as_strided alias detach
    slice slice_backward slice_scatter select select_backward select_scatter
    split split_with_sizes unsafe_split unsafe_split_with_sizes unbind cat stack
    squeeze unsqueeze unfold unfold_backward flip roll repeat
    clone copy _to_copy zero fill
"""
_SMOOTH = frozenset(_NAMES.split())
# These read a shape, and no number. What is empty, kernels that aren't seen may fill.
_CONSTANT = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
_DTYPES = (torch.float32, torch.float64)
# What hands numbers to Python, or has them changed there, unseen by a dispatch mode; and
# `grad`, inside of which a function mode sees nothing.
_READS = frozenset(
    {
        torch.autograd.grad,
        Tensor.numpy,
        Tensor.__array__,
        Tensor.__dlpack__,
        Tensor.tolist,
        Tensor.data_ptr,
        Tensor.storage,
        Tensor.untyped_storage,
        Tensor.apply_,
        Tensor.map_,
        Tensor.map2_,
        Tensor.__reduce_ex__,
        Tensor.register_hook,
    }
)


def smooth_by_operations(
    call: Callable[[], Tensor], params: Sequence[Tensor], constants: Iterable[Tensor]
) -> bool:
    """Whether ``call``'s gradient by ``params`` is surely smooth in them; costs one such gradient.

    True where every operation that depends on them, forward and backward, is known to be smooth.
    ``constants`` are the other tensors that ``call`` may read; False if it reads one more.
    """
    try:
        operations = _Operations(params, constants)
        with operations:
            with _PythonReads(operations):
                value = call()
            if operations.smooth and _of_built_in_functions(value):
                gradient(value, params)
                return operations.smooth
    except Exception:  # anyone's code may know no modes, and not every tensor has a storage
        pass
    return False


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows by their memory which tensors depend on the parameters, and what is done to them."""

    def __init__(self, params: Iterable[Tensor], constants: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.smooth = True
        self._varies: dict[int, bool] = {}  # by address
        self._held: list[StorageWeakRef] = []  # so that no other storage takes the address
        self._note(constants, varies=False)
        self._note(params, varies=True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import it all: seconds, and 36 MB

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.smooth:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        taken = _tensors((args, kwargs))
        if name == "lift_fresh":  # made from Python's numbers
            self._note(taken, varies=False)
        known = [self._varies.get(_memory(t)) for t in taken]
        self.smooth = None not in known and all(type(t) in (Tensor, nn.Parameter) for t in taken)
        varies = any(known) and name not in _CONSTANT
        if varies:
            self.smooth &= name in _SMOOTH and self._as_listed(name, func, args, kwargs)
        found = func(*args, **kwargs)
        given = _tensors(found)
        if varies:
            self.smooth &= all(t.dtype in _DTYPES for t in given)
            if func._schema.is_mutable or "batch_norm" in name:  # whose schema doesn't say it
                given += taken
            self._note(given, varies=True)
        elif "empty" not in name:
            self._note(given, varies=False)
        return found

    def varies(self, tensors: Iterable[Tensor]) -> bool:
        """Whether one of them may depend on the parameters."""
        return any(self._varies.get(_memory(t)) for t in tensors)

    def _note(self, tensors: Iterable[Tensor], *, varies: bool) -> None:
        for t in tensors:
            if _memory(t) not in self._varies:
                storage = t.untyped_storage()
                self._held.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
                self._varies[_memory(t)] = varies
            elif varies:
                self._varies[_memory(t)] = True

    def _as_listed(self, name: str, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation is called in a way in which it is smooth."""
        if name == "div":
            return "rounding_mode" not in kwargs and not self.varies(_tensors(args[1]))
        if name == "pow":
            return isinstance(args[1], (int, float)) and args[1] >= 0 and args[1] % 1 == 0
        if name == "view":
            return bool(func._overloadname != "dtype")  # which takes the bits for other numbers
        if name.endswith(("_norm", "_norm_legit")):
            return bool(args[-1] > 0)  # what is added to the variance
        return True


class _PythonReads(TorchFunctionMode):
    """Ends the smoothness where Python is handed numbers that depend on the parameters."""

    def __init__(self, operations: _Operations) -> None:
        super().__init__()
        self._operations = operations

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READS and self._operations.varies(_tensors((args, kwargs))):
            self._operations.smooth = False
        return func(*args, **kwargs or {})


def _of_built_in_functions(value: Tensor) -> bool:
    """Whether none is anyone's own: what such a one computes outside of PyTorch isn't seen."""
    own = torch._C._functions
    return all(getattr(own, type(node).__name__, None) is type(node) for node in nodes_of(value))


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _memory(t: Tensor) -> int:
    address: int = t.untyped_storage()._cdata
    return address
