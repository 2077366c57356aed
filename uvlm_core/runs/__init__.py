"""How runs are carried out and kept (no section of the paper).

A spec has one record (`store.py`). A grid loads the records that exist and makes the others
(`grid.py`): each is trained and scored (`carry_out.py`) by a process on this machine or a cluster
(`backends.py`). `launch.py` carries out one run on several GPUs, and `packs.py` carries records
between machines. Not here: which runs a study needs (`studies/`).
"""
