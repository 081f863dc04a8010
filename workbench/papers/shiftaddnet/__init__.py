"""ShiftAddNet: a hardware-inspired deep network (You et al., NeurIPS 2020, arXiv 2010.12785)."""
