"""Trained models and records to explore by hand (no section of the paper).

Belongs here: the shipped trained models and how they were made (`model.py`, `making.py`), the
widgets of `notebooks/playground.ipynb` (`playground.py`), those of `notebooks/explorer.ipynb` and
what they show (`explorer.py`, `views.py`), and JupyterLab's settings (`lab/`). Not here: anything
that a figure or a verdict rests on.
"""
