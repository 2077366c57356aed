"""What models learn from (paper section 3, data).

Belongs here: the Smart Watch world, its attributes, conversations about images or descriptions,
LLaVA JSON, captioned pictures, token ids, and the parsing of answers. Not here: encoders
(`models/`), which rows a run sees (`training/pool.py`), the scores of answers
(`scoring/answers.py`).
"""
