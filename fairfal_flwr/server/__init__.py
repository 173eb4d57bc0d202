"""The campaign: annotation and training rounds, cycle by cycle."""
