"""How the judge is made and checked: simulated questions, the fitted probe, its scores."""
