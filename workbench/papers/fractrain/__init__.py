"""FracTrain: bits saved over time and by input (Fu et al., NeurIPS 2020, arXiv 2012.13113)."""
