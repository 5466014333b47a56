"""Three regions on one machine, hurt in every way: `python -m regions`, `make e2e-regions`."""
