"""What to try next: findings, levers, the frontier, the HANDOFF."""
