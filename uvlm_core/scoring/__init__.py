"""Scores of models, and analyses of their hidden states (paper section 4).

Belongs here: the test sets, scores of answers and generated images, alignment of image spaces,
linear probes and activation patching. Not here: which runs are compared and what follows from it
(`studies/`), how scores are kept (`runs/store.py`).
"""
