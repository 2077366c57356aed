"""How the shipped frozen networks were made (paper section 3 names the authors' own).

Belongs here: the data, the training and the model card of each network in `pretrained/`, one file a
family, and the loop that they share. Not here: what the networks are (`models/`). No run needs this
package; `studies/frozen_networks.py` asks it for the held-out watches and captions.
"""
