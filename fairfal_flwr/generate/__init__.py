"""What follows from the code and is written by `make config`.

The module `config.generated`, the defaults in pyproject.toml, and pages and tables of
the documentation. It knows all other rooms and none knows it: it never runs in an app.
"""
