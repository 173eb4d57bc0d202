"""`python -m fairfal_flwr.config` writes what follows from the code: `make config`."""

from fairfal_flwr.config.write import main

main()
