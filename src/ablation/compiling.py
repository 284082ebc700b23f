"""torch.compile of the blocks, not of the net: a handful of graphs then serves every depth."""

import torch

from ablation.networks import Block, Network


def worth_compiling(asked: bool | None, device: torch.device, steps: int, depth: int) -> bool:
    """What `trainer.compile` says; null: on CUDA."""
    return asked if asked is not None else device.type == "cuda"


def compile_blocks(network: torch.nn.Module) -> None:
    """Compile each block in place; the state dict's names stay."""
    torch._dynamo.config.recompile_limit = 64
    for module in network.modules():
        if isinstance(module, Block):
            module.compile()


__all__ = ["Network", "compile_blocks", "worth_compiling"]
