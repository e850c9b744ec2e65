"""What things cost: a machine's rates, a model's sizes, and from both the time of everything in whole nanoseconds.

May import the ground of `sim`, `policies`, `traces`.
Start with `durations.py`; `hardware.py` and `model.py` are the files behind conf/hardware and conf/model.
"""
