"""Before and after a run: what it will cost, and what it missed."""
