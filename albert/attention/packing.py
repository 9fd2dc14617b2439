import torch
from einops import rearrange


def pack(tensors: tuple[torch.Tensor, ...], mask: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Move each row's real tokens to its front, in their order: what depends on distance or position then sees
    neither padding nor holes.

    (B, heads, T, head_dim) tensors and mask (B, T), true = token, to the packed tensors, their mask, and the place
    (B, T) of each token in them, which `unpack` takes.
    """
    count, padding = mask.cumsum(dim=-1), (~mask).cumsum(dim=-1)
    place = torch.where(mask, count, count[:, -1:] + padding) - 1
    numbers = torch.arange(mask.shape[1], device=mask.device).expand_as(place)
    order = torch.zeros_like(place).scatter(1, place, numbers)
    return [take(tensor, order) for tensor in tensors], numbers < count[:, -1:], place


def unpack(tensor: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """`pack` undone: (B, heads, at least T, head_dim), where tokens past T are left out, to (B, heads, T, head_dim)."""
    return take(tensor, place)


def take(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tensor.gather(2, rearrange(index, "b t -> b 1 t 1").expand(-1, tensor.shape[1], -1, tensor.shape[3]))
