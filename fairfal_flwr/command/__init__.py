"""The command `fairfal`: runs, tables, pictures, and the check of a host."""
