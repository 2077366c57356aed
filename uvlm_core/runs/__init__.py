"""How runs are carried out and kept (no section of the paper).

A spec leads to one record (`store.py`). A grid loads the records that exist and has the others made
(`grid.py`): each is trained and scored (`carry_out.py`) by processes of this machine or of a
cluster (`backends.py`). `launch.py` carries out one run on several GPUs. Not here: which runs a
study needs.
"""
