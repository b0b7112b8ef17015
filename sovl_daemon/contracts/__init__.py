"""What each agent can be asked, and what it answers: a module for each who answers."""
