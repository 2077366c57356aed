"""The networks: what is trained and what stays frozen (paper section 3, figure 2).

Belongs here: the unified model, the kinds of encoders and generation heads, the frozen networks
that read and draw images, distortions of an image space, and decoding. Not here: how a model is
trained (`training/`), how the shipped networks were made (`pretraining/`).
"""
