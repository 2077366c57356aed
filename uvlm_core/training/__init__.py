"""How a model is trained (paper section 3 and appendix).

Belongs here: a run as a value (`spec.py`), the named scales (`profiles.py`), the rows that a run
sees (`pool.py`), in which stages (`stages.py`), the training loop (`loop.py`), its optimiser
(`muon.py`), and the check for divergence (`divergence.py`). Not here: the scores of a model
(`scoring/`), records (`runs/`).
"""
