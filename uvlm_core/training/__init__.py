"""How a model is trained (paper section 3 and appendix).

Belongs here: the description of a run (`spec.py`), the named scales (`profiles.py`), its networks
(`networks.py`), the rows that it sees (`pool.py`), in which stages (`stages.py`), the training
loops (`loop.py`, `stacked.py`), the optimiser (`muon.py`), and the check for divergence
(`divergence.py`). Not here: the scores of a model (`scoring/`), records (`runs/`).
"""
