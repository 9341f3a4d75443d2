"""What measurements mean: records with their context, comparison, the champion."""
