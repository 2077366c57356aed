"""uvlm_core: does one vision-language model that both understands and generates beat two that do
one thing each?

The thin library behind `notebooks/`, replicating arXiv 2505.23043. Data flow, one module each:
smart_watch -> conversations -> processing -> vision -> modeling -> training -> generation ->
scoring, fidelity -> runs -> experiments -> figures.
"""
