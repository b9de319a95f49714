"""Every loss as an ``nn.Module`` that fixes the options of its function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from tide.losses.chunk_likelihood import calm_loss, reverse_calm_loss, tidal_chunk_loss
from tide.losses.cross_entropy import cross_entropy_loss
from tide.losses.divergences import (
    forward_kl_loss,
    linear_forward_kl_loss,
    linear_reverse_kl_loss,
    linear_tidal_loss,
    reverse_kl_loss,
    tidal_loss,
)
from tide.losses.options import HIDDEN_OPTIONS, unknown_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar


class LossModule(nn.Module):
    """A loss function with its options fixed: ``TIDALLoss(temperature=1.5)`` is called as ``tidal_loss``.

    The constructor takes the options, keyword arguments that cannot be tensors; each call takes
    the others. There are no parameters, no buffers and no state.

    Raises:
        TypeError: the function has no such option, or takes it with each call.
    """

    function: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, function: Callable[..., Any] | None = None) -> None:
        super().__init_subclass__()
        if function is not None:  # None: a user's subclass of one of the losses below
            cls.__doc__ = f"``{function.__name__}`` with its options fixed; see `LossModule`."
            cls.function = staticmethod(function)

    def __init__(self, **options: Any) -> None:
        called, arguments = type(self).__name__, inspect.signature(self.function).parameters
        keywords = [x for x in arguments.values() if x.kind is x.KEYWORD_ONLY]
        # Annotations are text here.
        defaults = {x.name: x.default for x in keywords if "Tensor" not in x.annotation}
        known = [*defaults, *(HIDDEN_OPTIONS if "options" in arguments else ())]
        for option in [option for option in options if option not in known]:
            if option in arguments and option != "options":
                raise TypeError(
                    f"{called}: unexpected keyword argument {option!r}. "
                    f"Pass {option} to each call of the module."
                )
            raise unknown_option(called, option, known)
        super().__init__()
        self.options = defaults | options

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The loss; arguments are those of the function that are no options."""
        return self.function(*args, **kwargs, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class TIDALLoss(LossModule, function=tidal_loss): ...


class ForwardKLLoss(LossModule, function=forward_kl_loss): ...


class ReverseKLLoss(LossModule, function=reverse_kl_loss): ...


class LinearTIDALLoss(LossModule, function=linear_tidal_loss): ...


class LinearForwardKLLoss(LossModule, function=linear_forward_kl_loss): ...


class LinearReverseKLLoss(LossModule, function=linear_reverse_kl_loss): ...


class CALMLoss(LossModule, function=calm_loss): ...


class ReverseCALMLoss(LossModule, function=reverse_calm_loss): ...


class TIDALChunkLoss(LossModule, function=tidal_chunk_loss): ...


class CrossEntropyLoss(LossModule, function=cross_entropy_loss): ...
