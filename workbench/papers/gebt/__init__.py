"""GEBT: early-bird tickets in graph networks (You et al., AAAI 2022, arXiv 2103.00794)."""
