"""`python -m fairfal_flwr.generate`, which `make config` calls, writes all of it."""

from fairfal_flwr.generate.write import main

main()
