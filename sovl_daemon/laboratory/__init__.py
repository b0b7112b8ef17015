"""What the daemon is tried and fitted with: simulated machines, minds and questions, and plots.

Commands of the user load it (`sovl judge fit|eval|simulate`, `sovl mind simulate`), nothing else.
"""
