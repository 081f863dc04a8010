"""The partition of a plane by plain loops: one polygon, one unit at a time, and no affine maps at all.

Written without looking at the package's engine. Every nonlinear module is hooked; the values that enter it are
affine on a region of the layers before, so those at the region's vertices, from the network's own forward pass,
say everything. A polygon is a list of (point, values); cutting interpolates both along its edges.
"""

import torch
from torch import nn

ZERO = 1e-10  # of the largest value in the layer: for boxes about as large as their smallest features


def inputs_of_layers(net, nonlinear, points):
    """What enters each nonlinear module, ``[layer][point]``, at the points ``[n, *input]``."""
    seen, hooks = [], []
    for module in nonlinear:
        hooks.append(module.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
    with torch.no_grad():
        net(points)
    for hook in hooks:
        hook.remove()
    return seen


def keep_positive(polygon, height):
    """The part of a convex polygon where ``height(values)`` is not negative; [] if that has no area."""
    heights = [height(values) for _, values in polygon]
    if max(heights) <= 0:
        return []
    out = []
    for i, (point, values) in enumerate(polygon):
        j = (i + 1) % len(polygon)
        if heights[i] >= 0:
            out.append((point, values))
        if heights[i] * heights[j] < 0:
            w = heights[i] / (heights[i] - heights[j])
            out.append((point + w * (polygon[j][0] - point), values + w * (polygon[j][1] - values)))
    return out


def cut_by_units(polygons, n, zero):
    """Cut all polygons by each of n hinges in turn."""
    for unit in range(n):
        halves = []
        for polygon in polygons:
            for sign in (1, -1):

                def height(values, sign=sign, unit=unit):
                    z = sign * float(values[unit])
                    return 0.0 if abs(z) < zero else z

                if all(height(values) == 0 for _, values in polygon):
                    halves.append(polygon)
                    break
                if half := keep_positive(polygon, height):
                    halves.append(half)
        polygons = halves
    return polygons


def cut_by_windows(polygons, windows, zero):
    """Cut all polygons into the cells of each window's winners; ``windows`` lists the places of its entries."""
    for window in windows:
        cells = []
        for polygon in polygons:
            for k in window:
                cell = polygon
                for other in window:
                    if not cell or other == k:
                        continue

                    def height(values, k=k, other=other):
                        d = float(values[k] - values[other])
                        return 0.0 if abs(d) < zero else d

                    if all(height(values) == 0 for _, values in cell):
                        cell = cell if k < other else []
                    else:
                        cell = keep_positive(cell, height)
                if cell:
                    cells.append(cell)
        polygons = cells
    return polygons


def windows_of(pool, shape):
    """Places, in the flattened input, of the entries of every window of an unpadded max pooling."""
    channels, height, width = shape
    size, step = pool.kernel_size, pool.stride
    return [
        [(c * height + i + a) * width + j + b for a in range(size) for b in range(size)]
        for c in range(channels)
        for i in range(0, height - size + 1, step)
        for j in range(0, width - size + 1, step)
    ]


def loop_partition(net, polygon, points=lambda st: st):
    """Polygons ``[n, 2]`` of the partition; ``points`` takes plane coordinates ``[n, 2]`` to network inputs."""
    net = net.double().eval()
    kinds = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d)
    nonlinear = [m for m in net.modules() if isinstance(m, kinds) or type(m).__name__ == "Absolute"]
    regions = [torch.tensor(polygon, dtype=torch.float64)]
    for layer, module in enumerate(nonlinear):
        found = []
        seen = [inputs_of_layers(net, nonlinear, points(region))[layer] for region in regions]
        zero = ZERO * max(float(values.abs().max()) for values in seen)
        for region, values in zip(regions, seen, strict=True):
            start = [list(zip(region, values.flatten(1), strict=True))]
            if isinstance(module, nn.MaxPool2d):
                cells = cut_by_windows(start, windows_of(module, values.shape[1:]), zero)
            else:
                cells = cut_by_units(start, values[0].numel(), zero)
            found += [torch.stack([point for point, _ in cell]) for cell in cells]
        regions = found
    return [region.numpy() for region in regions]


def area(polygon):
    """Shoelace formula."""
    total = 0.0
    for (x, y), (u, v) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        total += (x * v - u * y) / 2
    return total
