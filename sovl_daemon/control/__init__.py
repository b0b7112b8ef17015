"""The loop that keeps SOVL within the machine's means: measure, rule, judge, act, verify, undo.

Pure logic on explicit times, and thin shells around it. Nothing here knows the bus or loads torch.
"""
