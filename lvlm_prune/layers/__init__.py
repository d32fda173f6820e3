"""Stages inside the LLM: drop visual tokens before chosen decoder layers."""
