"""The agents of SOVL, one a file. Each is found by its entry point in the group `sovl.agents`."""
