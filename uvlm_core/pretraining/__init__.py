"""How the shipped frozen networks were made (paper section 3 names the authors' networks).

Belongs here: data, training and model card of each network in `pretrained/`, one file per family,
and the training loop that they share. Not here: the networks themselves (`models/`). No run needs
this package. `studies/frozen_networks.py` takes the captions of held-out watches from it.
"""
