"""CPT: efficient training via cyclic precision (Fu et al., ICLR 2021, arXiv 2101.09868)."""
