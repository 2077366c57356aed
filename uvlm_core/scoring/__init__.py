"""How good a model is, and what is in it (paper section 4).

Belongs here: the test sets, what an answer and a generated image are worth, how well two image
spaces agree, and what probes and patching find. Not here: which runs are compared and what follows
from it (`studies/`), how scores are kept (`runs/store.py`).
"""
