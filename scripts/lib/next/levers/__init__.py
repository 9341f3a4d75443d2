"""Levers: one file each, a function that reads a finding and proposes another search, or says why it does not."""
