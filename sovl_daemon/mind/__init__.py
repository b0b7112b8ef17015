"""The mind in numbers: confidence, temperament and what they influence.

Small pure functions and frozen states, without tensors, bus or files.
"""
