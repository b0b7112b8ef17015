"""The agents of the health loop: who measures, who judges, who acts, and its actions."""
