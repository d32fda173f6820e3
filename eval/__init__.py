"""Benchmarks: questions, answers by the stock `generate`, official scores, tables and pictures.

The flow is one way: probe -> questions -> encoding -> answer -> pope, mme -> results -> table,
plot, pictures; `grid` runs it. Nothing is imported here, so that the command line starts at once.
"""
