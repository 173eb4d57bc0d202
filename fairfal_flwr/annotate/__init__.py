"""The labeling page: people answer what a client asks, in a browser.

It reads a client's ledger and sheet and writes answers; it knows no model, no server.
"""
