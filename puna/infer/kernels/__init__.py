"""Inference on a CPU at the speed of its memory: C compiled on first use, a whole step of the model in one call."""
