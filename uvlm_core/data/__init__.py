"""What models learn from (paper section 3, data).

Belongs here: the drawn Smart Watch world, its attributes, what is said about images, LLaVA JSON,
captioned pictures, and how all of it becomes tokens; and the reading of answers, which is the way
back. Not here: encoders (`models/`), which rows a run sees (`training/pool.py`), what an answer is
worth (`scoring/answers.py`).
"""
