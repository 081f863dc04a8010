"""The partition of a plane by a small ReLU network, in rational arithmetic: nothing is rounded."""

from fractions import Fraction


def cut(polygon, line):
    """The parts of a convex polygon where a x + b y + c is positive, and where it is negative; empty if none."""
    values = [line[0] * x + line[1] * y + line[2] for x, y in polygon]
    parts = []
    for sign in (1, -1):
        part = []
        for i, (point, value) in enumerate(zip(polygon, values, strict=True)):
            (x, y), (u, v), other = point, polygon[i - 1], values[i - 1]
            if value * other < 0:
                t = other / (other - value)
                part.append((u + t * (x - u), v + t * (y - v)))
            if sign * value >= 0:
                part.append(point)
        parts.append(part if area(part) else [])
    return parts


def area(polygon):
    """By the shoelace formula, of vertices counter-clockwise."""
    return sum(polygon[i - 1][0] * y - x * polygon[i - 1][1] for i, (x, y) in enumerate(polygon)) / 2


def regions(layers, polygon):
    """Polygons and the affine maps of their logits; ``layers`` are (weight, bias) with ReLU between them."""
    exact = [([[Fraction(w) for w in row] for row in weight], [Fraction(b) for b in bias]) for weight, bias in layers]
    found = [([(Fraction(x), Fraction(y)) for x, y in polygon], [(1, 0, 0), (0, 1, 0)])]
    for number, (weight, bias) in enumerate(exact):
        behind = []
        for part, maps in found:
            units = []
            for row, b in zip(weight, bias, strict=True):
                terms = [sum(w * one[i] for w, one in zip(row, maps, strict=True)) for i in range(3)]
                units.append((terms[0], terms[1], terms[2] + b))
            children = [(part, [])]
            for unit in units:
                if number + 1 == len(exact):
                    children = [(child, [*signs, unit]) for child, signs in children]
                else:
                    halves = [
                        (half, s, of)
                        for child, of in children
                        for half, s in zip(cut(child, unit), (1, 0), strict=True)
                    ]
                    children = [(half, [*of, tuple(s * n for n in unit)]) for half, s, of in halves if half]
            behind += children
        found = behind
    return found


def winners(found):
    """The area that each class has won, of `regions`."""
    won = [Fraction(0)] * len(found[0][1])
    for polygon, logits in found:
        for label, mine in enumerate(logits):
            part = polygon
            for other, theirs in enumerate(logits):
                line = tuple(a - b for a, b in zip(mine, theirs, strict=True))
                if other != label and part:
                    tie = not any(line)
                    part = (part if label < other else []) if tie else cut(part, line)[0]
            won[label] += area(part)
    return won
