"""The thin library behind `notebooks/`, a replication of arXiv 2505.23043.

Its question: does one vision-language model that both understands and generates beat two that do
one thing each? A package imports only from those before it: data -> models -> training -> scoring
-> runs -> pretraining -> studies.
"""
