"""A loop nest walked step by step: every tile is a set of elements, every load is counted where it happens.

Nothing here knows a formula. A tile is told from the next by its place in the loops: two that happen to hold the same
pixels (rows and kernel rows can trade places) are still loaded one after the other.
"""

import itertools

DIMS = "NGKCYXRS"
USED = {"weights": "GKCRS", "inputs": "NGCYXRS", "outputs": "NGKYX"}
WRITTEN = {"forward": "outputs", "dx": "inputs", "dw": "weights"}


def element(operand, at, stride):
    if operand == "inputs":
        return at["N"], at["G"], at["C"], at["Y"] * stride[0] + at["R"], at["X"] * stride[1] + at["S"]
    return tuple(at[d] for d in USED[operand])


def macs(box):
    """Every multiplication of a box of ranges, as {dimension: index}."""
    for place in itertools.product(*(range(*box[d]) for d in DIMS)):
        yield dict(zip(DIMS, place, strict=True))


def split(span, size):
    begin, end = span
    return [(at, min(at + size, end)) for at in range(begin, end, size)]


def boxes(box, order, size):
    """The tiles of a box, in the order of the loops, outermost first; dimensions without a loop stay whole."""
    for spans in itertools.product(*(split(box[d], size[d]) for d in order)):
        yield {**box, **dict(zip(order, spans, strict=True))}


def walk(shape, stride, dram, buffer, tile, array, pe, streamed, product):
    """Counts of one layer.

    shape, tile, array, pe: {dimension: size} of the layer, of a tile in the buffer, in the whole array and in one
    element of it; dram, buffer: the loops over the first and the second kind of tile.
    """
    whole = {d: (0, shape[d]) for d in DIMS}
    found = {f"{o} {what}": 0 for o in USED for what in ("dram", "dram again", "buffer", "buffer again", "network")}
    found |= {"cycles": 0, "iterations": 0, "active": 0, "macs": 0}
    held = {(o, level): None for o in USED for level in ("dram", "buffer")}
    seen = {(o, level): set() for o in USED for level in ("dram", "buffer")}

    def load(operand, level, place, elements):
        if held[operand, level] == place and not (level == "buffer" and operand in streamed):
            return False
        held[operand, level] = place
        found[f"{operand} {level}"] += len(elements)
        if operand == WRITTEN[product]:  # what was here before comes back as a partial sum
            found[f"{operand} {level} again"] += len(elements & seen[operand, level])
            seen[operand, level] |= elements
        return True

    for outer in boxes(whole, dram, tile):
        every = [macs(outer)]
        touched = {o: set() for o in USED}
        for at in itertools.chain(*every):
            for o in USED:
                touched[o].add(element(o, at, stride))
        for o in USED:
            load(o, "dram", tuple(outer[d] for d in USED[o]), touched[o])
        for inner in boxes(outer, buffer, array):
            chunks = [split(inner[d], pe[d]) for d in DIMS]
            work, private = [], {o: [] for o in USED}
            for spans in itertools.product(*chunks):
                mine = list(macs(dict(zip(DIMS, spans, strict=True))))
                work.append(len(mine))
                for o in USED:
                    private[o].append({element(o, at, stride) for at in mine})
            for o in USED:
                place = tuple((outer[d], inner[d]) for d in USED[o])
                if load(o, "buffer", place, set().union(*private[o])):
                    found[f"{o} network"] += sum(map(len, private[o]))
            found["cycles"] += max(work)
            found["iterations"] += 1
            found["active"] = max(found["active"], len(work))
            found["macs"] += sum(work)
    return found
