"""Grids of overrides: named sweeps, their expansion into cells, and composition of many cells."""
