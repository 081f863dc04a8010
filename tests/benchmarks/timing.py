"""The clock of these benchmarks."""

import time


def seconds(function, repeats=5, clock=time.perf_counter):
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        begin = clock()
        function()
        times.append(clock() - begin)
    return min(times)
