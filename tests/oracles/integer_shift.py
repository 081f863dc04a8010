"""A shift layer in integers alone: arithmetic shifts to the right, signs, sums. No multiplication, no float."""

import torch
from torch.nn import functional as F

FRACTION = 16  # bits behind the binary point of inputs and outputs


def shift_conv2d(x, exponent, sign, stride=1, padding=0, guard=0):
    """x int32 [n, c, h, w] in units of 2^-16; exponent int32 (0 or less) and sign in {-1, 0, 1}, [o, c, k, k].

    A right shift throws bits away; ``guard`` more bits behind the point keep them (int64 then). Returns int64 in units
    of 2^-(16 + guard).
    """
    outputs, channels, kernel, _ = exponent.shape
    x = F.pad(x, [padding] * 4)
    windows = x.unfold(2, kernel, stride).unfold(3, kernel, stride)  # [n, c, h', w', k, k]
    if guard:
        windows = windows.long() << guard
    out = torch.zeros(len(x), outputs, *windows.shape[2:4], dtype=torch.int64)
    for o in range(outputs):
        for c in range(channels):
            for i in range(kernel):
                for j in range(kernel):
                    term = windows[:, c, :, :, i, j] >> int(-exponent[o, c, i, j])
                    if sign[o, c, i, j] > 0:
                        out[:, o] += term
                    elif sign[o, c, i, j] < 0:
                        out[:, o] -= term
    return out
