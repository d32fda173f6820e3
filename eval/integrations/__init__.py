"""Pruned models inside other evaluation harnesses; see the README of this folder."""
