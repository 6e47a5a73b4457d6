"""Figures of records: ``draw(kind, rows)`` in :mod:`quantexp.figures.draw`, one file per figure."""
