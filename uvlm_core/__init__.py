"""The thin library behind `notebooks/`, a replication of arXiv 2505.23043.

Its question: does one vision-language model that both understands and generates beat two that do
one thing each? Each package imports only from those before it: data -> models -> training ->
scoring -> runs -> pretraining -> studies -> explore.
"""


def load(name):
    """Load a trained model to talk to, such as "VQ-VQ unified"; see `uvlm_core.explore.model`."""
    from uvlm_core.explore.model import load  # late: it imports torch

    return load(name)
