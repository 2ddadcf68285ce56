"""Training with FP8 products, by torchao: weights, activations and gradients are scaled to FP8 tensor by tensor as they come.

Every linear layer of the blocks takes part, embedding and output do not. Scales for each tensor were faster than for each row in
all measurements of torchao and torchtitan, and need no kernel of our own; it pays on Hopper and with compiled blocks only.
"""

from __future__ import annotations

from torch import nn

from puna.core.errors import InputError

MULTIPLE = 16  # of both dimensions, asked for by the scaled product


def use_float8(model: nn.Module) -> None:
    """Replace the linear layers inside `layers` by ones that multiply in FP8; parameters keep their names.

    Raises:
        InputError: torchao is not installed.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise InputError(
            "training in FP8 needs the package 'torchao'", where="precision", fix="pip install 'puna[gpu]'"
        ) from error

    def fits(module: nn.Module, name: str) -> bool:
        if not isinstance(module, nn.Linear) or ".layers." not in f".{name}":
            return False
        return module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0

    convert_to_float8_training(model, module_filter_fn=fits, config=Float8LinearConfig())
