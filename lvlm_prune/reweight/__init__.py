"""Reweighting of the LLM's attention, under its fused kernels."""
