"""How a model is trained (paper section 3 and appendix).

Belongs here: a run as a value (`spec.py`), the named scales (`profiles.py`), the rows that a run
sees (`pool.py`), the training itself (`loop.py`), its optimiser, and what ends a training that
diverges. Not here: how good a model is (`scoring/`), records (`runs/`).
"""
