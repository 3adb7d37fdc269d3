"""Before and after a run: what it will cost, what it missed, and how that looks."""
