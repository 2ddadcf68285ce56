"""Synthetic data: generators whose rows are kept only if a checker passed them (paper 4.2.2, 4.3)."""
