"""SmartDeal: weights as sparse power-of-two coefficients times a small basis (arXiv 2101.01163)."""
