"""Checks of a session and its executors before a run: facts (``probe``) and advice (``rules``)."""
