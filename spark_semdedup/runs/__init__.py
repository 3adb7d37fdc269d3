"""The program's runs: checked before they begin, committed phase by phase, resumable."""
