"""Max-affine spline insights into pruning: partitions of the input space, and pruning by them."""
