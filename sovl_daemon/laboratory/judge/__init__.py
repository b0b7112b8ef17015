"""How the judge is fitted and scored: simulated questions with their truth, and fits of a probe."""
