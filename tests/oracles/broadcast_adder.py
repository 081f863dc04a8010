"""AdderNet's adder layer as its formulas stand, by broadcasting to [outputs, inputs k k, patches]: slow and large."""

import torch
from torch.nn import functional as F


class Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, x):  # [O, K], [K, P]
        ctx.save_for_backward(w, x)
        return -(w[:, :, None] - x[None]).abs().sum(1)

    @staticmethod
    def backward(ctx, g):
        w, x = ctx.saved_tensors
        dw = ((x[None] - w[:, :, None]) * g[:, None]).sum(2)
        dx = ((w[:, :, None] - x[None]).clamp(-1, 1) * g[:, None]).sum(0)
        return dw / dw.norm() * w.numel() ** 0.5 / 5, dx


def adder2d(x, weight, stride=1, padding=0):
    outputs, _, kernel, _ = weight.shape
    side = (x.shape[2] + 2 * padding - kernel) // stride + 1, (x.shape[3] + 2 * padding - kernel) // stride + 1
    columns = F.unfold(x, kernel, padding=padding, stride=stride).permute(1, 2, 0).flatten(1)
    out = Broadcast.apply(weight.flatten(1), columns)
    return out.view(outputs, *side, len(x)).permute(3, 0, 1, 2)
